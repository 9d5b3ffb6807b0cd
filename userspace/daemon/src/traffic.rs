// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Counts what was fetched, for `peerfs status`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::source::SourceId;

/// What was fetched since the daemon started, and what is asked for now.
#[derive(Default)]
pub struct Traffic {
    peer_bytes: AtomicU64,
    directory_bytes: Mutex<BTreeMap<usize, u64>>,
    lies: AtomicU64,
    requests: AtomicUsize,
}

impl Traffic {
    /// A source sent so many bytes.
    pub fn received(&self, source: SourceId, bytes: usize) {
        let bytes = bytes as u64;
        match source {
            SourceId::Peer(_) => {
                self.peer_bytes.fetch_add(bytes, Ordering::Relaxed);
            }
            SourceId::Directory(place) => {
                let mut directories = self.lock_directories();
                *directories.entry(place).or_default() += bytes;
            }
        }
    }

    /// A source sent wrong bytes.
    pub fn lied(&self) {
        self.lies.fetch_add(1, Ordering::Relaxed);
    }

    /// How many requests of the kernel are not answered yet.
    pub fn set_requests(&self, requests: usize) {
        self.requests.store(requests, Ordering::Relaxed);
    }

    /// Bytes that all peers sent.
    pub fn peer_bytes(&self) -> u64 {
        self.peer_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that were read from the other store at this place in the configuration.
    pub fn directory_bytes(&self, place: usize) -> u64 {
        self.lock_directories().get(&place).copied().unwrap_or(0)
    }

    /// Sources that sent wrong bytes.
    pub fn lies(&self) -> u64 {
        self.lies.load(Ordering::Relaxed)
    }

    /// Requests of the kernel that are not answered yet.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    fn lock_directories(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, u64>> {
        // Numbers are valid after every step.
        self.directory_bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
