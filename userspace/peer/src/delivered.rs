// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Bytes that a peer sent and that wait for their taker.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;

use peerfs_exchange::limits::CREDIT_STEP;

/// Delivered bytes. Until they are taken, or dropped, they count against the stream's window.
#[derive(Debug)]
pub(crate) struct Delivered {
    data: Bytes,
    taken: Arc<Taken>,
}

impl Delivered {
    pub(crate) fn new(data: Bytes, taken: Arc<Taken>) -> Self {
        Delivered { data, taken }
    }

    /// Takes the bytes.
    pub(crate) fn take(self) -> Bytes {
        // A second handle on the same bytes; dropping this one gives them back to the window.
        self.data.clone()
    }
}

impl Drop for Delivered {
    fn drop(&mut self) {
        // A chunk is not so long.
        self.taken.add(self.data.len() as u32);
    }
}

/// Counts the bytes that were taken and not yet given back to the peer as credit.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    bytes: AtomicU32,
    enough: Notify,
}

impl Taken {
    /// Counts bytes; there are never more than the window.
    pub(crate) fn add(&self, bytes: u32) {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) >= CREDIT_STEP {
            self.enough.notify_one();
        }
    }

    /// All bytes counted since the last call, if they are enough to be worth a frame.
    pub(crate) fn collect(&self) -> Option<u32> {
        if self.bytes.load(Ordering::Relaxed) < CREDIT_STEP {
            return None;
        }
        Some(self.bytes.swap(0, Ordering::Relaxed))
    }

    /// Waits until [`Self::collect`] may have something.
    pub(crate) async fn enough(&self) {
        self.enough.notified().await;
    }
}
