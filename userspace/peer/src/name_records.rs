// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Records of names in this node's part of the DHT. Strangers write to it: what is no record of its key's name is refused,
//! an older one as well, and their number is bounded, for each peer too.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use libp2p::kad::store::{Error, Result};
use libp2p::kad::Record;
use libp2p::PeerId;
use peerfs_format::Digest;
use peerfs_names::{Point, SignedRecord};

use crate::shares::Shares;

/// All records. Each has somewhat more than a KiB at most.
const RECORDS_MAX: usize = 8192;
/// Those that one peer may have put here: as many as a daemon knows names.
const RECORDS_PER_PEER: usize = 1024;

/// The records of names that this node keeps for others.
#[derive(Default)]
pub(crate) struct NameRecords {
    records: HashMap<Digest, Kept>,
    expiry: BTreeSet<(Instant, Digest)>,
    shares: Shares,
}

/// A record that is kept.
#[derive(Clone)]
struct Kept {
    point: Point,
    /// Of whose share it is; of nobody's if this node has put it itself.
    peer: Option<PeerId>,
    expires: Instant,
    record: Record,
}

impl NameRecords {
    pub(crate) fn get(&self, topic: &Digest) -> Option<Cow<'_, Record>> {
        let kept = self.records.get(topic)?;
        Some(Cow::Borrowed(&kept.record))
    }

    /// Keeps a record that a peer has put, or this node itself, and that is not older than the one that is there; of two for
    /// one place the first one.
    pub(crate) fn put(
        &mut self,
        peer: Option<PeerId>,
        topic: Digest,
        record: Record,
    ) -> Result<()> {
        // The lifetime is this node's, so there always is one.
        let expires = record.expires.ok_or(Error::ValueTooLarge)?;
        let signed = SignedRecord::parse(&record.value).map_err(|_| Error::ValueTooLarge)?;
        if signed.record().name.topic() != topic {
            return Err(Error::ValueTooLarge);
        }
        let point = Point::from(&signed);
        let kept = Kept {
            point,
            peer,
            expires,
            record,
        };
        self.keep(topic, kept)
    }

    /// Keeps a record that is valid.
    fn keep(&mut self, topic: Digest, mut new: Kept) -> Result<()> {
        match self.records.get(&topic) {
            Some(old)
                if old.point > new.point
                    || old.point == new.point && old.record.value != new.record.value =>
            {
                return Err(Error::MaxRecords);
            }
            Some(old) => {
                // Of two who want it to be kept it is the one's who has less, or who has much could have it go by putting it.
                let both = old.peer.zip(new.peer);
                new.peer = both.map(|(old, new)| {
                    let has_more = self.shares.count(&old) > self.shares.count(&new);
                    if has_more {
                        new
                    } else {
                        old
                    }
                });
                self.remove(&topic);
            }
            None => self.make_room(new.peer.as_ref())?,
        }
        self.expiry.insert((new.expires, topic));
        if let Some(peer) = new.peer {
            self.shares.add(peer, new.expires, topic);
        }
        self.records.insert(topic, new);
        Ok(())
    }

    /// Forgets the records that have expired.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some((at, topic)) = self.expiry.first().copied() {
            if at > now {
                return;
            }
            self.remove(&topic);
        }
    }

    pub(crate) fn remove(&mut self, topic: &Digest) {
        if let Some(kept) = self.records.remove(topic) {
            self.expiry.remove(&(kept.expires, *topic));
            if let Some(peer) = kept.peer {
                self.shares.remove(peer, kept.expires, *topic);
            }
        }
    }

    /// Makes room for one more of a peer, or of this node itself: of the peer that has most the one goes that expires first.
    fn make_room(&mut self, peer: Option<&PeerId>) -> Result<()> {
        if peer.is_some_and(|peer| self.shares.count(peer) >= RECORDS_PER_PEER) {
            return Err(Error::MaxRecords);
        }
        if self.records.len() >= RECORDS_MAX {
            let (_, topic) = self.shares.first_to_go().ok_or(Error::MaxRecords)?;
            self.remove(&topic);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use libp2p::kad::RecordKey;
    use peerfs_names::{Name, SecretKey};

    use super::*;

    fn signed(key: &SecretKey, name: &str, sequence: u64, image: u8) -> SignedRecord {
        let record = peerfs_names::Record {
            name: Name::new(key.public(), name).unwrap(),
            signer: key.public(),
            sequence,
            issued: 1,
            expires: 2,
            manifest: Digest([image; 32]),
            trace: None,
            replicas: 0,
            grant: None,
        };
        record.sign(key).unwrap()
    }

    fn put(records: &mut NameRecords, signed: &SignedRecord, expires: Instant) -> Result<()> {
        let topic = signed.record().name.topic();
        let mut record = Record::new(RecordKey::new(&topic.0), signed.bytes().to_vec());
        record.expires = Some(expires);
        records.put(Some(PeerId::random()), topic, record)
    }

    #[test]
    fn what_is_no_newer_record_of_the_name_is_refused() {
        let key = SecretKey::parse(&SecretKey::generate().unwrap()).unwrap();
        let later = Instant::now() + Duration::from_secs(60);
        let mut records = NameRecords::default();
        let second = signed(&key, "base", 2, 2);
        put(&mut records, &second, later).unwrap();
        assert!(put(&mut records, &signed(&key, "base", 1, 1), later).is_err());
        assert!(put(&mut records, &signed(&key, "base", 2, 7), later).is_err());
        // As it is put again when it is announced anew.
        put(&mut records, &second, later + Duration::from_secs(1)).unwrap();
        let third = signed(&key, "base", 3, 3);
        put(&mut records, &third, later).unwrap();
        let topic = third.record().name.topic();
        assert_eq!(records.get(&topic).unwrap().value, third.bytes());

        let other = signed(&key, "other", 1, 1);
        for (topic, value) in [
            (topic, other.bytes().to_vec()),
            (other.record().name.topic(), Vec::new()),
            (other.record().name.topic(), vec![0; 1 << 20]),
        ] {
            let mut record = Record::new(RecordKey::new(&topic.0), value);
            record.expires = Some(later);
            assert!(records.put(None, topic, record).is_err());
        }
        check(&records);
        records.expire(later);
        assert!(records.records.is_empty());
        check(&records);
    }

    /// All places in which records are noted agree.
    #[track_caller]
    fn check(records: &NameRecords) {
        assert_eq!(records.expiry.len(), records.records.len());
        let others = records.records.values().filter(|kept| kept.peer.is_some());
        assert_eq!(records.shares.check(), others.count());
    }

    #[test]
    fn nobody_drives_out_the_others() {
        let key = SecretKey::parse(&SecretKey::generate().unwrap()).unwrap();
        let now = Instant::now();
        let value = signed(&key, "base", 1, 1);
        let mut records = NameRecords::default();
        // Any topic, without the signature of each.
        let mut keep = |peer: Option<PeerId>, number: u64, after: u64| {
            let mut topic = [0; 32];
            topic[..8].copy_from_slice(&number.to_le_bytes());
            let record = Record::new(RecordKey::new(&topic), value.bytes().to_vec());
            let kept = Kept {
                point: Point::from(&value),
                peer,
                expires: now + Duration::from_secs(after),
                record,
            };
            let is_kept = records.keep(Digest(topic), kept).is_ok();
            if number.is_multiple_of(1000) {
                check(&records);
            }
            is_kept
        };
        let honest = PeerId::random();
        for number in 0..50 {
            // They are the oldest.
            assert!(keep(Some(honest), number, 1));
            assert!(keep(None, 50 + number, 1));
        }
        for flooder in 1..=20 {
            let peer = PeerId::random();
            for number in 0..RECORDS_PER_PEER as u64 + 10 {
                let is_kept = keep(Some(peer), flooder * 1_000_000 + number, 100);
                assert!(is_kept || number >= 100, "{flooder} {number}");
            }
            // Nor by putting what they have put.
            for number in 0..50 {
                assert!(keep(Some(peer), number, 2));
            }
        }
        assert_eq!(records.records.len(), RECORDS_MAX);
        assert_eq!(records.shares.count(&honest), 50);
        let own = records.records.values().filter(|kept| kept.peer.is_none());
        assert_eq!(own.count(), 50);
    }
}
