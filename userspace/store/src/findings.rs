// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Findings that took reading all of a pack, remembered so that it need not be read again for that.

use std::fs::{File, Metadata};
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;

use lru::LruCache;
use peerfs_format::Digest;

use crate::lock::lock;

/// The most findings of each kind that are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).expect("4096 is not 0");

/// Findings about the packs of a store.
pub(crate) struct Findings {
    /// Packs with indexes that do not describe them: true for good, whatever becomes of the file.
    wrong_indexes: Mutex<LruCache<(Digest, Digest), ()>>,
    /// Files that are called packs and are something else: true of the file as it was then.
    damaged: Mutex<LruCache<Digest, Version>>,
}

/// A file as it is at a time: after a change, or if another one has its name, it is another version.
#[derive(Debug, Eq, PartialEq)]
struct Version {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

impl Default for Findings {
    fn default() -> Self {
        Findings {
            wrong_indexes: Mutex::new(LruCache::new(REMEMBERED)),
            damaged: Mutex::new(LruCache::new(REMEMBERED)),
        }
    }
}

impl Findings {
    /// Whether an index is known not to describe a pack.
    pub(crate) fn is_wrong_index(&self, pack: &Digest, index: &Digest) -> bool {
        lock(&self.wrong_indexes).get(&(*pack, *index)).is_some()
    }

    /// Remembers that an index does not describe a pack, and says so in the log.
    pub(crate) fn add_wrong_index(&self, pack: &Digest, index: &Digest) {
        let known = lock(&self.wrong_indexes).put((*pack, *index), ());
        if known.is_none() {
            tracing::warn!(%pack, %index, "the index of an image does not describe its pack");
        }
    }

    /// Whether the file that is called a pack is known to be something else.
    pub(crate) fn is_damaged(&self, pack: &Digest, file: &Metadata) -> bool {
        let mut damaged = lock(&self.damaged);
        damaged
            .get(pack)
            .is_some_and(|version| *version == Version::of(file))
    }

    /// As [`Findings::is_damaged`], of an open file.
    pub(crate) fn is_damaged_file(&self, pack: &Digest, file: &File) -> bool {
        let metadata = file.metadata();
        metadata.is_ok_and(|metadata| self.is_damaged(pack, &metadata))
    }

    /// Remembers that the file that is called a pack, with this metadata before it was read, is something else.
    pub(crate) fn add_damaged(&self, pack: &Digest, file: &Metadata) {
        lock(&self.damaged).put(*pack, Version::of(file));
    }
}

impl Version {
    fn of(file: &Metadata) -> Self {
        Version {
            device: file.dev(),
            inode: file.ino(),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}
