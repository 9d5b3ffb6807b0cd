// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How many peers are sent at the same time what nobody waits for. A line that all share brings none of them
//! anything whole that it could pass on; so some are served as quickly as is of use, and the others wait their turn.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use crate::Refused;

/// Bytes a second that each is to have: little, as those who fetch the same ask for different parts and pass them on.
const ENOUGH: u64 = 64 * 1024;
/// The fewest and the most that are served at the same time.
const SLOTS_MIN: usize = 4;
const SLOTS_MAX: usize = 64;
/// How long a peer has its place when others wait.
const TURN: Duration = Duration::from_secs(10);
/// How long a place is kept for the one whose turn it is.
const PROMISE: Duration = Duration::from_secs(2);
/// Who asked for nothing for so long does without.
const UNUSED: Duration = Duration::from_secs(5);
/// How often the rate is measured.
const WINDOW: Duration = Duration::from_secs(2);
/// Those who wait and are remembered.
const WAITING_MAX: usize = 256;
/// When somebody who waits is to ask again, at the earliest.
const RETRY_MIN: Duration = Duration::from_millis(250);

/// The places of those who are served.
pub struct Slots<Peer> {
    /// The rate that is configured, in bytes a second.
    limit: Option<NonZeroU64>,
    /// Who has had a place longest comes first.
    holders: VecDeque<Holder<Peer>>,
    /// A place that is kept for somebody, until when.
    promised: Option<(Peer, Instant)>,
    /// Who waits longest comes first.
    waiting: VecDeque<Peer>,
    /// When the next place changes hands.
    turns_at: Instant,
    measured: Measured<Peer>,
}

struct Holder<Peer> {
    peer: Peer,
    /// When it last asked.
    used: Instant,
}

/// What the line carries.
struct Measured<Peer> {
    begun: Instant,
    bytes: u64,
    /// The peers whose bytes had to wait for the line.
    held_up: HashSet<Peer>,
    /// Bytes a second in the last window, if the line was full.
    rate: Option<u64>,
}

impl<Peer: Copy + Eq + Hash> Slots<Peer> {
    /// Nobody is served. `limit` is the rate of the line in bytes a second, if it is known.
    pub fn new(limit: Option<NonZeroU64>, now: Instant) -> Self {
        Slots {
            limit,
            holders: VecDeque::new(),
            promised: None,
            waiting: VecDeque::new(),
            turns_at: now + TURN,
            measured: Measured {
                begun: now,
                bytes: 0,
                held_up: HashSet::new(),
                rate: None,
            },
        }
    }

    /// A peer asks for something that nobody waits for.
    ///
    /// # Errors
    /// When it may ask again, if all places are taken.
    pub fn ask(&mut self, peer: Peer, now: Instant) -> Result<(), Refused> {
        self.measured.turn(self.holders.len(), now);
        self.turn(now);
        if let Some(holder) = self.holders.iter_mut().find(|holder| holder.peer == peer) {
            holder.used = now;
            return Ok(());
        }
        self.holders.retain(|holder| holder.used + UNUSED > now);
        let is_promised = self.promised.is_some_and(|(other, _)| other == peer);
        let kept = usize::from(self.promised.is_some() && !is_promised);
        if self.holders.len() + kept < self.places() {
            self.waiting.retain(|other| *other != peer);
            if is_promised {
                self.promised = None;
            }
            self.holders.push_back(Holder { peer, used: now });
            return Ok(());
        }
        if !self.waiting.contains(&peer) {
            if self.waiting.len() == WAITING_MAX {
                self.waiting.pop_front();
            }
            self.waiting.push_back(peer);
        }
        let until_turn = self.turns_at.saturating_duration_since(now);
        Err(Refused {
            retry_after: until_turn.max(RETRY_MIN),
        })
    }

    /// A peer was sent so many bytes, and had to wait for the line or did not.
    pub fn sent(&mut self, peer: Peer, bytes: u32, is_held_up: bool, now: Instant) {
        self.measured.turn(self.holders.len(), now);
        self.measured.bytes += u64::from(bytes);
        // As many as have places at most, and those whose readers wait.
        if is_held_up && self.measured.held_up.len() < WAITING_MAX {
            self.measured.held_up.insert(peer);
        }
    }

    /// How many are served at the same time: all, as long as the line is not full.
    fn places(&self) -> usize {
        let rate = self.limit.map(NonZeroU64::get).or(self.measured.rate);
        rate.map_or(SLOTS_MAX, |rate| {
            let places = usize::try_from(rate / ENOUGH).unwrap_or(SLOTS_MAX);
            places.clamp(SLOTS_MIN, SLOTS_MAX)
        })
    }

    /// Gives a place to who waits longest when its time has come; each has its own for [`TURN`].
    fn turn(&mut self, now: Instant) {
        if self.promised.is_some_and(|(_, until)| until <= now) {
            self.promised = None;
        }
        if now < self.turns_at {
            return;
        }
        let places = self.places();
        let part = u32::try_from(places).unwrap_or(u32::MAX);
        self.turns_at = now + TURN / part;
        if self.holders.len() < places {
            return;
        }
        if let Some(next) = self.waiting.pop_front() {
            self.holders.pop_front();
            self.promised = Some((next, now + PROMISE));
        }
    }
}

impl<Peer> Measured<Peer> {
    /// Begins a new window when this one is over. The line was full if it held up half of those who were served:
    /// one of them may just be slow.
    fn turn(&mut self, served: usize, now: Instant) {
        let elapsed = now.saturating_duration_since(self.begun);
        if elapsed < WINDOW {
            return;
        }
        let is_full = !self.held_up.is_empty() && 2 * self.held_up.len() >= served;
        let rate = self.bytes as f64 / elapsed.as_secs_f64();
        self.rate = is_full.then_some(rate as u64);
        self.begun = now;
        self.bytes = 0;
        self.held_up.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// How many of so many peers are served in a time, who ask as often as they may, and how often each.
    fn served(
        slots: &mut Slots<u32>,
        peers: u32,
        start: Instant,
        time: Duration,
    ) -> BTreeMap<u32, u32> {
        let step = Duration::from_millis(100);
        let (mut served, mut rests) = (BTreeMap::new(), BTreeMap::new());
        let mut now = start;
        while now < start + time {
            for peer in 0..peers {
                if rests.get(&peer).is_some_and(|until| *until > now) {
                    continue;
                }
                match slots.ask(peer, now) {
                    Ok(()) => *served.entry(peer).or_default() += 1,
                    Err(refused) => {
                        rests.insert(peer, now + refused.retry_after);
                    }
                }
            }
            now += step;
        }
        served
    }

    #[test]
    fn a_narrow_line_serves_few_at_a_time_and_all_in_turn() {
        let start = Instant::now();
        let mut slots = Slots::new(NonZeroU64::new(125_000), start);
        let at_once = served(&mut slots, 24, start, Duration::from_secs(5));
        assert_eq!(at_once.len(), SLOTS_MIN);
        let minute = Duration::from_secs(60);
        let all = served(&mut slots, 24, start + Duration::from_secs(5), 2 * minute);
        assert_eq!(all.len(), 24);
        let (least, most) = (all.values().min(), all.values().max());
        assert!(least.unwrap() * 4 >= *most.unwrap(), "{all:?}");
        assert!(slots.holders.len() <= SLOTS_MIN);
    }

    #[test]
    fn nobody_is_refused_before_the_line_is_full() {
        let start = Instant::now();
        let mut slots = Slots::new(None, start);
        for peer in 0..SLOTS_MAX as u32 {
            assert_eq!(slots.ask(peer, start), Ok(()));
        }
        assert!(slots.ask(99, start).is_err());
        // One slow peer does not make a full line.
        let second = Duration::from_secs(1);
        slots.sent(3, 1_000_000, true, start + second);
        let places = |slots: &mut Slots<u32>, now| {
            slots.sent(3, 0, false, now);
            slots.places()
        };
        assert_eq!(places(&mut slots, start + 2 * second), SLOTS_MAX);
        for peer in 0..40 {
            slots.sent(peer, 125_000, true, start + 3 * second);
        }
        // 2.5 MB a second.
        assert_eq!(places(&mut slots, start + 4 * second), 38);
        assert_eq!(places(&mut slots, start + 6 * second), SLOTS_MAX);
    }

    #[test]
    fn a_place_that_is_not_used_is_another_one_s() {
        let start = Instant::now();
        let mut slots = Slots::new(NonZeroU64::new(1), start);
        for peer in 0..SLOTS_MIN as u32 {
            assert_eq!(slots.ask(peer, start), Ok(()));
        }
        let second = Duration::from_secs(1);
        assert_eq!(slots.ask(0, start + 4 * second), Ok(()));
        assert!(slots.ask(7, start + 4 * second).is_err());
        assert_eq!(slots.ask(7, start + 6 * second), Ok(()));
        assert_eq!(slots.holders.len(), 2);
    }
}
