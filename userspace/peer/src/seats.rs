// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Places for peers that are served something, one for each peer.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use libp2p::PeerId;

/// So many places.
pub(crate) struct Seats {
    most: usize,
    taken: Arc<Mutex<HashSet<PeerId>>>,
}

/// A peer's place, until it is dropped.
pub(crate) struct Seat {
    taken: Arc<Mutex<HashSet<PeerId>>>,
    peer: PeerId,
}

impl Seats {
    pub(crate) fn new(most: usize) -> Self {
        Seats {
            most,
            taken: Arc::default(),
        }
    }

    /// A place for a peer, if it has none and there is one.
    pub(crate) fn take(&self, peer: PeerId) -> Option<Seat> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = taken.len() < self.most && taken.insert(peer);
        is_new.then(|| Seat {
            taken: Arc::clone(&self.taken),
            peer,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.remove(&self.peer);
    }
}
