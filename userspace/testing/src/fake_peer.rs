// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A node that takes part in the network and claims to have all of a store, honestly or not.

use std::future::pending;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use clap::ValueEnum;
use peerfs_exchange::frame::Encoding;
use peerfs_exchange::Have;
use peerfs_format::{Digest, METADATA_MAX};
use peerfs_peer::{BlobPiece, Identity, Multiaddr, Node, NodeConfig, Provider, Work};

use crate::source::Source;
use crate::{Error, Result};

/// The options of a run.
#[derive(clap::Args)]
pub(crate) struct Settings {
    /// The store with everything.
    #[arg(long)]
    source: PathBuf,
    /// The image that others are told of.
    #[arg(long)]
    manifest: Digest,
    /// The behaviour.
    #[arg(long)]
    behaviour: Behaviour,
    /// A node to connect to, besides those of the local network.
    #[arg(long)]
    bootstrap: Vec<Multiaddr>,
}

/// A thing that a peer may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Behaviour {
    /// Give what is asked for.
    Honest,
    /// Give metadata, and chunks with a wrong byte.
    LieAboutChunks,
    /// Give everything with a wrong byte.
    Lie,
    /// Give metadata, promise chunks, and never give one.
    Stall,
}

struct Store {
    behaviour: Behaviour,
    source: Mutex<Source>,
}

/// Serves until it is killed; prints a line for each request for bytes.
pub(crate) fn run(settings: Settings) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("start", "the runtime".as_ref()))?;
    runtime.block_on(async {
        let mut config = NodeConfig::new(Identity::generate());
        config.bootstrap = settings.bootstrap;
        let store = Store {
            behaviour: settings.behaviour,
            source: Mutex::new(Source::new(settings.source)),
        };
        let node = Node::start(config, Arc::new(store))
            .await
            .map_err(|error| Error::Finding(format!("the node can't start: {error}")))?;
        println!("node {}", node.peer_id());
        node.provide(settings.manifest).await;
        pending().await
    })
}

impl Store {
    fn with_source<T>(&self, action: impl FnOnce(&mut Source) -> T) -> T {
        action(&mut self.source.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn blob(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.with_source(|source| source.blob(digest)).ok()
    }
}

fn falsify(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
}

#[async_trait]
impl Provider for Store {
    async fn blob_length(&self, blob: &Digest, _work: &Work) -> Option<u64> {
        self.blob(blob).map(|bytes| bytes.len() as u64)
    }

    fn blob_max(&self) -> u64 {
        METADATA_MAX
    }

    async fn read_blob(
        &self,
        blob: &Digest,
        _zstd: bool,
        offset: u64,
        _work: &Work,
    ) -> Option<BlobPiece> {
        println!("blob {blob} {offset}");
        let mut bytes = self.blob(blob)?;
        if self.behaviour == Behaviour::Lie {
            falsify(&mut bytes);
        }
        BlobPiece::of(Encoding::Plain, &bytes.into(), offset)
    }

    async fn have(&self, digest: &Digest, _work: &Work) -> Have {
        match self.blob(digest) {
            Some(_) => Have::Complete,
            None => Have::Absent,
        }
    }

    async fn read_chunk(
        &self,
        pack: &Digest,
        index: &Digest,
        number: u32,
        _work: &Work,
    ) -> Option<Bytes> {
        println!("chunk {pack} {number}");
        if self.behaviour == Behaviour::Stall {
            pending::<()>().await;
        }
        let read = |source: &mut Source| source.chunks(pack, index, number..number + 1);
        let (chunks, _) = self.with_source(read).ok()?;
        let mut bytes = chunks.into_iter().next()?.bytes;
        if self.behaviour != Behaviour::Honest {
            falsify(&mut bytes);
        }
        Some(bytes.into())
    }
}
