// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The cost of answering peers, and how much of it is done for nothing.
//!
//! A question of 60 bytes can make a node read and hash 16 MiB. So whoever answers says what it costs
//! before it does it, and what a peer is sent pays for it: bytes that were read and sent cost nothing in the
//! end, bytes that were read for no answer are a debt, of which each peer may have so much, and all together
//! so much. Debts are forgiven slowly.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// The largest debt of one peer, in bytes read or hashed: two of the longest blobs.
pub const DEBT_MAX: u64 = 32 * 1024 * 1024;
/// What a peer is forgiven in a second.
pub const FORGIVEN: u64 = 1024 * 1024;
/// The largest debt of all peers together, for ids cost nothing. What was read ahead and is not sent yet is a
/// part of it.
const DEBT_MAX_OF_ALL: u64 = 1024 * 1024 * 1024;
/// What all together are forgiven in a second: some per cent of a processor.
const FORGIVEN_OF_ALL: u64 = 16 * 1024 * 1024;
/// The cost of any question, whatever comes of it.
pub const QUESTION: u64 = 1024;
/// The peers whose debts are remembered.
const PEERS_MAX: usize = 4096;

/// The debts of peers.
#[derive(Debug)]
pub struct Ledger<Peer> {
    peers: HashMap<Peer, Debt>,
    all: Debt,
}

#[derive(Clone, Copy, Debug)]
struct Debt {
    bytes: u64,
    since: Instant,
}

/// So much may not be read or hashed for a peer now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Refused {
    /// When it may be, if nothing else is done for anybody until then.
    pub retry_after: Duration,
}

impl Debt {
    fn none(now: Instant) -> Self {
        Debt {
            bytes: 0,
            since: now,
        }
    }

    /// What is left of the debt now.
    fn forgive(&mut self, a_second: u64, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.since).as_millis();
        let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX);
        if elapsed > 0 {
            let forgiven = elapsed.saturating_mul(a_second) / 1000;
            self.bytes = self.bytes.saturating_sub(forgiven);
            self.since = now;
        }
        self.bytes
    }
}

impl<Peer: Copy + Eq + Hash> Ledger<Peer> {
    /// Nobody owes anything.
    pub fn new(now: Instant) -> Self {
        Ledger {
            peers: HashMap::new(),
            all: Debt::none(now),
        }
    }

    /// Puts so many bytes, which are to be read or hashed for a peer, on its account.
    ///
    /// # Errors
    /// If it would owe too much.
    pub fn charge(&mut self, peer: Peer, bytes: u64, now: Instant) -> Result<(), Refused> {
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&peer) {
            self.make_room(now);
        }
        let of_all = self.all.forgive(FORGIVEN_OF_ALL, now);
        let debt = self.peers.entry(peer).or_insert_with(|| Debt::none(now));
        let of_peer = debt.forgive(FORGIVEN, now);
        let excess = |owed: u64, most: u64| owed.saturating_add(bytes).saturating_sub(most);
        let excess_of_peer = excess(of_peer, DEBT_MAX);
        let excess_of_all = excess(of_all, DEBT_MAX_OF_ALL);
        if excess_of_peer > 0 || excess_of_all > 0 {
            let seconds = (excess_of_peer as f64 / FORGIVEN as f64)
                .max(excess_of_all as f64 / FORGIVEN_OF_ALL as f64);
            return Err(Refused {
                retry_after: Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX),
            });
        }
        debt.bytes += bytes;
        self.all.bytes += bytes;
        Ok(())
    }

    /// A peer was sent an answer with so many bytes of data.
    pub fn paid(&mut self, peer: Peer, bytes: u64) {
        let paid = bytes + QUESTION;
        // Nobody saves up. What a peer was forgiven meanwhile, all were not.
        self.all.bytes = self.all.bytes.saturating_sub(paid);
        if let Some(debt) = self.peers.get_mut(&peer) {
            debt.bytes = debt.bytes.saturating_sub(paid);
        }
    }

    /// Forgets those who owe nothing, or somebody: what is owed in all stays bounded.
    fn make_room(&mut self, now: Instant) {
        self.peers.retain(|_, debt| debt.forgive(FORGIVEN, now) > 0);
        if self.peers.len() >= PEERS_MAX {
            if let Some(peer) = self.peers.keys().next().copied() {
                self.peers.remove(&peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOB: u64 = 16 * 1024 * 1024;
    const PEER: u32 = 1;

    /// Whether so much may be done for the peer.
    fn may(ledger: &mut Ledger<u32>, bytes: u64, now: Instant) -> bool {
        ledger.charge(PEER, bytes, now).is_ok()
    }

    #[test]
    fn what_is_sent_pays_for_what_is_read() {
        let start = Instant::now();
        let mut ledger = Ledger::new(start);
        // Ten minutes of 64 KiB chunks at 100 MB/s; some were read ahead and are sent in the end.
        let (chunk, ahead) = (64 * 1024, 16);
        for _ in 0..ahead {
            assert!(may(&mut ledger, QUESTION, start) && may(&mut ledger, chunk, start));
        }
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            for _ in 0..1500 {
                assert!(may(&mut ledger, QUESTION, now) && may(&mut ledger, chunk, now));
                ledger.paid(PEER, chunk);
            }
        }
        let end = start + Duration::from_secs(600);
        for _ in 0..ahead {
            ledger.paid(PEER, chunk);
        }
        assert_eq!(ledger.all.bytes, 0);
        // Nothing is saved up.
        assert!(may(&mut ledger, DEBT_MAX, end));
        assert!(!may(&mut ledger, 1, end));
    }

    #[test]
    fn what_is_read_for_nothing_is_bounded_and_forgiven_slowly() {
        let start = Instant::now();
        let mut ledger = Ledger::new(start);
        let mut read = 0;
        // An hour of asking, ten times a second.
        for step in 0..36_000 {
            let now = start + Duration::from_millis(100) * step;
            read += u64::from(may(&mut ledger, BLOB, now)) * BLOB;
        }
        assert!(read <= DEBT_MAX + 3600 * FORGIVEN, "{read}");
        assert!(read >= 3000 * FORGIVEN, "{read}");
        let later = start + Duration::from_secs(3600 + 32);
        assert!(may(&mut ledger, DEBT_MAX, later));
    }

    #[test]
    fn who_is_refused_is_told_when_to_ask_again() {
        let start = Instant::now();
        let mut ledger = Ledger::new(start);
        assert!(may(&mut ledger, DEBT_MAX, start));
        let refused = ledger.charge(PEER, 4 * FORGIVEN, start).unwrap_err();
        assert_eq!(refused.retry_after, Duration::from_secs(4));
        let early = start + refused.retry_after - Duration::from_millis(1);
        assert!(!may(&mut ledger, 4 * FORGIVEN, early));
        let then = start + refused.retry_after + Duration::from_millis(1);
        assert!(may(&mut ledger, 4 * FORGIVEN, then));
    }

    #[test]
    fn many_ids_are_bounded_together() {
        let start = Instant::now();
        let mut ledger = Ledger::new(start);
        let read: u64 = (0..10_000_u32)
            .map(|peer| u64::from(ledger.charge(peer, BLOB, start).is_ok()) * BLOB)
            .sum();
        assert_eq!(read, DEBT_MAX_OF_ALL);
        assert!(ledger.peers.len() <= PEERS_MAX);
        let customer = 10_000;
        let later = start + Duration::from_secs(2);
        assert!(ledger.charge(customer, BLOB, later).is_ok());
    }
}
