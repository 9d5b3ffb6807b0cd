// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Records that others offer: those of a name that come one soon after another are brought to the disk together, for each time
//! that is done the disk is waited for.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use peerfs_format::Digest;
use peerfs_names::{Point, SignedRecord};

/// A name is not brought to the disk more often for what is offered.
const PAUSE: Duration = Duration::from_millis(100);
/// Records of a name that wait; those that are newest stay.
const WAITING_MAX: usize = 16;

/// The records that wait, by the topics of their names.
#[derive(Default)]
pub(super) struct Offers(HashMap<Digest, Offered>);

#[derive(Default)]
struct Offered {
    /// In no order.
    waiting: Vec<SignedRecord>,
    /// When some were taken to be saved.
    taken: Option<Instant>,
}

impl Offers {
    /// Has a record wait; one that waits already is not there twice.
    pub(super) fn add(&mut self, record: SignedRecord, now: Instant) {
        self.0.retain(|_, offered| {
            !offered.waiting.is_empty() || offered.pause(now) > Duration::ZERO
        });
        let topic = record.record().name.topic();
        let waiting = &mut self.0.entry(topic).or_default().waiting;
        if waiting.contains(&record) {
            return;
        }
        waiting.push(record);
        if waiting.len() > WAITING_MAX {
            let oldest = waiting.iter().enumerate();
            let oldest = oldest.min_by_key(|(_, record)| Point::from(*record));
            if let Some((place, _)) = oldest {
                waiting.swap_remove(place);
            }
        }
    }

    /// How long those of a topic are to wait for others.
    pub(super) fn pause(&self, topic: &Digest, now: Instant) -> Duration {
        let offered = self.0.get(topic);
        offered.map_or(Duration::ZERO, |offered| offered.pause(now))
    }

    /// All that wait of a topic, in the order in which they count.
    pub(super) fn take(&mut self, topic: &Digest, now: Instant) -> Vec<SignedRecord> {
        let Some(offered) = self.0.get_mut(topic) else {
            return Vec::new();
        };
        let mut taken = std::mem::take(&mut offered.waiting);
        if !taken.is_empty() {
            offered.taken = Some(now);
        }
        taken.sort_by_key(|record| Point::from(record));
        taken
    }
}

impl Offered {
    fn pause(&self, now: Instant) -> Duration {
        let until = self.taken.map(|taken| taken + PAUSE);
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use peerfs_names::{Name, Record, SecretKey};

    use super::*;

    fn record(key: &SecretKey, name: &str, sequence: u64) -> SignedRecord {
        let record = Record {
            name: Name::new(key.public(), name).unwrap(),
            signer: key.public(),
            sequence,
            issued: 1,
            expires: 2,
            manifest: Digest([7; 32]),
            trace: None,
            replicas: 0,
            grant: None,
        };
        record.sign(key).unwrap()
    }

    #[test]
    fn what_comes_soon_after_another_waits_for_more_and_the_newest_stay() {
        let key = SecretKey::parse(&SecretKey::generate().unwrap()).unwrap();
        let mut now = Instant::now();
        let mut offers = Offers::default();
        let topic = record(&key, "one", 1).record().name.topic();
        // The first one does not wait.
        offers.add(record(&key, "one", 1), now);
        assert_eq!(offers.pause(&topic, now), Duration::ZERO);
        assert_eq!(offers.take(&topic, now).len(), 1);
        assert!(offers.take(&topic, now).is_empty());
        for sequence in (2..=40).rev().chain(2..=40) {
            offers.add(record(&key, "one", sequence), now);
        }
        assert_eq!(offers.pause(&topic, now), PAUSE);
        now += PAUSE;
        assert_eq!(offers.pause(&topic, now), Duration::ZERO);
        let taken = offers.take(&topic, now);
        let sequences: Vec<u64> = taken.iter().map(|one| one.record().sequence).collect();
        let newest = 41 - WAITING_MAX as u64..=40;
        assert_eq!(sequences, newest.collect::<Vec<_>>());
        // Another name does not wait for it, and what is over is forgotten.
        let other = record(&key, "other", 1);
        let other_topic = other.record().name.topic();
        offers.add(other, now);
        assert_eq!(offers.pause(&other_topic, now), Duration::ZERO);
        assert_eq!(offers.0.len(), 2);
        now += PAUSE;
        offers.add(record(&key, "third", 1), now);
        assert!(!offers.0.contains_key(&topic) && offers.0.contains_key(&other_topic));
    }
}
