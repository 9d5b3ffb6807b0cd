// SPDX-License-Identifier: GPL-2.0 OR MIT

use ring::signature::{Ed25519KeyPair, KeyPair};

use super::*;

const NOW: u64 = 1_800_000_000;

fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn announce(seed: u16, host: &str, issued: u64, bytes: u64) -> SignedWilling {
    let mut secret = [0; 32];
    secret[..2].copy_from_slice(&seed.to_le_bytes());
    let key = Ed25519KeyPair::from_seed_unchecked(&secret).unwrap();
    let willing = Willing {
        node: NodeKey(key.public_key().as_ref().try_into().unwrap()),
        issued,
        expires: issued + 3600,
        bytes,
        addresses: vec![format!("{host}:4001").parse().unwrap()],
    };
    let sign = |message: &[u8]| key.sign(message).as_ref().try_into().unwrap();
    willing.sign(sign).unwrap()
}

fn publisher(byte: u8) -> PublisherKey {
    PublisherKey([byte; 32])
}

fn account(images: &[(u8, u64, u8)]) -> Account {
    let entry = |&(image, bytes, copies): &(u8, u64, u8)| Entry {
        image: Digest([image; 32]),
        bytes,
        copies,
    };
    Account::new(images.iter().map(entry).collect()).unwrap()
}

#[test]
fn the_latest_word_of_a_node_counts_as_long_as_it_holds() {
    let mut roster = Roster::default();
    let mut offer =
        |issued, bytes| roster.offer(announce(1, "198.51.100.1", issued, bytes), time(NOW));
    assert_eq!(offer(NOW - 3600, 1 << 30), Verdict::Expired);
    assert_eq!(
        offer(NOW + 601, 1 << 30),
        Verdict::Expired,
        "it is of the future"
    );
    assert_eq!(offer(NOW, 1 << 30), Verdict::New);
    assert_eq!(offer(NOW, 7 << 30), Verdict::Known);
    assert_eq!(offer(NOW - 1, 1 << 30), Verdict::Known);
    roster.set_account(publisher(1), &account(&[(1, 10, 3)]), 1);
    roster.refresh();
    let image = Digest([1; 32]);
    assert_eq!(roster.order(&image).len(), 1);
    // It is not willing any more.
    let last = announce(1, "198.51.100.1", NOW + 1, 0);
    assert_eq!(roster.offer(last, time(NOW)), Verdict::New);
    roster.refresh();
    assert!(roster.order(&image).is_empty());
    roster.expire(time(NOW + 3601));
    assert_eq!(roster.announcements().count(), 0);
}

#[test]
fn each_network_has_one_before_any_has_two() {
    let mut roster = Roster::default();
    roster.set_account(publisher(1), &account(&[(1, 10, 3), (2, 10, 3)]), 2);
    // One party with many keys and much room, and five others.
    for seed in 0..100 {
        let host = format!("203.0.113.{seed}");
        roster.offer(announce(seed, &host, NOW, u64::MAX), time(NOW));
    }
    for seed in 0..5 {
        let host = format!("198.51.{seed}.1");
        roster.offer(announce(1000 + seed, &host, NOW, 1 << 30), time(NOW));
    }
    roster.refresh();
    for image in [1, 2] {
        let order = roster.order(&Digest([image; 32])).to_vec();
        assert_eq!(order.len(), ORDER_MAX);
        let networks: HashSet<_> = order[..6]
            .iter()
            .map(|node| roster.willing(node).unwrap().network())
            .collect();
        assert_eq!(networks.len(), 6);
        for node in &order {
            assert!(roster
                .images_of(node)
                .any(|other| *other == Digest([image; 32])));
        }
    }
    // Where all have one network, machines are told apart.
    let mut roster = Roster::default();
    roster.set_account(publisher(1), &account(&[(1, 10, 3)]), 1);
    for seed in 0..9 {
        let host = if seed < 7 {
            "10.0.0.1".to_owned()
        } else {
            format!("10.0.0.{seed}")
        };
        roster.offer(announce(seed, &host, NOW, 1 << 30), time(NOW));
    }
    roster.refresh();
    let order = roster.order(&Digest([1; 32]));
    let hosts: HashSet<_> = order[..3]
        .iter()
        .map(|node| roster.willing(node).unwrap().host())
        .collect();
    assert_eq!((hosts.len(), order.len()), (3, 9));
}

#[test]
fn nodes_have_images_as_their_weight_is_and_few_places_change_with_one_node() {
    let mut roster = Roster::default();
    let images: Vec<(u8, u64, u8)> = (0..=255).map(|image| (image, 10, 3)).collect();
    roster.set_account(publisher(1), &account(&images), images.len());
    for seed in 0..30_u16 {
        let host = format!("198.51.{seed}.1");
        // 2 and 5 of weight.
        let bytes = if seed < 15 { 1 << 30 } else { 8 << 30 };
        roster.offer(announce(seed, &host, NOW, bytes), time(NOW));
    }
    roster.refresh();
    let firsts = |roster: &Roster| -> Vec<Vec<NodeKey>> {
        let images = roster.images().map(|(image, _)| *image).collect::<Vec<_>>();
        images
            .iter()
            .map(|image| roster.order(image)[..3].to_vec())
            .collect()
    };
    let before = firsts(&roster);
    let large = before
        .iter()
        .flatten()
        .filter(|node| roster.willing(node).unwrap().bytes > 1 << 30);
    let share = large.count() as f64 / (3 * before.len()) as f64;
    assert!((0.6..0.8).contains(&share), "{share}");
    roster.offer(announce(30, "198.51.99.1", NOW, 8 << 30), time(NOW));
    roster.refresh();
    let changed = before
        .iter()
        .zip(firsts(&roster))
        .filter(|(one, other)| *one != other);
    // About 3 of 30 places of each.
    assert!((5..60).contains(&changed.count()));
    // Found step by step or at once, it is the same.
    let mut other = Roster::default();
    for signed in roster.announcements() {
        other.offer(signed.clone(), time(NOW));
    }
    other.set_account(publisher(1), &account(&images), images.len());
    other.refresh();
    assert_eq!(firsts(&roster), firsts(&other));
}

#[test]
fn keys_without_networks_drive_nobody_out() {
    let mut roster = Roster::default();
    for seed in 0..10 {
        let host = format!("198.51.{seed}.1");
        assert_eq!(
            roster.offer(announce(2000 + seed, &host, NOW, 1), time(NOW)),
            Verdict::New
        );
    }
    for seed in 0..WILLING_MAX as u16 + 50 {
        roster.offer(announce(seed, "203.0.113.1", NOW, 1), time(NOW));
    }
    assert_eq!(roster.announcements().count(), WILLING_MAX);
    for seed in 10..20 {
        let host = format!("198.51.{seed}.1");
        assert_eq!(
            roster.offer(announce(2000 + seed, &host, NOW, 1), time(NOW)),
            Verdict::New
        );
    }
    assert_eq!(roster.announcements().count(), WILLING_MAX);
    let honest = roster
        .announcements()
        .filter(|signed| signed.willing().network()[1] == 198);
    assert_eq!(honest.count(), 20);
}

#[test]
fn accounts_are_taken_as_far_as_they_are_accepted() {
    let mut roster = Roster::default();
    roster.set_account(publisher(1), &account(&[(1, 10, 3), (2, 10, 3)]), 1);
    roster.set_account(publisher(2), &account(&[(1, 12, 5)]), 1);
    let wanted = roster.wanted(&Digest([1; 32])).unwrap();
    assert_eq!((wanted.copies, wanted.bytes), (5, 12));
    assert!(roster.wanted(&Digest([2; 32])).is_none());
    roster.remove_account(&publisher(2));
    assert_eq!(roster.wanted(&Digest([1; 32])).unwrap().copies, 3);
    roster.set_account(publisher(1), &account(&[]), 0);
    assert_eq!(roster.images().count(), 0);
    for number in 0..PUBLISHERS_MAX as u16 + 5 {
        let mut key = [0; 32];
        key[..2].copy_from_slice(&number.to_le_bytes());
        roster.set_account(PublisherKey(key), &account(&[(1, 1, 1)]), 1);
    }
    assert_eq!(roster.accounts.len(), PUBLISHERS_MAX);
}
