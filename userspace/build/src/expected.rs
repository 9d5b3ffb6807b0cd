// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Finding out that a file changed between the walk and the end of its reading.

use rustix::fs::Stat;

/// What must stay the same about a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Expected {
    device: u64,
    inode: u64,
    pub(crate) size: u64,
    modified: (i64, u64),
    changed: (i64, u64),
    /// Whether the file system says that it has holes.
    pub(crate) is_sparse: bool,
}

impl From<&Stat> for Expected {
    fn from(stat: &Stat) -> Self {
        Expected {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: size(stat),
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
            is_sparse: (stat.st_blocks as u64).saturating_mul(512) < size(stat),
        }
    }
}

impl Expected {
    /// Whether `stat` is of the same file with the same content. Blocks may be allocated late.
    pub(crate) fn matches(&self, stat: &Stat) -> bool {
        let now = Expected::from(stat);
        Expected {
            is_sparse: self.is_sparse,
            ..now
        } == *self
    }
}

/// `st_size`, which is never negative.
pub(crate) fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or_default()
}
