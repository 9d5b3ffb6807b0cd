// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Peers as sources.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::stream::{self, BoxStream};
use futures::StreamExt;
use lru::LruCache;
use peerfs_exchange::scheduler::ContentId;
use peerfs_exchange::{Have, Priority, Progress, Suggestion};
use peerfs_format::{Digest, METADATA_MAX};
use peerfs_peer::{ChunkStream, Event, Node, PeerId, RequestError};
use peerfs_store::Pack;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::board::Board;
use super::following::Following;
use super::{
    ChunkReply, Discovery, News, Registry, Source, SourceError, SourceId, Subject, HAVE_TIMEOUT,
};
use crate::disk::Disk;

/// The name under which the bytes of all peers are counted.
pub const PEERS: &str = "peers";
/// How long a metadata blob may take that keeps coming; a stalled peer is noticed much earlier.
const BLOB_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// How long a peer may take to suggest something: on a full line it comes behind chunks.
const SUGGESTION_TIMEOUT: Duration = Duration::from_secs(10);
/// The neighbours that are asked what they have of a pack by other images.
const NEIGHBOURS_MAX: usize = 16;
/// The peers that are remembered by their ids as sources.
const PEERS_MAX: NonZeroUsize = NonZeroUsize::new(4096).expect("4096 is not 0");

/// The name of a peer as a source.
pub fn peer_name(peer: &PeerId) -> String {
    format!("peer {peer}")
}

/// What a peer is known by where nodes share work: the last bytes of its id, which are those of a key.
pub fn peer_identity(peer: &PeerId) -> u64 {
    let bytes = peer.to_bytes();
    let last = bytes.iter().rev().take(8);
    last.fold(0, |identity, &byte| identity << 8 | u64::from(byte))
}

/// Finds peers. Clones find the same ones.
#[derive(Clone)]
pub struct Peers {
    inner: Arc<Inner>,
}

struct Inner {
    node: Node,
    registry: Arc<Registry>,
    disk: Disk,
    /// Those met last.
    ids: Arc<Mutex<LruCache<PeerId, SourceId>>>,
    following: Following,
    board: Arc<Board>,
}

impl Peers {
    /// The peers that this node knows. What images consist of is read from the store behind `disk`.
    pub fn new(node: Node, registry: Arc<Registry>, disk: Disk) -> Self {
        Peers {
            inner: Arc::new(Inner {
                node,
                registry,
                disk,
                ids: Arc::new(Mutex::new(LruCache::new(PEERS_MAX))),
                following: Following::default(),
                board: Arc::default(),
            }),
        }
    }

    pub(super) fn node(&self) -> &Node {
        &self.inner.node
    }

    pub(super) fn disk(&self) -> &Disk {
        &self.inner.disk
    }

    pub(super) fn following(&self) -> &Following {
        &self.inner.following
    }

    pub(super) fn board(&self) -> &Arc<Board> {
        &self.inner.board
    }

    /// Neighbours who do not tell what they have may have parts of a pack by other images: each is asked for it by
    /// its index, which it may not have.
    fn ask_neighbours(
        &self,
        pack: &Pack,
        known: &HashSet<PeerId>,
    ) -> BoxStream<'static, (PeerId, Have)> {
        let (digest, index) = (*pack.digest(), pack.record().index_digest);
        let deadline = Instant::now() + HAVE_TIMEOUT;
        let peers = self.inner.node.peers().into_iter();
        let is_asked = |id: &PeerId| self.inner.node.is_neighbour(*id) && !known.contains(id);
        let near = peers.filter(|peer| is_asked(&peer.id));
        let questions = near.take(NEIGHBOURS_MAX).map(|peer| {
            let node = self.inner.node.clone();
            async move {
                let have = node.have_pack(peer.id, digest, index, deadline).await;
                let have = have.ok().filter(|have| *have != Have::Absent)?;
                Some((peer.id, have))
            }
        });
        let answers: FuturesUnordered<_> = questions.collect();
        answers.filter_map(|answer| async move { answer }).boxed()
    }

    /// The same for the same peer, as long as it is remembered.
    pub(super) fn id(&self, peer: PeerId) -> SourceId {
        // A cache is valid after every step.
        let ids = &self.inner.ids;
        let mut ids = ids.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = ids.get(&peer) {
            return *id;
        }
        let source = PeerSource {
            node: self.inner.node.clone(),
            peer,
            name: peer_name(&peer),
            registry: Arc::downgrade(&self.inner.registry),
            ids: Arc::clone(&self.inner.ids),
        };
        let id = self.inner.registry.register(Arc::new(source));
        if let Some((_, forgotten)) = ids.push(peer, id) {
            self.inner.registry.remove(forgotten);
        }
        id
    }
}

impl Discovery for Peers {
    /// Those that tell unasked what they have of a pack are not asked: it is in the news.
    fn find(&self, content: Digest, subject: &Subject) -> BoxStream<'static, (SourceId, Have)> {
        let manifest = subject.manifest();
        let mut known = HashSet::new();
        if let Subject::Pack { pack, .. } = subject {
            self.inner.following.want(manifest, self);
            known.extend(self.inner.following.heard(&manifest));
            self.inner.board.repeat(ContentId::Pack {
                pack: content,
                index: pack.record().index_digest,
            });
        }
        let node = &self.inner.node;
        let neighbours = match subject {
            Subject::Pack { pack, .. } => self.ask_neighbours(pack, &known),
            Subject::Blob { .. } => stream::empty().boxed(),
        };
        let found = node.find_providers(content, Some(manifest), known);
        let peers = self.clone();
        stream::select(found, neighbours)
            .map(move |(peer, have)| (peers.id(peer), have))
            .boxed()
    }

    fn newcomers(&self) -> BoxStream<'static, SourceId> {
        let start = (self.inner.node.subscribe(), self.clone());
        stream::unfold(start, |(mut events, peers)| async {
            loop {
                match events.recv().await {
                    Ok(Event::PeerConnected(peer)) => {
                        let id = peers.id(peer);
                        return Some((id, (events, peers)));
                    }
                    Ok(Event::PeerDisconnected(peer)) => peers.inner.board.gone(peers.id(peer)),
                    Ok(Event::PeerMeasured(peer, round_trip)) => {
                        peers.inner.board.measured(peers.id(peer), round_trip);
                    }
                    // Those that were missed are found by the next search.
                    Err(RecvError::Lagged(_)) => (),
                    Err(RecvError::Closed) => return None,
                }
            }
        })
        .boxed()
    }

    fn news(&self) -> BoxStream<'static, News> {
        let board = Arc::clone(&self.inner.board);
        let next = |board: Arc<Board>| async move { Some((board.next().await, board)) };
        stream::unfold(board, next).boxed()
    }
}

/// What a peer delivers, as sources do.
fn delivered(chunks: ChunkStream) -> BoxStream<'static, ChunkReply> {
    chunks.map(|reply| reply.map_err(SourceError::from)).boxed()
}

/// A peer as a source.
struct PeerSource {
    node: Node,
    peer: PeerId,
    name: String,
    registry: Weak<Registry>,
    ids: Arc<Mutex<LruCache<PeerId, SourceId>>>,
}

impl From<RequestError> for SourceError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::NotFound | RequestError::NotServed => SourceError::Missing,
            RequestError::Busy { retry_after } => SourceError::Busy { retry_after },
            RequestError::Undecodable => SourceError::Wrong,
            error => SourceError::failed(error),
        }
    }
}

#[async_trait]
impl Source for PeerSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn account(&self) -> &str {
        PEERS
    }

    fn identity(&self) -> Option<u64> {
        Some(peer_identity(&self.peer))
    }

    async fn have(&self, content: Digest, _subject: &Subject) -> Result<Have, SourceError> {
        let deadline = Instant::now() + HAVE_TIMEOUT;
        Ok(self.node.have(self.peer, content, deadline).await?)
    }

    async fn fetch_blob(
        &self,
        blob: Digest,
        priority: Priority,
        progress: &Progress,
    ) -> Result<Bytes, SourceError> {
        let deadline = Instant::now() + BLOB_TIMEOUT;
        let fetch =
            self.node
                .fetch_blob(self.peer, blob, METADATA_MAX, priority, deadline, progress);
        Ok(fetch.await?)
    }

    fn fetch_chunks(
        &self,
        pack: &Arc<Pack>,
        chunks: Vec<u32>,
        priority: Priority,
        progress: &Progress,
    ) -> BoxStream<'static, ChunkReply> {
        let (digest, index) = (*pack.digest(), pack.record().index_digest);
        let node = &self.node;
        delivered(node.fetch_chunks(self.peer, digest, index, &chunks, priority, progress))
    }

    fn fetch_through(
        &self,
        pack: &Arc<Pack>,
        chunks: Vec<u32>,
        priority: Priority,
        progress: &Progress,
    ) -> BoxStream<'static, ChunkReply> {
        let (digest, index) = (*pack.digest(), pack.record().index_digest);
        let node = &self.node;
        delivered(node.fetch_through(self.peer, digest, index, &chunks, priority, progress))
    }

    async fn suggest(&self, pack: &Arc<Pack>, count: usize) -> Result<Suggestion, SourceError> {
        let index = pack.record().index_digest;
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let deadline = Instant::now() + SUGGESTION_TIMEOUT;
        let suggestion = self
            .node
            .suggestion(self.peer, *pack.digest(), index, count, deadline);
        Ok(suggestion.await?)
    }

    async fn ban(&self, reason: &str) {
        self.node.ban(self.peer, reason).await;
        // When it is met again it is another source: what the scheduler has against this one holds for ever, and a ban
        // does not.
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(id), Some(registry)) = (ids.pop(&self.peer), self.registry.upgrade()) {
            registry.remove(id);
        }
    }
}
