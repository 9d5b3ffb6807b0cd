// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What strangers may write to this node's part of the DHT.

use std::time::Duration;

use libp2p::Multiaddr;

use super::*;

const LIFETIME: Duration = Duration::from_secs(6 * 3600);

fn records() -> ProviderRecords {
    ProviderRecords::new(PeerId::random(), fastrand::Rng::with_seed(7))
}

fn key(number: usize) -> RecordKey {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    RecordKey::new(&bytes)
}

fn record(number: usize, provider: PeerId, now: Instant) -> ProviderRecord {
    ProviderRecord {
        key: key(number),
        provider,
        expires: Some(now + LIFETIME),
        addresses: vec!["/ip4/192.0.2.1/tcp/1".parse().unwrap()],
    }
}

/// All places in which records are noted agree.
fn check(records: &ProviderRecords) {
    let held: usize = records.keys.values().map(Vec::len).sum();
    assert_eq!(records.expiry.len(), held);
    assert_eq!(records.shares.check(), held);
    assert!(records.keys.values().all(|records| !records.is_empty()));
}

#[test]
fn a_record_is_kept_renewed_removed_and_expires() {
    let now = Instant::now();
    let (mut records, peer) = (records(), PeerId::random());
    records.add_provider(record(1, peer, now)).unwrap();
    let later = now + LIFETIME / 2;
    records.add_provider(record(1, peer, later)).unwrap();
    records.add_provider(record(2, peer, now)).unwrap();
    assert_eq!(records.providers(&key(1)).len(), 1);
    check(&records);
    // Whether or not somebody asks for it.
    records.expire(now + LIFETIME);
    assert_eq!(records.providers(&key(1)).len(), 1);
    assert!(records.providers(&key(2)).is_empty());
    records.remove_provider(&key(1), &peer);
    check(&records);
    assert!(records.keys.is_empty() && records.shares.check() == 0);
}

#[test]
fn a_record_is_small_whatever_was_sent() {
    let now = Instant::now();
    let mut records = records();
    let addresses: Vec<Multiaddr> = (0..300)
        .map(|host| {
            format!("/ip4/192.0.2.{}/tcp/{}", host % 250, host + 1)
                .parse()
                .unwrap()
        })
        .chain([format!("/dns4/{}/tcp/1", "x".repeat(5000)).parse().unwrap()])
        .collect();
    let fat = ProviderRecord {
        addresses,
        ..record(1, PeerId::random(), now)
    };
    records.add_provider(fat).unwrap();
    let kept = &records.providers(&key(1))[0].addresses;
    assert_eq!(kept.len(), addresses::ADDRESSES_MAX);
    // Keys are digests.
    let long = ProviderRecord {
        key: RecordKey::new(&[7; 5000]),
        ..record(1, PeerId::random(), now)
    };
    assert!(records.add_provider(long).is_err());
}

#[test]
fn nobody_crowds_out_the_others() {
    let now = Instant::now();
    let mut records = records();
    let local = records.local;
    let (honest, flooders): (PeerId, Vec<_>) = (
        PeerId::random(),
        (0..40).map(|_| PeerId::random()).collect(),
    );
    for number in 0..100 {
        records.add_provider(record(number, honest, now)).unwrap();
    }
    for (place, flooder) in flooders.iter().enumerate() {
        for number in 0..KEYS_PER_PEER + 100 {
            let key = (place + 1) * 1_000_000 + number;
            // Refused above its share, or taken in place of another one.
            let _ = records.add_provider(record(key, *flooder, now));
        }
        assert!(records.shares.count(flooder) <= KEYS_PER_PEER);
    }
    check(&records);
    assert_eq!(records.expiry.len(), RECORDS_MAX);
    assert_eq!(records.shares.count(&honest), 100);
    // Own announcements are always taken, however many strangers there are.
    for number in 0..10 {
        let own = ProviderRecord::new(key(number + (1 << 40)), local, Vec::new());
        records.add_provider(own).unwrap();
    }
    assert_eq!(records.provided().count(), 10);
    assert_eq!(records.providers(&key(1 << 40))[0].provider, local);
    records.expire(now + LIFETIME);
    assert!(records.keys.is_empty());
    assert_eq!(records.provided().count(), 10);
    records.remove_provider(&key(1 << 40), &local);
    assert_eq!(records.provided().count(), 9);
}

#[test]
fn who_came_first_does_not_stay_for_ever() {
    let now = Instant::now();
    let mut records = records();
    let first = PeerId::random();
    records.add_provider(record(1, first, now)).unwrap();
    for _ in 0..200 {
        records
            .add_provider(record(1, PeerId::random(), now))
            .unwrap();
        check(&records);
    }
    let providers = records.providers(&key(1));
    assert_eq!(providers.len(), RECORDS_PER_KEY);
    assert!(providers.iter().all(|record| record.provider != first));
}
