// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Peers to fetch blobs from. Short blobs come as the protocol has blobs; of long ones come the [`CHUNK`]s of a pack whose index
//! is called as the pack itself (`Documentation/peer-protocol.md`).

use std::collections::{BTreeMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use lru::LruCache;
use peerfs_exchange::{Have, Priority};
use peerfs_format::{Digest, CHUNK_MAX, METADATA_MAX};
use peerfs_peer::{Node, PeerId, RequestError};
use peerfs_registry::DOCUMENT_MAX;
use peerfs_text::Causes;
use tokio::sync::watch;
use tokio::time::{timeout_at, Instant};

use crate::blobs::{Blob, Blobs, CannotBegin};
use crate::flight::{Problem, Progress, Writer};
use crate::mirror::Kind;

/// Bytes of a long blob that come as one chunk; the last one has what is left.
pub(crate) const CHUNK: u64 = CHUNK_MAX as u64;
/// Chunks that are asked for at once.
const CHUNKS: u32 = 64;
/// How long to look for somebody who has it.
const SEARCH_MAX: Duration = Duration::from_secs(1);
/// How long a short blob may take that keeps coming, and as many chunks of a long one as are asked for at once: somebody waits,
/// and the registry may be faster.
const BLOB_MAX: Duration = Duration::from_secs(5 * 60);
/// Peers that are tried before the registry is asked.
const PEERS_MAX: usize = 3;
/// Images that others are told of.
const PROVIDED_MAX: NonZeroUsize = NonZeroUsize::new(256).expect("256 is not 0");
/// Blobs of which is remembered what image they belong to.
const WHOLES_MAX: NonZeroUsize = NonZeroUsize::new(16 * 1024).expect("16384 is not 0");

/// The peers, as places that may have a blob.
pub(crate) struct Swarm {
    node: Node,
    /// The indexes and manifests that this node is announced to have.
    provided: Mutex<LruCache<Digest, ()>>,
    /// What is known of blobs by the manifests that name them.
    wholes: Mutex<LruCache<Digest, Named>>,
}

/// What a manifest says of a blob.
#[derive(Clone, Copy)]
struct Named {
    /// The manifest: who has the blob is found by it.
    by: Digest,
    /// Bytes of the blob.
    size: Option<u64>,
}

/// How long a blob is, as far as it is known before.
#[derive(Clone, Copy)]
struct Bounds {
    size: Option<u64>,
    most: u64,
}

/// Why a peer did not send a blob.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("it says that the blob has {0} bytes")]
    Length(u64),
    #[error("it takes too long")]
    Slow,
    #[error("it has not all of it")]
    Incomplete,
    #[error("it sent wrong bytes")]
    Wrong,
    #[error(transparent)]
    CannotBegin(CannotBegin),
    #[error("cannot keep it")]
    Disk(#[source] std::io::Error),
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::Short => Refusal::Incomplete,
            Problem::Wrong => Refusal::Wrong,
            Problem::CannotBegin(problem) => Refusal::CannotBegin(problem),
            Problem::Disk(error) => Refusal::Disk(error),
        }
    }
}

impl Swarm {
    pub(crate) fn new(node: Node) -> Self {
        Swarm {
            node,
            provided: Mutex::new(LruCache::new(PROVIDED_MAX)),
            wholes: Mutex::new(LruCache::new(WHOLES_MAX)),
        }
    }

    /// Takes note of an index or a manifest that is here, and of what it leads to.
    pub(crate) async fn learn(&self, document: Digest, bytes: &[u8]) {
        // Caches are valid after every step.
        {
            let mut wholes = self.wholes.lock().unwrap_or_else(PoisonError::into_inner);
            for link in peerfs_oci::links(bytes) {
                let (by, size) = (document, link.size);
                wholes.put(link.digest, Named { by, size });
            }
        }
        let gone = {
            let mut provided = self.provided.lock().unwrap_or_else(PoisonError::into_inner);
            if provided.get(&document).is_some() {
                return;
            }
            provided.push(document, ())
        };
        if let Some((gone, ())) = gone {
            self.node.stop_providing(gone).await;
        }
        self.node.provide(document).await;
    }

    /// A blob from a peer; None if none has it, or sends it.
    pub(crate) async fn fetch(
        &self,
        blobs: &Arc<Blobs>,
        digest: Digest,
        kind: Kind,
        progress: &watch::Sender<Progress>,
    ) -> Option<Blob> {
        let named = {
            let mut wholes = self.wholes.lock().unwrap_or_else(PoisonError::into_inner);
            wholes.get(&digest).copied()
        };
        let by = named.map(|named| named.by);
        let size = named.and_then(|named| named.size);
        let most = match (kind, size) {
            (Kind::Document, _) => DOCUMENT_MAX,
            (Kind::Blob, Some(size)) => size,
            (Kind::Blob, None) => blobs.limit(),
        };
        let bounds = Bounds { size, most };
        let mut found = self.node.find_providers(digest, by, HashSet::new());
        let mut until = Instant::now() + SEARCH_MAX;
        for _ in 0..PEERS_MAX {
            let peer = loop {
                match timeout_at(until, found.next()).await {
                    Ok(Some((peer, Have::Complete))) => break peer,
                    Ok(Some(_)) => (),
                    Ok(None) | Err(_) => return None,
                }
            };
            match self.fetch_from(peer, blobs, digest, bounds, progress).await {
                Ok(blob) => {
                    tracing::info!(blob = %digest, bytes = blob.length, %peer, "mirrored");
                    return Some(blob);
                }
                Err(error) => {
                    tracing::debug!(blob = %digest, %peer, error = %Causes(&error), "does not send it");
                    if matches!(error, Refusal::Wrong) {
                        self.node.ban(peer, "it sent wrong bytes of a blob").await;
                    }
                }
            }
            until = Instant::now() + SEARCH_MAX;
        }
        None
    }

    async fn fetch_from(
        &self,
        peer: PeerId,
        blobs: &Arc<Blobs>,
        digest: Digest,
        bounds: Bounds,
        progress: &watch::Sender<Progress>,
    ) -> Result<Blob, Refusal> {
        let deadline = Instant::now() + BLOB_MAX;
        let noted = peerfs_exchange::Progress::default();
        let priority = Priority::Readahead;
        let most = bounds.most.min(METADATA_MAX);
        let blob = self
            .node
            .fetch_blob(peer, digest, most, priority, deadline, &noted);
        match blob.await {
            Ok(bytes) => {
                let writer = Writer::begin(blobs, digest, bytes.len() as u64, progress);
                writer.put(bytes).await;
                Ok(writer.finish().await?)
            }
            Err(RequestError::TooLarge { length, .. }) => {
                // Nothing of it is proven before all of it is here, and all else makes room for it.
                if length > bounds.most || bounds.size.is_some_and(|size| length != size) {
                    return Err(Refusal::Length(length));
                }
                let writer = Writer::begin(blobs, digest, length, progress);
                let fetched = self.fetch_long(peer, digest, length, &writer).await;
                // Until it is written, so that nobody is told of this source when the next one has begun.
                let written = writer.finish().await;
                fetched?;
                Ok(written?)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn fetch_long(
        &self,
        peer: PeerId,
        digest: Digest,
        length: u64,
        writer: &Writer,
    ) -> Result<(), Refusal> {
        let count = u32::try_from(length.div_ceil(CHUNK)).map_err(|_| Refusal::Length(length))?;
        let noted = peerfs_exchange::Progress::default();
        let mut next = 0;
        while next < count {
            let numbers: Vec<u32> = (next..count.min(next.saturating_add(CHUNKS))).collect();
            let mut chunks =
                self.node
                    .fetch_chunks(peer, digest, digest, &numbers, Priority::Readahead, &noted);
            // They come in any order.
            let mut early: BTreeMap<u32, Bytes> = BTreeMap::new();
            let until = Instant::now() + BLOB_MAX;
            while let Some(answer) = timeout_at(until, chunks.next())
                .await
                .map_err(|_| Refusal::Slow)?
            {
                let (number, bytes) = answer?;
                let bytes = bytes.ok_or(Refusal::Incomplete)?;
                if bytes.len() as u64 != CHUNK.min(length - u64::from(number) * CHUNK) {
                    return Err(Refusal::Wrong);
                }
                early.insert(number, bytes);
                while let Some(bytes) = early.remove(&next) {
                    if !writer.put(bytes).await {
                        // Why, it says at its end.
                        return Ok(());
                    }
                    next += 1;
                }
            }
            if numbers.last() != Some(&(next.wrapping_sub(1))) {
                return Err(Refusal::Incomplete);
            }
        }
        Ok(())
    }
}
