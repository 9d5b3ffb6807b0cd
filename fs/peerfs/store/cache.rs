// SPDX-License-Identifier: GPL-2.0

//! A cache that forgets what was used least recently, and the caches of a store.
//!
//! Locking: a cache's lock is a leaf. It is taken in memory reclaim, too, so nothing is allocated and no
//! value dropped under it.
#![forbid(unsafe_code)]

use kernel::ffi::c_int;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::{Arc, Mutex};
use peerfs_format::METADATA_MAX;

use super::blob::Blob;
use super::chunk::Chunk;
use super::readahead::Segments;
use super::{IndexBlob, ShardBlob};
use crate::rust::mm::Shrink;

/// Entries at the most, whatever their size, since a cache is searched from end to end.
const ENTRIES_MAX: usize = 256;

/// Bytes of shards that are kept.
const SHARDS_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of pack indexes that are kept.
const INDEXES_BYTES: usize = 16 * 1024 * 1024;
// The largest one is read once, and not once for each chunk.
const _: () = assert!(SHARDS_BYTES as u64 >= METADATA_MAX && INDEXES_BYTES as u64 >= METADATA_MAX);
/// Bytes of decoded chunks that are kept: of those that small files share.
const CHUNKS_BYTES: usize = 4 * 1024 * 1024;

/// What takes memory.
pub(super) trait Size {
    /// How much: bytes.
    fn size(&self) -> usize;
}

impl<L> Size for Blob<L> {
    fn size(&self) -> usize {
        self.bytes.len()
    }
}

impl Size for Chunk {
    fn size(&self) -> usize {
        self.bytes.len()
    }
}

/// A cache of a bounded number of bytes.
#[pin_data]
pub(super) struct Cache<K, V> {
    capacity: usize,
    #[pin]
    entries: Mutex<Entries<K, V>>,
}

struct Entries<K, V> {
    /// Most recently used first. Has room for `ENTRIES_MAX`.
    list: KVVec<(K, Arc<V>)>,
    bytes: usize,
}

impl<K: Eq, V: Size> Cache<K, V> {
    fn new(capacity: usize) -> impl PinInit<Self, Error> {
        try_pin_init!(Cache {
            capacity,
            entries <- new_mutex!(
                Entries {
                    list: KVVec::with_capacity(ENTRIES_MAX, GFP_KERNEL)?,
                    bytes: 0,
                },
                "peerfs cache"
            ),
        })
    }

    /// The value of this key.
    pub(super) fn get(&self, key: &K) -> Option<Arc<V>> {
        let mut entries = self.entries.lock();
        let place = entries.list.iter().position(|(found, _)| found == key)?;
        entries.list.get_mut(..=place)?.rotate_right(1);
        entries.list.first().map(|(_, value)| value.clone())
    }

    /// Keeps a value, unless another task was first or it is larger than the whole cache.
    pub(super) fn insert(&self, key: K, value: Arc<V>) {
        let size = value.size();
        let Some(others) = self.capacity.checked_sub(size) else {
            return;
        };
        self.forget(|entries| entries.bytes > others || entries.list.len() >= ENTRIES_MAX);
        let mut entries = self.entries.lock();
        let known = entries.list.iter().any(|(found, _)| *found == key);
        // What other tasks have inserted since is forgotten by the next one.
        if !known && entries.list.push_within_capacity((key, value)).is_ok() {
            entries.list.rotate_right(1);
            entries.bytes = entries.bytes.saturating_add(size);
        }
    }

    fn len(&self) -> usize {
        self.entries.lock().list.len()
    }

    /// Forgets entries as long as `too_much` holds; says how many.
    fn forget(&self, mut too_much: impl FnMut(&Entries<K, V>) -> bool) -> usize {
        let mut forgotten = 0;
        loop {
            let mut entries = self.entries.lock();
            if !too_much(&entries) {
                return forgotten;
            }
            let Some(last) = entries.list.pop() else {
                return forgotten;
            };
            entries.bytes = entries.bytes.saturating_sub(last.1.size());
            drop(entries);
            forgotten += 1;
        }
    }

    /// Forgets this many entries, if there are so many; says how many.
    fn forget_some(&self, count: usize) -> usize {
        let mut rest = count;
        self.forget(|_| {
            let more = rest > 0;
            rest = rest.saturating_sub(1);
            more
        })
    }
}

/// The caches of a store.
#[pin_data]
pub(super) struct Caches {
    #[pin]
    pub(super) shards: Cache<u32, ShardBlob>,
    #[pin]
    pub(super) indexes: Cache<u32, IndexBlob>,
    /// By pack and number.
    #[pin]
    pub(super) chunks: Cache<(u32, u32), Chunk>,
    #[pin]
    pub(super) segments: Segments,
}

impl Caches {
    /// Empty ones, of a mount at this depth of stacked filesystems.
    pub(super) fn new(depth: c_int) -> Result<Arc<Self>> {
        Arc::pin_init(
            try_pin_init!(Caches {
                shards <- Cache::new(SHARDS_BYTES),
                indexes <- Cache::new(INDEXES_BYTES),
                chunks <- Cache::new(CHUNKS_BYTES),
                segments <- Segments::new(depth),
            }),
            GFP_KERNEL,
        )
    }
}

impl Shrink for Caches {
    fn count(&self) -> usize {
        self.shards.len() + self.indexes.len() + self.chunks.len() + self.segments.len()
    }

    fn shrink(&self, count: usize) -> usize {
        let mut forgotten = 0;
        // What is cheapest to get again first.
        forgotten += self.segments.forget_some(count);
        forgotten += self.chunks.forget_some(count - forgotten);
        forgotten += self.shards.forget_some(count - forgotten);
        forgotten + self.indexes.forget_some(count - forgotten)
    }
}
