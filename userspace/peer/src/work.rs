// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The account on which a peer is answered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use libp2p::PeerId;
use peerfs_exchange::Ledger;

/// The account on which a question is answered. Clones are the same account.
#[derive(Clone, Debug)]
pub struct Work {
    ledger: Arc<Mutex<Ledger<PeerId>>>,
    peer: PeerId,
    refused: Arc<AtomicBool>,
}

impl Work {
    pub(crate) fn for_peer(ledger: &Arc<Mutex<Ledger<PeerId>>>, peer: PeerId) -> Self {
        Work {
            ledger: Arc::clone(ledger),
            peer,
            refused: Arc::default(),
        }
    }

    /// Asks whether so many bytes may be read or hashed. If not, the question is not answered, and the peer
    /// told that this node is busy.
    #[must_use]
    pub fn charge(&self, bytes: u64) -> bool {
        // Nothing that is done under the lock can leave it half changed.
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let may = ledger.charge(self.peer, bytes, Instant::now());
        if !may {
            self.refused.store(true, Ordering::Relaxed);
        }
        may
    }

    /// Whether something was refused.
    pub(crate) fn was_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }
}
