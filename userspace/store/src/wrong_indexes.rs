// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Which indexes do not describe the packs that images pair them with.

use std::num::NonZeroUsize;
use std::sync::Mutex;

use lru::LruCache;
use peerfs_format::Digest;

use crate::lock::lock;

/// How many are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).expect("4096 is not 0");

/// Packs with indexes that were found to be wrong: that takes reading all of the pack, and is true for
/// good, whatever becomes of the file.
pub(crate) struct WrongIndexes(Mutex<LruCache<(Digest, Digest), ()>>);

impl Default for WrongIndexes {
    fn default() -> Self {
        WrongIndexes(Mutex::new(LruCache::new(REMEMBERED)))
    }
}

impl WrongIndexes {
    pub(crate) fn contain(&self, pack: &Digest, index: &Digest) -> bool {
        lock(&self.0).get(&(*pack, *index)).is_some()
    }

    /// Remembers one, and says so in the log.
    pub(crate) fn add(&self, pack: &Digest, index: &Digest) {
        if lock(&self.0).put((*pack, *index), ()).is_none() {
            tracing::warn!(%pack, %index, "the index of an image does not describe its pack");
        }
    }
}
