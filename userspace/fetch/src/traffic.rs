// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Counts what was fetched, for `peerfs status`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What was fetched since the daemon started.
#[derive(Default)]
pub struct Traffic {
    /// By the accounts of the sources. As many entries as there are kinds of sources and configured ones.
    bytes: Mutex<BTreeMap<String, u64>>,
    lies: AtomicU64,
}

impl Traffic {
    /// Counts from now on, with these accounts shown also when nothing came.
    pub fn new(accounts: impl IntoIterator<Item = String>) -> Self {
        let bytes = accounts.into_iter().map(|account| (account, 0)).collect();
        Traffic {
            bytes: Mutex::new(bytes),
            lies: AtomicU64::new(0),
        }
    }

    /// A source with this account sent so many bytes.
    pub fn received(&self, account: &str, bytes: usize) {
        let mut all = self.lock();
        match all.get_mut(account) {
            Some(count) => *count += bytes as u64,
            None => drop(all.insert(account.to_owned(), bytes as u64)),
        }
    }

    /// A source sent wrong bytes.
    pub fn lied(&self) {
        self.lies.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes that came, by the accounts of the sources.
    pub fn bytes_by_source(&self) -> BTreeMap<String, u64> {
        self.lock().clone()
    }

    /// Bytes that came from the sources with this account.
    pub fn bytes_of(&self, account: &str) -> u64 {
        self.lock().get(account).copied().unwrap_or_default()
    }

    /// Sources that sent wrong bytes.
    pub fn lies(&self) -> u64 {
        self.lies.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        // Numbers are valid after every step.
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
