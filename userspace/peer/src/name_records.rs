// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Records of names in this node's part of the DHT. Strangers write to it: what is no record of its key's name is refused,
//! an older one as well, and their number is bounded.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use libp2p::kad::store::{Error, Result};
use libp2p::kad::Record;
use peerfs_format::Digest;
use peerfs_names::{Point, SignedRecord};

/// All records. Each has somewhat more than a KiB at most.
const RECORDS_MAX: usize = 8192;

/// The records of names that this node keeps for others.
pub(crate) struct NameRecords {
    records: HashMap<Digest, (Point, Instant, Record)>,
    expiry: BTreeSet<(Instant, Digest)>,
    random: fastrand::Rng,
}

impl NameRecords {
    pub(crate) fn new(random: fastrand::Rng) -> Self {
        NameRecords {
            records: HashMap::new(),
            expiry: BTreeSet::new(),
            random,
        }
    }

    pub(crate) fn get(&self, topic: &Digest) -> Option<Cow<'_, Record>> {
        let (_, _, record) = self.records.get(topic)?;
        Some(Cow::Borrowed(record))
    }

    /// Keeps a record that is not older than the one that is there; of two for one place the first one.
    pub(crate) fn put(&mut self, topic: Digest, record: Record) -> Result<()> {
        // The lifetime is this node's, so there always is one.
        let expires = record.expires.ok_or(Error::ValueTooLarge)?;
        let signed = SignedRecord::parse(&record.value).map_err(|_| Error::ValueTooLarge)?;
        if signed.record().name.topic() != topic {
            return Err(Error::ValueTooLarge);
        }
        let point = Point::from(&signed);
        match self.records.get(&topic) {
            Some((known, _, old))
                if *known > point || *known == point && old.value != record.value =>
            {
                return Err(Error::MaxRecords);
            }
            Some(_) => self.remove(&topic),
            None => self.make_room(),
        }
        self.expiry.insert((expires, topic));
        self.records.insert(topic, (point, expires, record));
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
        if let Some((_, expires, _)) = self.records.remove(topic) {
            self.expiry.remove(&(expires, *topic));
        }
    }

    /// Any one goes for the next: whoever makes up many names need not come first.
    fn make_room(&mut self) {
        if self.records.len() < RECORDS_MAX {
            return;
        }
        let place = self.random.usize(..self.records.len());
        if let Some(victim) = self.records.keys().nth(place).copied() {
            self.remove(&victim);
        }
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
        records.put(topic, record)
    }

    #[test]
    fn what_is_no_newer_record_of_the_name_is_refused() {
        let key = SecretKey::parse(&SecretKey::generate().unwrap()).unwrap();
        let later = Instant::now() + Duration::from_secs(60);
        let mut records = NameRecords::new(fastrand::Rng::with_seed(7));
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
            assert!(records.put(topic, record).is_err());
        }
        assert_eq!(records.expiry.len(), records.records.len());
        records.expire(later);
        assert!(records.records.is_empty() && records.expiry.is_empty());
    }

    #[test]
    fn there_are_never_more_than_there_is_room_for() {
        let key = SecretKey::parse(&SecretKey::generate().unwrap()).unwrap();
        let later = Instant::now() + Duration::from_secs(60);
        let mut records = NameRecords::new(fastrand::Rng::with_seed(7));
        let one = signed(&key, "base", 1, 1);
        put(&mut records, &one, later).unwrap();
        // As many topics as there is room for, without their signatures.
        let sample = records.records.values().next().unwrap().clone();
        for number in 1..RECORDS_MAX as u64 {
            let mut topic = [0; 32];
            topic[..8].copy_from_slice(&number.to_le_bytes());
            records.records.insert(Digest(topic), sample.clone());
            records.expiry.insert((sample.1, Digest(topic)));
        }
        put(&mut records, &signed(&key, "other", 1, 1), later).unwrap();
        assert_eq!(records.records.len(), RECORDS_MAX);
        assert_eq!(records.expiry.len(), RECORDS_MAX);
    }
}
