// SPDX-License-Identifier: GPL-2.0

//! A small cache that forgets what was used least recently.
#![forbid(unsafe_code)]

use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::Mutex;

/// A cache of a fixed number of entries. It is searched from end to end: meant for some dozens.
#[pin_data]
pub(super) struct Cache<K, V> {
    capacity: usize,
    /// Most recently used first.
    #[pin]
    entries: Mutex<KVVec<(K, V)>>,
}

impl<K: Eq, V: Clone> Cache<K, V> {
    pub(super) fn new(capacity: usize) -> impl PinInit<Self> {
        pin_init!(Cache {
            capacity,
            entries <- new_mutex!(KVVec::new(), "peerfs cache"),
        })
    }

    /// The value of this key.
    pub(super) fn get(&self, key: &K) -> Option<V> {
        let mut entries = self.entries.lock();
        let place = entries.iter().position(|(found, _)| found == key)?;
        entries.get_mut(..=place)?.rotate_right(1);
        entries.first().map(|(_, value)| value.clone())
    }

    /// Keeps a value; without memory for it, or if another task was first, it is just not kept.
    pub(super) fn insert(&self, key: K, value: V) {
        let mut entries = self.entries.lock();
        if entries.iter().any(|(found, _)| *found == key) {
            return;
        }
        // What falls out is dropped after the lock, since it may be large.
        let _forgotten = if entries.len() >= self.capacity {
            entries.pop()
        } else {
            None
        };
        if entries.push((key, value), GFP_KERNEL).is_ok() {
            entries.rotate_right(1);
        }
        drop(entries);
    }
}
