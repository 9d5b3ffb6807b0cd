// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The store as those see it who fetch from it by HTTP. They name a pack and no index, and take what comes for the pack: so
//! one is given out when what the index says of it has had the pack's digest once. Every chunk is verified again when it is
//! read, as for peers.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use lru::LruCache;
use peerfs_format::Digest;
use peerfs_peer::{Provider, Work};
use peerfs_serve::{Content, Piece, Served, ServedPack};
use peerfs_store::Pack;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tracing::debug;

use super::{lock, StoreProvider};

/// Packs that are hashed at a time.
const PROOFS: usize = 2;
/// Packs of which it is remembered which index is right, or that one is not.
const PACKS_MAX: NonZeroUsize = NonZeroUsize::new(65536).expect("65536 is not 0");
/// How long an index counts as wrong: what is here of the pack may have been damaged.
const WRONG_LIFE: Duration = Duration::from_secs(10 * 60);

/// The store behind an HTTP server.
pub struct HttpProvider {
    store: Arc<StoreProvider>,
    /// The index of each pack that has proved right.
    proven: Mutex<LruCache<Digest, Digest>>,
    /// Packs with an index that did not, and when.
    wrong: Mutex<LruCache<(Digest, Digest), Instant>>,
    proofs: Semaphore,
}

impl HttpProvider {
    /// Gives out what this does.
    pub fn new(store: Arc<StoreProvider>) -> Self {
        HttpProvider {
            store,
            proven: Mutex::new(LruCache::new(PACKS_MAX)),
            wrong: Mutex::new(LruCache::new(PACKS_MAX)),
            proofs: Semaphore::new(PROOFS),
        }
    }

    /// A pack of which all is here, or was when it proved right.
    async fn pack(&self, digest: Digest) -> Option<OpenPack> {
        let indexes = self.store.packs.indexes_of(digest);
        if indexes.is_empty() {
            return None;
        }
        if let Some(open) = self.proven(digest).await {
            return Some(open);
        }
        // Never closed. Whoever waited may find it proven.
        let _permit = self.proofs.acquire().await;
        if let Some(open) = self.proven(digest).await {
            return Some(open);
        }
        for index in indexes {
            let is_wrong = |since: &Instant| since.elapsed() < WRONG_LIFE;
            if lock(&self.wrong)
                .get(&(digest, index))
                .is_some_and(is_wrong)
            {
                continue;
            }
            let Some(open) = self.open(digest, index).await else {
                continue;
            };
            if !open.pack.is_whole() {
                continue;
            }
            if open.is_right().await {
                lock(&self.proven).put(digest, index);
                return Some(open);
            }
            debug!(pack = %digest, %index, "what is here of a pack is not the pack");
            lock(&self.wrong).put((digest, index), Instant::now());
        }
        None
    }

    async fn proven(&self, digest: Digest) -> Option<OpenPack> {
        let index = lock(&self.proven).get(&digest).copied()?;
        self.open(digest, index).await
    }

    async fn open(&self, digest: Digest, index: Digest) -> Option<OpenPack> {
        let work = Work::unlimited();
        let pack = self.store.pack(digest, index, &work).await?;
        let store = Arc::clone(&self.store);
        Some(OpenPack { store, pack, work })
    }
}

#[async_trait]
impl Served for HttpProvider {
    async fn find(&self, digest: &Digest) -> Option<Content> {
        if let Some(open) = self.pack(*digest).await {
            return Some(Content::Pack(Arc::new(open)));
        }
        // What an image calls a pack need not be one.
        let blob = self.store.metadata(*digest, &Work::unlimited()).await;
        blob.map(Content::Blob)
    }
}

/// A pack that can be read.
struct OpenPack {
    store: Arc<StoreProvider>,
    pack: Arc<Pack>,
    work: Work,
}

impl OpenPack {
    /// Whether its chunks together have its digest.
    async fn is_right(&self) -> bool {
        let mut hash = Sha256::new();
        for chunk in 0..self.pack.record().chunk_count {
            match self.read(chunk).await {
                Some(bytes) => hash.update(&bytes),
                None => return false,
            }
        }
        Digest(hash.finalize().into()) == *self.pack.digest()
    }
}

#[async_trait]
impl ServedPack for OpenPack {
    fn length(&self) -> u64 {
        self.pack.record().stored_length
    }

    fn pieces(&self, range: &Range<u64>) -> Option<Vec<Piece>> {
        let record = self.pack.record();
        let unreadable = self
            .store
            .unreadable_chunks(record.digest, record.index_digest);
        let mut pieces = Vec::new();
        for chunk in 0..record.chunk_count {
            let place = self.pack.chunk(chunk).ok()?;
            let start = u64::from(place.stored_offset);
            let end = start + u64::from(place.stored_length);
            if end <= range.start {
                continue;
            }
            if start >= range.end {
                break;
            }
            if !self.pack.has(chunk) || unreadable.contains(&chunk) {
                return None;
            }
            let part = range.start.max(start) - start..range.end.min(end) - start;
            pieces.push(Piece {
                chunk,
                part: part.start as usize..part.end as usize,
            });
        }
        Some(pieces)
    }

    async fn read(&self, chunk: u32) -> Option<Bytes> {
        let record = self.pack.record();
        let (pack, index) = (&record.digest, &record.index_digest);
        self.store.read_chunk(pack, index, chunk, &self.work).await
    }
}
