// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Whose frame is written next when the rate is limited.
//!
//! What is more urgent goes first, but what a reader waits for has three quarters of the line at most while
//! something else waits, or nobody would ever have a whole image. Peers take turns by bytes, however much each has
//! asked for and over however many streams.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use crate::limits::PIECE_MAX;
use crate::Priority;

/// What a peer may send before it is another one's turn.
const QUANTUM: u32 = PIECE_MAX;
/// Bytes of demand for each byte of the rest.
const SHARE: u32 = 3;

/// Names a frame that waits.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Turn(u64);

/// The frames that wait to be written.
pub struct Turns<Peer> {
    rate: NonZeroU64,
    /// When all bytes that were written will have been let through. Idle time is not saved up.
    free_at: Instant,
    last: u64,
    /// By priority, the most urgent first.
    queues: [Queue<Peer>; Priority::ALL.len()],
    /// By how many bytes demand is ahead of its share.
    ahead: u32,
}

/// The frames of one priority.
struct Queue<Peer> {
    /// Whose turn it is comes first.
    order: VecDeque<Peer>,
    frames: HashMap<Peer, Frames>,
}

/// The frames for a peer, at least one.
#[derive(Default)]
struct Frames {
    waiting: VecDeque<(Turn, u32)>,
    /// Bytes that it may still be sent in its turn.
    left: u32,
}

impl<Peer: Copy + Eq + Hash> Turns<Peer> {
    /// Nothing waits. `rate` is in bytes a second.
    pub fn new(rate: NonZeroU64, now: Instant) -> Self {
        Turns {
            rate,
            free_at: now,
            last: 0,
            queues: std::array::from_fn(|_| Queue {
                order: VecDeque::new(),
                frames: HashMap::new(),
            }),
            ahead: 0,
        }
    }

    /// A frame with so many bytes of data is to be written to a peer.
    pub fn ask(&mut self, peer: Peer, priority: Priority, bytes: u32) -> Turn {
        self.last += 1;
        let turn = Turn(self.last);
        let queue = self.queue(priority);
        let frames = queue.frames.entry(peer).or_insert_with(|| {
            queue.order.push_back(peer);
            Frames::default()
        });
        frames.waiting.push_back((turn, bytes));
        turn
    }

    /// A frame is not to be written any more; nothing if it was its turn already.
    pub fn forget(&mut self, peer: Peer, priority: Priority, turn: Turn) {
        let queue = self.queue(priority);
        if let Some(frames) = queue.frames.get_mut(&peer) {
            frames.waiting.retain(|(other, _)| *other != turn);
            if frames.waiting.is_empty() {
                queue.frames.remove(&peer);
                queue.order.retain(|other| *other != peer);
            }
        }
    }

    /// The frame that may be written now: its bytes are taken from the rate.
    pub fn next(&mut self, now: Instant) -> Option<Turn> {
        if now < self.free_at {
            return None;
        }
        let [demand, readahead, background] = &mut self.queues;
        let others_wait = !readahead.is_empty() || !background.is_empty();
        let is_ahead = others_wait && self.ahead >= SHARE * QUANTUM;
        let (turn, bytes) = if !demand.is_empty() && !is_ahead {
            let (turn, bytes) = demand.next()?;
            self.ahead = match others_wait {
                true => self.ahead.saturating_add(bytes),
                false => 0,
            };
            (turn, bytes)
        } else {
            let next = readahead.next().or_else(|| background.next());
            let (turn, bytes) = next?;
            self.ahead = self.ahead.saturating_sub(SHARE * bytes);
            (turn, bytes)
        };
        let nanoseconds = u64::from(bytes).saturating_mul(1_000_000_000) / self.rate;
        self.free_at = self.free_at.max(now) + Duration::from_nanos(nanoseconds);
        Some(turn)
    }

    /// When [`Self::next`] has one; `None` if nothing waits.
    pub fn next_at(&self) -> Option<Instant> {
        let is_waiting = self.queues.iter().any(|queue| !queue.is_empty());
        is_waiting.then_some(self.free_at)
    }

    fn queue(&mut self, priority: Priority) -> &mut Queue<Peer> {
        let [demand, readahead, background] = &mut self.queues;
        match priority {
            Priority::Demand => demand,
            Priority::Readahead => readahead,
            Priority::Background => background,
        }
    }
}

impl<Peer: Copy + Eq + Hash> Queue<Peer> {
    fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The next frame, with its bytes.
    fn next(&mut self) -> Option<(Turn, u32)> {
        loop {
            let peer = *self.order.front()?;
            let frames = self.frames.get_mut(&peer)?;
            let &(turn, bytes) = frames.waiting.front()?;
            if bytes > frames.left {
                // Longer than the others' share is none for ever.
                frames.left += QUANTUM;
                self.order.rotate_left(1);
                continue;
            }
            frames.left -= bytes;
            frames.waiting.pop_front();
            if frames.waiting.is_empty() {
                self.frames.remove(&peer);
                self.order.pop_front();
            }
            return Some((turn, bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn turns(rate: u64, now: Instant) -> Turns<u32> {
        Turns::new(NonZeroU64::new(rate).unwrap(), now)
    }

    #[test]
    fn the_rate_is_kept_and_idle_time_is_not_saved_up() {
        let start = Instant::now();
        let mut turns = turns(1000, start);
        let asked: Vec<Turn> = (0..3)
            .map(|_| turns.ask(1, Priority::Demand, 500))
            .collect();
        let half = Duration::from_millis(500);
        assert_eq!(turns.next(start), Some(asked[0]));
        assert_eq!(turns.next(start), None);
        assert_eq!(turns.next_at(), Some(start + half));
        assert_eq!(turns.next(start + half), Some(asked[1]));
        let later = start + Duration::from_secs(100);
        assert_eq!(turns.next(later), Some(asked[2]));
        assert_eq!(turns.next_at(), None);
        turns.ask(1, Priority::Demand, 500);
        assert_eq!(turns.next(later), None);
    }

    #[test]
    fn demand_has_three_quarters_while_others_wait() {
        let now = Instant::now();
        let mut turns = turns(u64::MAX, now);
        let mut asked = BTreeMap::new();
        for priority in [Priority::Background, Priority::Readahead, Priority::Demand] {
            for _ in 0..100 {
                let turn = turns.ask(priority as u32, priority, PIECE_MAX);
                asked.insert(turn.0, priority);
            }
        }
        let mut next = || Some(asked[&turns.next(now)?.0]);
        let first: Vec<Priority> = std::iter::from_fn(&mut next).take(120).collect();
        let count = |priority| first.iter().filter(|other| **other == priority).count();
        assert_eq!(count(Priority::Demand), 90);
        assert_eq!(count(Priority::Readahead), 30);
        assert_eq!(first[..3], [Priority::Demand; 3]);
        assert_eq!(std::iter::from_fn(&mut next).count(), 180);
    }

    proptest! {
        /// Whatever is asked and given up: each frame has its turn once or is forgotten, and peers that always have
        /// something waiting are sent as much.
        #[test]
        fn peers_share_the_line(
            frames in proptest::collection::vec((0..4_u32, 0..3_usize, 1..=PIECE_MAX, any::<bool>()), 1..200),
        ) {
            let now = Instant::now();
            let mut turns = turns(u64::MAX, now);
            let mut waiting = BTreeMap::new();
            for (peer, priority, bytes, is_given_up) in frames {
                let priority = Priority::ALL[priority];
                let turn = turns.ask(peer, priority, bytes);
                match is_given_up {
                    true => turns.forget(peer, priority, turn),
                    false => { waiting.insert(turn.0, (peer, priority, bytes)); }
                }
            }
            let mut sent: BTreeMap<(Priority, u32), u32> = BTreeMap::new();
            while let Some(turn) = turns.next(now) {
                let (peer, priority, bytes) = waiting.remove(&turn.0).expect("its turn once");
                *sent.entry((priority, peer)).or_default() += bytes;
                let of_both = |other| waiting.values().any(|(peer, p, _)| (*peer, *p) == (other, priority));
                let busy: Vec<u32> = (0..4).filter(|peer| of_both(*peer)).collect();
                let bytes = |peer: &u32| sent.get(&(priority, *peer)).copied().unwrap_or(0);
                let (least, most) = (busy.iter().map(bytes).min(), busy.iter().map(bytes).max());
                if let (Some(least), Some(most)) = (least, most) {
                    prop_assert!(most - least <= 3 * QUANTUM, "{most} and {least}");
                }
            }
            prop_assert!(waiting.is_empty());
            prop_assert!(turns.queues.iter().all(|queue| queue.frames.is_empty() && queue.order.is_empty()));
        }
    }
}
