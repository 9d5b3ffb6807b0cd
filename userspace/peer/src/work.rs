// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The account on which a peer is answered.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use peerfs_exchange::{Ledger, Refused};

/// The account on which a question is answered. Clones are the same account.
#[derive(Clone, Debug)]
pub struct Work {
    /// Whose account it is; nothing is counted without one.
    account: Option<(Arc<Mutex<Ledger<PeerId>>>, PeerId)>,
    done: Arc<Mutex<Done>>,
}

/// What was asked of the account.
#[derive(Debug, Default)]
struct Done {
    /// Bytes that were charged.
    charged: u64,
    /// Why no more is done.
    refused: Option<Refused>,
}

impl Work {
    pub(crate) fn for_peer(ledger: &Arc<Mutex<Ledger<PeerId>>>, peer: PeerId) -> Self {
        Work {
            account: Some((Arc::clone(ledger), peer)),
            done: Arc::default(),
        }
    }

    /// For who asks otherwise than as a peer, and is bounded there.
    pub fn unlimited() -> Self {
        Work {
            account: None,
            done: Arc::default(),
        }
    }

    /// Asks whether so many bytes may be read or hashed. If not, the question is not answered, and the peer
    /// told that this node is busy.
    #[must_use]
    pub fn charge(&self, bytes: u64) -> bool {
        // Nothing that is done under these locks can leave the data half changed.
        let charged = self.account.as_ref().map_or(Ok(()), |(ledger, peer)| {
            let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
            ledger.charge(*peer, bytes, Instant::now())
        });
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        match charged {
            Ok(()) => done.charged = done.charged.saturating_add(bytes),
            Err(refused) => done.refused = Some(refused),
        }
        charged.is_ok()
    }

    /// Bytes that were charged.
    pub(crate) fn charged(&self) -> u64 {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.charged
    }

    /// When the peer may ask again, if something was refused.
    pub(crate) fn refused(&self) -> Option<Duration> {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.refused.map(|refused| refused.retry_after)
    }
}
