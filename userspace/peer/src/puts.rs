// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How many records of names may be put here: signatures are verified for it, while all else waits.

use std::num::NonZeroUsize;
use std::time::Instant;

use libp2p::PeerId;
use lru::LruCache;

use crate::rate::Rate;

/// Of all peers, in a second.
const ALL_MAX: u64 = 256;
/// Of one of them, in a second: it must leave room for others.
const PEER_MAX: u64 = 64;
/// Peers whose rates are known; there are not more connections.
const PEERS_MAX: NonZeroUsize = NonZeroUsize::new(1024).expect("1024 is not 0");

/// The rates of what is put.
pub(crate) struct Puts {
    all: Rate,
    peers: LruCache<PeerId, Rate>,
}

impl Puts {
    pub(crate) fn new(now: Instant) -> Self {
        Puts {
            all: Rate::new(now),
            peers: LruCache::new(PEERS_MAX),
        }
    }

    /// Whether one more of this peer may be looked at; it counts then.
    pub(crate) fn allows(&mut self, peer: PeerId, now: Instant) -> bool {
        let own = self.peers.get_or_insert_mut(peer, || Rate::new(now));
        if own.per_second(now) >= PEER_MAX || self.all.per_second(now) >= ALL_MAX {
            return false;
        }
        own.add(1, now);
        self.all.add(1, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_peer_leaves_room_for_others_and_all_are_bounded() {
        let start = Instant::now();
        let mut puts = Puts::new(start);
        let peers: Vec<PeerId> = (0..40).map(|_| PeerId::random()).collect();
        let mut taken = vec![0; peers.len()];
        // The first one floods for long before the others come.
        for tick in 0..4000 {
            let now = start + Duration::from_millis(tick);
            taken[0] += u64::from(puts.allows(peers[0], now));
        }
        let alone = taken[0];
        assert!(alone < PEER_MAX * 4 + PEER_MAX * 4, "{alone}");
        let now = start + Duration::from_secs(4);
        assert!(puts.allows(peers[1], now));
        for tick in 0..4000 {
            let now = now + Duration::from_millis(tick);
            for (peer, taken) in peers.iter().zip(&mut taken) {
                *taken += u64::from(puts.allows(*peer, now));
            }
        }
        let all: u64 = taken.iter().sum::<u64>() - alone;
        assert!(all < ALL_MAX * 8, "{all}");
    }
}
