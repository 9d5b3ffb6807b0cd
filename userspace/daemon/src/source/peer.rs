// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A peer as a source.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::StreamExt;
use peerfs_format::{Digest, METADATA_MAX};
use peerfs_peer::{Have, Node, PeerId, Priority, RequestError};
use peerfs_store::Pack;
use tokio::time::Instant;

use super::{ChunkReply, Source, SourceError, Subject, HAVE_TIMEOUT};

/// How long a metadata blob may take that keeps coming; a stalled peer is noticed much earlier.
const BLOB_TIMEOUT: Duration = Duration::from_secs(60);

/// A peer as a source.
pub struct PeerSource {
    node: Node,
    peer: PeerId,
}

impl PeerSource {
    /// The peer with this id.
    pub fn new(node: Node, peer: PeerId) -> Self {
        PeerSource { node, peer }
    }
}

#[async_trait]
impl Source for PeerSource {
    async fn have(&self, content: Digest, _subject: &Subject) -> Result<Have, SourceError> {
        let deadline = Instant::now() + HAVE_TIMEOUT;
        Ok(self.node.have(self.peer, content, deadline).await?)
    }

    async fn fetch_blob(&self, blob: Digest, priority: Priority) -> Result<Bytes, SourceError> {
        let deadline = Instant::now() + BLOB_TIMEOUT;
        self.node
            .fetch_blob(self.peer, blob, METADATA_MAX, priority, deadline)
            .await
            .map_err(|error| match error {
                RequestError::NotFound => SourceError::Missing,
                error => error.into(),
            })
    }

    fn fetch_chunks(
        &self,
        pack: &Arc<Pack>,
        chunks: Vec<u32>,
        priority: Priority,
    ) -> BoxStream<'static, ChunkReply> {
        let index = pack.record().index_digest;
        let replies = self
            .node
            .fetch_chunks(self.peer, *pack.digest(), index, &chunks, priority);
        stream::unfold(replies, |mut replies| async {
            let reply = replies.next().await?;
            Some((reply.map_err(SourceError::from), replies))
        })
        .boxed()
    }

    async fn ban(&self, reason: &str) {
        self.node.ban(self.peer, reason).await;
    }
}
