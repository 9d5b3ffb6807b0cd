// SPDX-License-Identifier: GPL-2.0 OR MIT

//! When to announce what in the DHT.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use peerfs_format::Digest;

/// The announcements under way at a time.
const UNDER_WAY_MAX: usize = 8;
/// How long to wait for more nodes when there is a new one.
const HURRY_DELAY: Duration = Duration::from_secs(1);
/// The time between two announcements if all are to be told again.
const SPACING: Duration = Duration::from_millis(500);
/// And how long all of them take at most.
const SPREAD_MAX: Duration = Duration::from_secs(10 * 60);
/// A record is kept by so many nodes: who knows of more has told enough.
const KEPT_BY: usize = 20;

/// Announces each digest at once, then regularly, each at a time of its own; and all of them again while the node learns of
/// others, for a record that nobody took is of no use: whenever it knows of twice as many, until there are enough.
#[derive(Debug)]
pub struct Republisher {
    interval: Duration,
    due: HashMap<Digest, Instant>,
    order: BTreeSet<(Instant, Digest)>,
    under_way: usize,
    /// The nodes that were known when all was announced last.
    told: usize,
}

impl Republisher {
    /// Announces with this interval, or up to a quarter less.
    pub fn new(interval: Duration) -> Self {
        Republisher {
            interval,
            due: HashMap::new(),
            order: BTreeSet::new(),
            under_way: 0,
            told: 0,
        }
    }

    /// Announces a digest from now on.
    pub fn add(&mut self, digest: Digest, now: Instant) {
        if !self.due.contains_key(&digest) {
            self.schedule(digest, now);
        }
    }

    /// Announces a digest no more.
    pub fn remove(&mut self, digest: &Digest) {
        if let Some(at) = self.due.remove(digest) {
            self.order.remove(&(at, *digest));
        }
    }

    /// The next digest to announce, if one is due and not too many are under way.
    pub fn next(&mut self, now: Instant) -> Option<Digest> {
        let (at, digest) = *self.order.first()?;
        if at > now || self.under_way >= UNDER_WAY_MAX {
            return None;
        }
        self.under_way += 1;
        // What was begun at one time is not to come back at one time: the digest is as good as a random number.
        let [low, high, ..] = digest.0;
        let share = u32::from(u16::from_le_bytes([low, high]));
        let less = self.interval / 4 * share / u32::from(u16::MAX);
        self.schedule(digest, now + self.interval - less);
        Some(digest)
    }

    /// So long did no clock run: what is due by the time of day is so much earlier by this one.
    pub fn slept(&mut self, time: Duration) {
        let order = std::mem::take(&mut self.order);
        for (at, digest) in order {
            // A clock that has run for less began later than that.
            let at = at.checked_sub(time).unwrap_or(at);
            self.due.insert(digest, at);
            self.order.insert((at, digest));
        }
    }

    /// An announcement ended, well or not.
    pub fn finished(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// The node knows of so many others now.
    pub fn met(&mut self, nodes: usize, now: Instant) {
        if self.told < KEPT_BY && nodes >= (self.told * 2).max(1) {
            self.told = nodes;
            self.renew(now);
        }
    }

    /// What was announced is not true any more: the node has other addresses.
    pub fn renew(&mut self, now: Instant) {
        let digests: Vec<Digest> = self.due.keys().copied().collect();
        let count = u32::try_from(digests.len()).unwrap_or(u32::MAX).max(1);
        let spacing = SPACING.min(SPREAD_MAX / count);
        for (digest, place) in digests.into_iter().zip(0..) {
            let at = now + HURRY_DELAY + spacing * place;
            if self.due.get(&digest).is_some_and(|due| *due > at) {
                self.schedule(digest, at);
            }
        }
    }

    fn schedule(&mut self, digest: Digest, at: Instant) {
        if let Some(before) = self.due.insert(digest, at) {
            self.order.remove(&(before, digest));
        }
        self.order.insert((at, digest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(republisher: &mut Republisher, now: Instant) -> usize {
        let mut count = 0;
        while republisher.next(now).is_some() {
            republisher.finished();
            count += 1;
        }
        count
    }

    #[test]
    fn digests_are_announced_at_once_and_regularly() {
        let interval = Duration::from_secs(3600);
        let (mut republisher, now) = (Republisher::new(interval), Instant::now());
        for number in 0..3 {
            republisher.add(Digest([number; 32]), now);
        }
        assert_eq!(all(&mut republisher, now), 3);
        assert_eq!(all(&mut republisher, now + interval / 2), 0);
        republisher.remove(&Digest([1; 32]));
        assert_eq!(all(&mut republisher, now + interval), 2);
        republisher.slept(interval / 2);
        assert_eq!(all(&mut republisher, now + interval * 3 / 2), 2);
    }

    #[test]
    fn few_are_under_way_at_a_time() {
        let (mut republisher, now) = (Republisher::new(Duration::from_secs(1)), Instant::now());
        for number in 0..100 {
            republisher.add(Digest([number; 32]), now);
        }
        let mut under_way = 0;
        while republisher.next(now).is_some() {
            under_way += 1;
        }
        assert_eq!(under_way, UNDER_WAY_MAX);
        republisher.finished();
        assert!(republisher.next(now).is_some());
    }

    /// How many are announced in this time, and the most within a second of it.
    fn announced(republisher: &mut Republisher, from: Instant, time: Duration) -> (usize, usize) {
        let second = Duration::from_secs(1);
        let seconds = u32::try_from(time.as_secs()).unwrap();
        let counts = (1..=seconds).map(|passed| all(republisher, from + second * passed));
        counts.fold((0, 0), |(sum, most), count| (sum + count, most.max(count)))
    }

    #[test]
    fn all_is_told_again_while_the_node_learns_of_others_and_then_no_more() {
        const DIGESTS: usize = 100;
        let interval = Duration::from_secs(24 * 3600);
        let (mut republisher, start) = (Republisher::new(interval), Instant::now());
        for number in 0..DIGESTS {
            republisher.add(Digest([number as u8; 32]), start);
        }
        assert_eq!(all(&mut republisher, start), DIGESTS);
        let (minute, mut now) = (Duration::from_secs(60), start);
        let mut sum = 0;
        for nodes in 1..=300 {
            republisher.met(nodes, now);
            let (count, most) = announced(&mut republisher, now, minute);
            assert!(most <= 3, "{most} at once");
            sum += count;
            now += minute;
        }
        // With 1, 2, 4, 8, 16 and 32 nodes; the interval has not passed yet.
        assert_eq!(sum, 6 * DIGESTS);
        // In steady churn too.
        for nodes in [280, 300, 290, 310] {
            republisher.met(nodes, now);
        }
        assert_eq!(announced(&mut republisher, now, minute).0, 0);
        republisher.renew(now);
        assert_eq!(announced(&mut republisher, now, minute).0, DIGESTS);
    }

    #[test]
    fn what_was_begun_at_one_time_does_not_come_back_at_one_time() {
        let interval = Duration::from_secs(24 * 3600);
        let (mut republisher, start) = (Republisher::new(interval), Instant::now());
        for number in 0..=255 {
            republisher.add(Digest([number; 32]), start);
        }
        all(&mut republisher, start);
        let quarter = interval / 4;
        assert_eq!(all(&mut republisher, start + quarter * 3 - SPACING), 0);
        let half = all(&mut republisher, start + quarter * 3 + quarter / 2);
        assert!((100..=156).contains(&half), "{half}");
        assert_eq!(half + all(&mut republisher, start + interval), 256);
    }
}
