// SPDX-License-Identifier: GPL-2.0 OR MIT

//! When to announce what in the DHT.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use peerfs_format::Digest;

/// The announcements under way at a time.
const UNDER_WAY_MAX: usize = 8;
/// All is announced again at most so often when the node learns of other nodes.
const HURRY_INTERVAL: Duration = Duration::from_secs(20);
/// How long to wait for more nodes when there is a new one.
const HURRY_DELAY: Duration = Duration::from_secs(1);

/// Announces each digest at once, then regularly; and all of them soon after the node learned of
/// nodes that were not there before, for a record that nobody took is of no use.
#[derive(Debug)]
pub struct Republisher {
    interval: Duration,
    due: HashMap<Digest, Instant>,
    order: BTreeSet<(Instant, Digest)>,
    under_way: usize,
    hurried: Option<Instant>,
}

impl Republisher {
    /// Announces with this interval.
    pub fn new(interval: Duration) -> Self {
        Republisher {
            interval,
            due: HashMap::new(),
            order: BTreeSet::new(),
            under_way: 0,
            hurried: None,
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
        self.schedule(digest, now + self.interval);
        Some(digest)
    }

    /// An announcement ended, well or not.
    pub fn finished(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// The node learned of another one.
    pub fn hurry(&mut self, now: Instant) {
        let soon = now + HURRY_DELAY;
        let at = match self.hurried {
            Some(last) => soon.max(last + HURRY_INTERVAL),
            None => soon,
        };
        if self.hurried.is_some_and(|last| last > now) {
            // Is going to happen already.
            return;
        }
        self.hurried = Some(at);
        let later: Vec<Digest> = self
            .due
            .iter()
            .filter(|(_, due)| **due > at)
            .map(|(digest, _)| *digest)
            .collect();
        for digest in later {
            self.schedule(digest, at);
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

    #[test]
    fn new_nodes_are_told_soon_but_not_all_the_time() {
        let (mut republisher, now) = (Republisher::new(Duration::from_secs(3600)), Instant::now());
        republisher.add(Digest([1; 32]), now);
        assert_eq!(all(&mut republisher, now), 1);
        republisher.hurry(now);
        republisher.hurry(now);
        assert_eq!(all(&mut republisher, now), 0);
        assert_eq!(all(&mut republisher, now + HURRY_DELAY), 1);
        let next = now + HURRY_DELAY * 2;
        republisher.hurry(next);
        assert_eq!(all(&mut republisher, next + HURRY_DELAY), 0);
        assert_eq!(all(&mut republisher, next + HURRY_INTERVAL), 1);
    }
}
