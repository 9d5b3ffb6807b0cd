// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The packs that are in use, and which index describes which pack.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use peerfs_format::{Digest, PackIndex, PackRecord, METADATA_MAX};
use peerfs_store::{Pack, Store};

/// Packs that are kept open, each with its index (a few hundred KiB) and a descriptor.
const OPEN_PACKS: NonZeroUsize = NonZeroUsize::new(256).expect("256 is not 0");
/// Packs of which the index is remembered: 4 TiB of them.
const KNOWN_PACKS: NonZeroUsize = NonZeroUsize::new(65536).expect("65536 is not 0");

/// Finds packs by digest. Where nothing else is said, methods block on the disk.
pub struct Packs {
    open: Mutex<LruCache<(Digest, Digest), Arc<Pack>>>,
    indexes: Mutex<LruCache<Digest, Digest>>,
}

impl Default for Packs {
    fn default() -> Self {
        Packs {
            open: Mutex::new(LruCache::new(OPEN_PACKS)),
            indexes: Mutex::new(LruCache::new(KNOWN_PACKS)),
        }
    }
}

impl Packs {
    /// A pack that is open already. Does not block.
    pub fn get(&self, pack: Digest, index: Digest) -> Option<Arc<Pack>> {
        lock(&self.open).get(&(pack, index)).cloned()
    }

    /// Opens a pack to read and fill it; makes an empty one if there is nothing of it. Its index
    /// must be in the store.
    ///
    /// # Errors
    /// [`peerfs_store::Error::BlobMissing`] or [`peerfs_store::Error::BlobDamaged`] for the index;
    /// others of [`Store::pack`].
    pub fn open(
        &self,
        store: &Store,
        pack: Digest,
        index: Digest,
    ) -> peerfs_store::Result<Arc<Pack>> {
        if let Some(open) = self.get(pack, index) {
            return Ok(open);
        }
        let blob = store.read_metadata(&index, METADATA_MAX)?;
        let opened = store.pack(&pack_record(pack, index, &blob)?, blob)?;
        lock(&self.open).put((pack, index), Arc::clone(&opened));
        self.learn(pack, index);
        Ok(opened)
    }

    /// Opens a pack if there is something of it, by an index that was used or learned before.
    ///
    /// # Errors
    /// As for [`Packs::open`].
    pub fn find(&self, store: &Store, pack: Digest) -> peerfs_store::Result<Option<Arc<Pack>>> {
        let Some(index) = lock(&self.indexes).get(&pack).copied() else {
            return Ok(None);
        };
        self.find_with(store, pack, index)
    }

    /// Opens a pack if its index and something of it are there.
    ///
    /// # Errors
    /// As for [`Packs::open`].
    pub fn find_with(
        &self,
        store: &Store,
        pack: Digest,
        index: Digest,
    ) -> peerfs_store::Result<Option<Arc<Pack>>> {
        if let Some(open) = self.get(pack, index) {
            return Ok(Some(open));
        }
        let blob = match store.read_metadata(&index, METADATA_MAX) {
            Err(peerfs_store::Error::BlobMissing(_)) => return Ok(None),
            read => read?,
        };
        let record = pack_record(pack, index, &blob)?;
        match store.find_pack(&record, blob)? {
            Some(_) => self.open(store, pack, index).map(Some),
            None => Ok(None),
        }
    }

    /// Remembers which index describes a pack: an image says so.
    pub fn learn(&self, pack: Digest, index: Digest) {
        lock(&self.indexes).put(pack, index);
    }
}

/// What a manifest says about a pack, from the pack's index: chunks lie without gaps, so that the
/// last one ends where the pack does.
pub fn pack_record(pack: Digest, index: Digest, blob: &[u8]) -> peerfs_store::Result<PackRecord> {
    let format = |source| peerfs_store::Error::Format {
        digest: index,
        source,
    };
    let chunks = PackIndex::parse(blob).map_err(format)?.chunks;
    let last = chunks
        .len()
        .checked_sub(1)
        .and_then(|last| chunks.get(last))
        .ok_or(format(peerfs_format::Error::Malformed("pack index")))?;
    let too_large = |_| format(peerfs_format::Error::TooLarge("METADATA_MAX"));
    Ok(PackRecord {
        digest: pack,
        index_digest: index,
        stored_length: u64::from(last.stored_offset) + u64::from(last.stored_length),
        logical_length: u64::from(last.logical_offset) + u64::from(last.logical_length),
        index_length: u32::try_from(blob.len()).map_err(too_large)?,
        chunk_count: u32::try_from(chunks.len()).map_err(too_large)?,
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A cache is valid after every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
