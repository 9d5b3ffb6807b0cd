// SPDX-License-Identifier: GPL-2.0 OR MIT

//! This node's part of the DHT: who is said to have what, and records of names.
//!
//! Strangers write to it, so that everything is bounded: the keys and the bytes of each peer, the records of
//! each key, all records. What this node announces itself is kept apart and always there.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::iter;
use std::time::Instant;

use libp2p::kad::store::{Error, RecordStore, Result};
use libp2p::kad::{ProviderRecord, Record, RecordKey};
use libp2p::PeerId;
use peerfs_format::Digest;

use crate::addresses;
use crate::name_records::NameRecords;
use crate::shares::Shares;

/// The keys that one peer may announce: more than a store of 256 GiB has packs.
pub(crate) const KEYS_PER_PEER: usize = 4096;
/// The records of one key, this node's own aside.
pub(crate) const RECORDS_PER_KEY: usize = 20;
/// All records. With addresses each has some 500 bytes.
const RECORDS_MAX: usize = 65536;

/// The provider records of a node.
pub(crate) struct ProviderRecords {
    local: PeerId,
    /// What this node announces.
    own: HashSet<Digest>,
    /// What others do.
    keys: HashMap<Digest, Vec<ProviderRecord>>,
    /// The keys of each peer.
    shares: Shares,
    /// All records by the time at which they expire.
    expiry: BTreeSet<(Instant, PeerId, Digest)>,
    names: NameRecords,
    random: fastrand::Rng,
}

impl ProviderRecords {
    pub(crate) fn new(local: PeerId, random: fastrand::Rng) -> Self {
        ProviderRecords {
            local,
            own: HashSet::new(),
            keys: HashMap::new(),
            shares: Shares::default(),
            expiry: BTreeSet::new(),
            names: NameRecords::default(),
            random,
        }
    }

    /// Forgets the records that have expired.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.names.expire(now);
        while let Some((at, peer, key)) = self.expiry.first().copied() {
            if at > now {
                return;
            }
            self.remove_record(&key, &peer);
        }
    }

    fn add(&mut self, mut record: ProviderRecord) -> Result<()> {
        let key = digest_of(&record.key).ok_or(Error::ValueTooLarge)?;
        let peer = record.provider;
        if peer == self.local {
            self.own.insert(key);
            return Ok(());
        }
        // The lifetime is this node's, so there always is one.
        let expires = record.expires.ok_or(Error::ValueTooLarge)?;
        record.addresses = addresses::useful(record.addresses);
        self.remove_record(&key, &peer);
        if self.shares.count(&peer) >= KEYS_PER_PEER {
            return Err(Error::MaxProvidedKeys);
        }
        self.make_room(&key);
        self.keys.entry(key).or_default().push(record);
        self.expiry.insert((expires, peer, key));
        self.shares.add(peer, expires, key);
        Ok(())
    }

    /// Makes room for a record of a key. A full key loses any of its records, so that who came first does
    /// not stay for ever; a full node loses the oldest record of the peer that has the most.
    fn make_room(&mut self, key: &Digest) {
        let of_key = self.keys.get(key).map_or(0, Vec::len);
        if of_key >= RECORDS_PER_KEY {
            let place = self.random.usize(..of_key);
            let victim = self.keys.get(key).and_then(|records| records.get(place));
            if let Some(peer) = victim.map(|record| record.provider) {
                self.remove_record(key, &peer);
            }
        }
        if self.expiry.len() >= RECORDS_MAX {
            if let Some((peer, key)) = self.shares.first_to_go() {
                self.remove_record(&key, &peer);
            }
        }
    }

    fn remove_record(&mut self, key: &Digest, peer: &PeerId) {
        let Some(records) = self.keys.get_mut(key) else {
            return;
        };
        let Some(place) = records.iter().position(|record| record.provider == *peer) else {
            return;
        };
        let record = records.swap_remove(place);
        if records.is_empty() {
            self.keys.remove(key);
        }
        if let Some(expires) = record.expires {
            self.expiry.remove(&(expires, *peer, *key));
            self.shares.remove(*peer, expires, *key);
        }
    }

    /// Keeps a record of a name that a peer wants to be kept for others.
    pub(crate) fn put_of(&mut self, peer: PeerId, record: Record) -> Result<()> {
        let topic = digest_of(&record.key).ok_or(Error::ValueTooLarge)?;
        self.names.put(Some(peer), topic, record)
    }

    fn own_record(&self, key: &Digest) -> ProviderRecord {
        // Without addresses: those of the moment are filled in.
        ProviderRecord::new(RecordKey::new(&key.0), self.local, Vec::new())
    }
}

fn digest_of(key: &RecordKey) -> Option<Digest> {
    Some(Digest(key.as_ref().try_into().ok()?))
}

impl RecordStore for ProviderRecords {
    type RecordsIter<'a> = iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = Box<dyn Iterator<Item = Cow<'a, ProviderRecord>> + 'a>;

    fn get(&self, key: &RecordKey) -> Option<Cow<'_, Record>> {
        self.names.get(&digest_of(key)?)
    }

    fn put(&mut self, record: Record) -> Result<()> {
        let topic = digest_of(&record.key).ok_or(Error::ValueTooLarge)?;
        // By this node itself.
        self.names.put(None, topic, record)
    }

    fn remove(&mut self, key: &RecordKey) {
        if let Some(topic) = digest_of(key) {
            self.names.remove(&topic);
        }
    }

    fn records(&self) -> Self::RecordsIter<'_> {
        iter::empty()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        self.add(record)
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let Some(key) = digest_of(key) else {
            return Vec::new();
        };
        let own = self.own.contains(&key).then(|| self.own_record(&key));
        let others = self.keys.get(&key).into_iter().flatten().cloned();
        own.into_iter().chain(others).collect()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        Box::new(self.own.iter().map(|key| Cow::Owned(self.own_record(key))))
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        let Some(key) = digest_of(key) else {
            return;
        };
        if *provider == self.local {
            self.own.remove(&key);
        } else {
            self.remove_record(&key, provider);
        }
    }
}

#[cfg(test)]
#[path = "provider_records_tests.rs"]
mod tests;
