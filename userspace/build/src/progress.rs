// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How far a build is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How far a build is, for whoever watches it from another thread.
#[derive(Debug, Default)]
pub struct Progress {
    files_found: AtomicU64,
    bytes_found: AtomicU64,
    is_walk_done: AtomicBool,
    files_done: AtomicU64,
    bytes_done: AtomicU64,
}

impl Progress {
    /// Regular files found in the tree so far, and their bytes.
    pub fn found(&self) -> (u64, u64) {
        (
            self.files_found.load(Ordering::Relaxed),
            self.bytes_found.load(Ordering::Relaxed),
        )
    }

    /// Whether all files have been found.
    pub fn is_walk_done(&self) -> bool {
        self.is_walk_done.load(Ordering::Relaxed)
    }

    /// Regular files read so far, and bytes of them.
    pub fn done(&self) -> (u64, u64) {
        (
            self.files_done.load(Ordering::Relaxed),
            self.bytes_done.load(Ordering::Relaxed),
        )
    }

    pub(crate) fn add_found(&self, bytes: u64) {
        self.files_found.fetch_add(1, Ordering::Relaxed);
        self.bytes_found.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn finish_walk(&self) {
        self.is_walk_done.store(true, Ordering::Relaxed);
    }

    pub(crate) fn add_done(&self, files: u64, bytes: u64) {
        self.files_done.fetch_add(files, Ordering::Relaxed);
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }
}
