// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The packs that are in use, and which indexes describe which pack.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use peerfs_format::{Digest, PackRecord, METADATA_MAX};
use peerfs_store::{Error, Pack, Store};
use tokio::sync::watch;

/// Packs that are kept open, each with its index (a few hundred KiB) and a descriptor.
const OPEN_PACKS: NonZeroUsize = NonZeroUsize::new(256).expect("256 is not 0");
/// Packs of which the indexes are remembered: 1 TiB of them.
const KNOWN_PACKS: NonZeroUsize = NonZeroUsize::new(65536).expect("65536 is not 0");
/// Indexes that are remembered of a pack. Images that were built right agree on one.
const INDEXES_MAX: usize = 4;

/// Finds packs by their digest and that of an index. Where nothing else is said, methods block on the disk.
pub struct Packs {
    open: Mutex<LruCache<(Digest, Digest), Arc<Pack>>>,
    /// The one learned last comes last.
    indexes: Mutex<LruCache<Digest, Vec<Digest>>>,
    evictions: watch::Sender<Evictions>,
}

/// How often something was given up.
#[derive(Default)]
struct Evictions {
    begun: u64,
    running: u32,
}

/// Chunks are being given up until this is dropped. A pack that was open before, or is opened meanwhile, may say that it has
/// what is gone.
pub struct Eviction<'a>(&'a Packs);

impl Drop for Eviction<'_> {
    fn drop(&mut self) {
        self.0.close_all();
        self.0
            .evictions
            .send_modify(|evictions| evictions.running -= 1);
    }
}

impl Default for Packs {
    fn default() -> Self {
        Packs {
            open: Mutex::new(LruCache::new(OPEN_PACKS)),
            indexes: Mutex::new(LruCache::new(KNOWN_PACKS)),
            evictions: watch::Sender::default(),
        }
    }
}

impl Packs {
    /// A pack that is open already, for whatever. Does not block.
    pub fn get(&self, pack: Digest, index: Digest) -> Option<Arc<Pack>> {
        lock(&self.open).get(&(pack, index)).cloned()
    }

    /// A pack that is open for filling already. Does not block.
    pub fn get_to_fill(&self, pack: Digest, index: Digest) -> Option<Arc<Pack>> {
        self.get(pack, index).filter(|pack| pack.is_for_filling())
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
        if let Some(open) = self.get_to_fill(pack, index) {
            return Ok(open);
        }
        let blob = store.read_metadata(&index, METADATA_MAX)?;
        let opened = store.pack(&pack_record(pack, index, &blob)?, blob)?;
        // In the place of one that was opened to be read.
        lock(&self.open).put((pack, index), Arc::clone(&opened));
        Ok(opened)
    }

    /// Opens a pack to read it if its index and something of it are there. Nothing is made or changed: peers ask
    /// for this.
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
        if let Some(filled) = store.open_pack(&pack, &index) {
            return Ok(Some(filled));
        }
        let blob = match store.read_metadata(&index, METADATA_MAX) {
            Err(Error::BlobMissing(_) | Error::NotARegularFile(_)) => return Ok(None),
            read => read?,
        };
        let Some(found) = store.find_pack(&pack_record(pack, index, &blob)?, blob)? else {
            return Ok(None);
        };
        let mut open = lock(&self.open);
        // Perhaps it was opened for filling meanwhile, which shows what comes.
        let found = open.get_or_insert((pack, index), || Arc::new(found));
        Ok(Some(Arc::clone(found)))
    }

    /// Chunks are about to be given up. Afterwards no pack is open.
    pub fn evict(&self) -> Eviction<'_> {
        self.evictions.send_modify(|evictions| {
            evictions.begun += 1;
            evictions.running += 1;
        });
        Eviction(self)
    }

    /// Forgets all that are open: they may not be there any more.
    pub fn close_all(&self) {
        lock(&self.open).clear();
    }

    /// How often something was given up, unless something is just now.
    pub fn settled(&self) -> Option<u64> {
        let evictions = self.evictions.borrow();
        (evictions.running == 0).then_some(evictions.begun)
    }

    /// Waits until nothing is being given up.
    pub async fn settle(&self) {
        let mut evictions = self.evictions.subscribe();
        // Its sender is here.
        let _ = evictions.wait_for(|evictions| evictions.running == 0).await;
    }

    /// The indexes that describe a pack, as far as images say so. Does not block.
    pub fn indexes_of(&self, pack: Digest) -> Vec<Digest> {
        lock(&self.indexes).get(&pack).cloned().unwrap_or_default()
    }

    /// Remembers which index describes a pack: an image says so.
    pub fn learn(&self, pack: Digest, index: Digest) {
        let mut known = lock(&self.indexes);
        let indexes = known.get_or_insert_mut(pack, Vec::new);
        if !indexes.contains(&index) {
            if indexes.len() == INDEXES_MAX {
                indexes.remove(0);
            }
            indexes.push(index);
        }
    }
}

/// What a manifest says about a pack, from the pack's index.
pub fn pack_record(pack: Digest, index: Digest, blob: &[u8]) -> peerfs_store::Result<PackRecord> {
    PackRecord::of_index(pack, index, blob).map_err(|source| Error::Format {
        digest: index,
        source,
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A cache is valid after every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn who_is_told_something_while_chunks_go_knows_it_and_can_wait() {
        let packs = Packs::default();
        let before = packs.settled();
        assert!(before.is_some());
        let (eviction, another) = (packs.evict(), packs.evict());
        assert_eq!(packs.settled(), None);
        drop(another);
        assert!(packs.settle().now_or_never().is_none());
        drop(eviction);
        packs.settle().now_or_never().unwrap();
        assert!(packs.settled().is_some() && packs.settled() != before);
    }
}
