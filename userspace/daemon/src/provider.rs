// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Serves the store to peers.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use lru::LruCache;
use peerfs_format::{Digest, METADATA_MAX};
use peerfs_peer::{ChunkMap, Have, Provider};
use peerfs_store::Error as StoreError;
use tracing::warn;

use crate::disk::{Disk, DiskError};
use crate::packs::Packs;

/// Metadata blobs that are kept in memory while peers read them piece by piece; a few hundred KiB
/// each as a rule, 16 MiB at most.
const CACHED_BLOBS: NonZeroUsize = NonZeroUsize::new(16).expect("16 is not 0");

/// The store, as peers see it. Everything is verified before it is sent, so that a damaged disk does
/// not make this node a liar.
pub struct StoreProvider {
    disk: Disk,
    packs: Arc<Packs>,
    blobs: Mutex<LruCache<Digest, Bytes>>,
}

impl StoreProvider {
    /// Serves this store.
    pub fn new(disk: Disk, packs: Arc<Packs>) -> Self {
        StoreProvider {
            disk,
            packs,
            blobs: Mutex::new(LruCache::new(CACHED_BLOBS)),
        }
    }

    /// A metadata blob. Larger blobs are packs, and those are served by the chunk.
    async fn metadata(&self, digest: Digest) -> Option<Bytes> {
        if let Some(bytes) = self.lock().get(&digest) {
            return Some(bytes.clone());
        }
        let read = self
            .disk
            .run(move |store| store.read_metadata(&digest, METADATA_MAX));
        let bytes = Bytes::from(ok_or_absent(read.await)?);
        self.lock().put(digest, bytes.clone());
        Some(bytes)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<Digest, Bytes>> {
        // A cache is valid after every step.
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Provider for StoreProvider {
    async fn blob_length(&self, blob: &Digest) -> Option<u64> {
        Some(self.metadata(*blob).await?.len() as u64)
    }

    async fn read_blob(&self, blob: &Digest, offset: u64, length: u32) -> Option<Bytes> {
        let bytes = self.metadata(*blob).await?;
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(length as usize)?;
        (end <= bytes.len()).then(|| bytes.slice(start..end))
    }

    async fn have(&self, digest: &Digest) -> Have {
        let (packs, digest) = (Arc::clone(&self.packs), *digest);
        let have = self.disk.run(move |store| {
            if store.has_blob(&digest) {
                return Ok(Have::Complete);
            }
            let map = packs
                .find(store, digest)?
                .and_then(|pack| ChunkMap::new(pack.record().chunk_count, pack.presence().into()));
            Ok(map.map_or(Have::Absent, Have::Partial))
        });
        ok_or_absent(have.await).unwrap_or(Have::Absent)
    }

    async fn read_chunk(&self, pack: &Digest, index: &Digest, number: u32) -> Option<Bytes> {
        let (packs, pack, index) = (Arc::clone(&self.packs), *pack, *index);
        let read = self
            .disk
            .run(move |store| match packs.find_with(store, pack, index)? {
                Some(pack) => pack.read_chunk(number),
                None => Ok(None),
            });
        ok_or_absent(read.await).flatten().map(Bytes::from)
    }
}

/// To a peer, what can't be read is the same as what is not there. Only what is wrong here is
/// logged, not what a peer may ask for in vain.
fn ok_or_absent<T>(result: Result<T, DiskError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(DiskError::Store(
            StoreError::BlobMissing(_)
            | StoreError::BlobTooLarge { .. }
            | StoreError::Format { .. },
        )) => None,
        Err(error) => {
            warn!(%error, "cannot serve a peer");
            None
        }
    }
}
