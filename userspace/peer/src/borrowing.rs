// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Asks whoever asks for a pack for its index: who has other versions of an image has most of the chunks, and can tell
//! them by the index alone.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use libp2p::PeerId;
use lru::LruCache;
use peerfs_exchange::{Priority, Progress};
use peerfs_format::Digest;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::client::Client;
use crate::peer_table::PeerTable;

/// The longest index that is asked for: of a pack of a GiB and more.
pub(crate) const INDEX_MAX: u64 = 1024 * 1024;
/// The indexes that are asked for at a time.
const AT_A_TIME: usize = 4;
/// How long a peer may take to send one.
const TIMEOUT: Duration = Duration::from_secs(2);
/// A peer is asked for the same index once in this time.
const AGAIN: Duration = Duration::from_secs(60);
/// The questions that are remembered.
const ASKED_MAX: NonZeroUsize = NonZeroUsize::new(1024).expect("1024 is not 0");

/// Asks for indexes.
pub(crate) struct Borrowing {
    client: Arc<Client>,
    peers: Arc<PeerTable>,
    asked: Mutex<LruCache<(PeerId, Digest), Instant>>,
    turns: Semaphore,
}

impl Borrowing {
    pub(crate) fn new(client: Arc<Client>, peers: Arc<PeerTable>) -> Self {
        Borrowing {
            client,
            peers,
            asked: Mutex::new(LruCache::new(ASKED_MAX)),
            turns: Semaphore::new(AT_A_TIME),
        }
    }

    /// The index as a peer sends it, not verified; `None` if it is no neighbour, was asked for it already, or does not send
    /// it.
    pub(crate) async fn ask(&self, peer: PeerId, index: Digest) -> Option<Bytes> {
        if !self.peers.is_neighbour(peer) {
            return None;
        }
        // Who comes when all are taken asks again.
        let _turn = self.turns.try_acquire().ok()?;
        if !self.is_new(peer, index, Instant::now()) {
            return None;
        }
        let deadline = Instant::now() + TIMEOUT;
        let priority = Priority::Readahead;
        let progress = Progress::default();
        let blob = self
            .client
            .fetch_blob(peer, index, INDEX_MAX, priority, deadline, &progress)
            .await;
        if let Err(error) = &blob {
            tracing::debug!(%peer, %index, error = error as &dyn std::error::Error, "does not send an index");
        }
        blob.ok()
    }

    fn is_new(&self, peer: PeerId, index: Digest, now: Instant) -> bool {
        // A cache is valid after every step.
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let before = asked.put((peer, index), now);
        if let Some(before) = before.filter(|before| now < *before + AGAIN) {
            asked.put((peer, index), before);
            return false;
        }
        true
    }
}
