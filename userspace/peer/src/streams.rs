// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The streams that a node serves: how many, and which of them ends when there are too many.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use tokio_util::sync::CancellationToken;

use peerfs_exchange::limits::{STREAMS_MAX, STREAMS_PER_PEER};

/// How long a stream must have been idle before another one may take its place: time enough for the first
/// request on it.
const IDLE_MIN: Duration = Duration::from_secs(1);

/// The streams that are served.
#[derive(Default)]
pub(crate) struct Streams {
    next: u64,
    served: HashMap<u64, Served>,
    of_peers: HashMap<PeerId, usize>,
}

struct Served {
    peer: PeerId,
    /// Since when nothing was to be done for it.
    idle_since: Option<Instant>,
    ended: CancellationToken,
}

/// A place among the streams, until it is dropped.
pub(crate) struct Slot {
    streams: Arc<Mutex<Streams>>,
    number: u64,
    ended: CancellationToken,
}

impl Streams {
    /// A place for a stream of this peer, unless all are in use. If it has as many as it may have, one of them ends: it may
    /// be of a connection that has ended for the peer, and not yet for this node.
    pub(crate) fn take(streams: &Arc<Mutex<Self>>, peer: PeerId, now: Instant) -> Option<Slot> {
        let mut all = lock(streams);
        let count = all.of_peers.get(&peer).copied().unwrap_or_default();
        if count >= STREAMS_PER_PEER {
            let least = all.least_of(peer)?;
            all.remove(least);
        }
        if all.served.len() >= STREAMS_MAX {
            let idle = all.idlest(now)?;
            all.remove(idle);
        }
        let number = all.next;
        all.next += 1;
        *all.of_peers.entry(peer).or_default() += 1;
        let ended = CancellationToken::new();
        all.served.insert(
            number,
            Served {
                peer,
                idle_since: Some(now),
                ended: ended.clone(),
            },
        );
        Some(Slot {
            streams: Arc::clone(streams),
            number,
            ended,
        })
    }

    /// The stream that was idle longest.
    fn idlest(&self, now: Instant) -> Option<u64> {
        self.served
            .iter()
            .filter_map(|(number, served)| Some((served.idle_since?, *number)))
            .filter(|(since, _)| now.saturating_duration_since(*since) >= IDLE_MIN)
            .min()
            .map(|(_, number)| number)
    }

    /// The stream of a peer that was idle longest, or else its first one.
    fn least_of(&self, peer: PeerId) -> Option<u64> {
        let own = self.served.iter().filter(|(_, served)| served.peer == peer);
        own.map(|(number, served)| (served.idle_since.is_none(), served.idle_since, *number))
            .min()
            .map(|(.., number)| number)
    }

    fn remove(&mut self, number: u64) {
        let Some(served) = self.served.remove(&number) else {
            return;
        };
        served.ended.cancel();
        if let Some(count) = self.of_peers.get_mut(&served.peer) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.of_peers.remove(&served.peer);
            }
        }
    }
}

impl Slot {
    /// Cancelled when another stream has taken the place.
    pub(crate) fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Since when nothing is to be done for the stream; `None` if there is something.
    pub(crate) fn set_idle(&self, since: Option<Instant>) {
        if let Some(served) = lock(&self.streams).served.get_mut(&self.number) {
            served.idle_since = since;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.streams).remove(self.number);
    }
}

/// Nothing that is done under the lock can leave the streams half changed.
fn lock(streams: &Mutex<Streams>) -> MutexGuard<'_, Streams> {
    streams.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_node_ends_the_stream_that_was_idle_longest() {
        let streams = Arc::default();
        let now = Instant::now();
        let mut slots = Vec::new();
        while slots.len() < STREAMS_MAX {
            let peer = PeerId::random();
            for _ in 0..STREAMS_PER_PEER {
                slots.push(Streams::take(&streams, peer, now).unwrap());
            }
        }
        // Those that have just come get their time.
        let newcomer = PeerId::random();
        assert!(Streams::take(&streams, newcomer, now).is_none());
        let later = now + IDLE_MIN;
        for slot in &slots {
            slot.set_idle(None);
        }
        assert!(Streams::take(&streams, newcomer, later).is_none());
        slots[7].set_idle(Some(now));
        slots[8].set_idle(Some(later));
        let taken = Streams::take(&streams, newcomer, later).unwrap();
        assert!(slots[7].ended().is_cancelled());
        assert!(Streams::take(&streams, newcomer, later).is_none());

        // What ends by itself makes room, and leaves nothing behind.
        drop(slots);
        drop(taken);
        let all = lock(&streams);
        assert!(all.served.is_empty() && all.of_peers.is_empty());
    }
    #[test]
    fn a_peer_with_too_many_streams_loses_one_of_its_own() {
        let streams = Arc::default();
        let now = Instant::now();
        let (peer, other) = (PeerId::random(), PeerId::random());
        let take = |peer| Streams::take(&streams, peer, now).unwrap();
        let others = take(other);
        let mut slots: Vec<Slot> = (0..STREAMS_PER_PEER).map(|_| take(peer)).collect();
        slots.iter().for_each(|slot| slot.set_idle(None));
        slots[2].set_idle(Some(now));
        let ended = |slots: &[Slot]| -> Vec<usize> {
            let slots = slots.iter().enumerate();
            let ended = slots.filter(|(_, slot)| slot.ended().is_cancelled());
            ended.map(|(place, _)| place).collect()
        };
        slots.push(take(peer));
        assert_eq!(ended(&slots), [2]);
        slots[4].set_idle(None);
        slots.push(take(peer));
        assert_eq!(ended(&slots), [0, 2]);
        assert!(!others.ended().is_cancelled());
        assert_eq!(lock(&streams).served.len(), STREAMS_PER_PEER + 1);
    }
}
