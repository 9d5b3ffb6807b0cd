// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The blobs of a mirror beside those of a store, as peers get them.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use peerfs_exchange::frame::Encoding;
use peerfs_exchange::limits::piece_size;
use peerfs_exchange::{Have, Priority};
use peerfs_format::Digest;
use peerfs_peer::{BlobPiece, Provider, Work};
use tokio::task::spawn_blocking;

use crate::blobs::Blobs;
use crate::swarm::CHUNK;

/// What a node serves that has a mirror: its store, and what is in the mirror alone.
pub struct Served {
    store: Arc<dyn Provider>,
    blobs: Arc<Blobs>,
}

impl Served {
    /// Serves both.
    pub fn new(store: Arc<dyn Provider>, blobs: Arc<Blobs>) -> Self {
        Served { store, blobs }
    }

    /// A part of a blob of the mirror, and how long that is.
    async fn read(
        &self,
        digest: Digest,
        offset: u64,
        count: impl FnOnce(u64) -> u64 + Send + 'static,
        work: &Work,
    ) -> Option<(Vec<u8>, u64)> {
        if !work.charge(self.blobs.cost(&digest)?) {
            return None;
        }
        let blobs = Arc::clone(&self.blobs);
        let read = spawn_blocking(move || {
            let blob = blobs.find(&digest).ok()??;
            let count = usize::try_from(count(blob.length)).ok()?;
            // What the disk has changed is not given out: nobody could tell the disk's lie from the node's.
            Some((blob.read(offset, count).ok()?, blob.length))
        });
        read.await.ok().flatten()
    }
}

#[async_trait]
impl Provider for Served {
    async fn blob_length(&self, blob: &Digest, work: &Work) -> Option<u64> {
        let own = self.store.blob_length(blob, work).await;
        own.or_else(|| self.blobs.length(blob))
    }

    fn blob_max(&self) -> u64 {
        self.store.blob_max()
    }

    async fn read_blob(
        &self,
        blob: &Digest,
        zstd: bool,
        offset: u64,
        work: &Work,
    ) -> Option<BlobPiece> {
        if let Some(piece) = self.store.read_blob(blob, zstd, offset, work).await {
            return Some(piece);
        }
        let count = move |length| u64::from(piece_size(length, offset));
        let (data, sent_length) = self.read(*blob, offset, count, work).await?;
        Some(BlobPiece {
            encoding: Encoding::Plain,
            sent_length,
            data: data.into(),
        })
    }

    async fn have(&self, digest: &Digest, work: &Work) -> Have {
        match self.store.have(digest, work).await {
            Have::Absent if self.blobs.length(digest).is_some() => Have::Complete,
            have => have,
        }
    }

    async fn packs_of(&self, manifest: &Digest, work: &Work) -> Option<Arc<[Digest]>> {
        self.store.packs_of(manifest, work).await
    }

    async fn have_by(&self, pack: &Digest, index: &Digest, work: &Work) -> Option<Have> {
        self.store.have_by(pack, index, work).await
    }

    async fn lend_index(&self, pack: &Digest, index: &Digest, blob: Bytes, work: &Work) {
        self.store.lend_index(pack, index, blob, work).await;
    }

    async fn whole_pack(&self, pack: &Digest, index: &Digest, work: &Work) -> Option<u32> {
        self.store.whole_pack(pack, index, work).await
    }

    async fn fetch_through(&self, pack: &Digest, index: &Digest, number: u32, priority: Priority) {
        self.store
            .fetch_through(pack, index, number, priority)
            .await;
    }

    async fn read_chunk(
        &self,
        pack: &Digest,
        index: &Digest,
        number: u32,
        work: &Work,
    ) -> Option<Bytes> {
        if pack != index {
            return self.store.read_chunk(pack, index, number, work).await;
        }
        if !work.charge(CHUNK) {
            return None;
        }
        let offset = u64::from(number) * CHUNK;
        let (bytes, _) = self.read(*pack, offset, |_| CHUNK, work).await?;
        (!bytes.is_empty()).then(|| bytes.into())
    }
}
