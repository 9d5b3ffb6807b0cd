// SPDX-License-Identifier: GPL-2.0 OR MIT

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use peerfs_names::PublisherKey;
use ring::signature::{Ed25519KeyPair, KeyPair};

use super::*;
use crate::account::{Account, Entry};
use crate::willing::Willing;

/// Seconds between two looks.
const STEP: u64 = 5;
const IMAGE: Digest = Digest([7; 32]);

/// Nodes with one image of three copies, which decide every few seconds.
struct World {
    roster: Roster,
    order: Vec<NodeKey>,
    keepers: Vec<Keeper>,
    /// Who has the image, by rank; who does not answer; who says that he has it and does not.
    has: BTreeSet<usize>,
    gone: BTreeSet<usize>,
    liars: BTreeSet<usize>,
    /// Seconds that a pull takes, and those that end then.
    slow: u64,
    coming: Vec<(u64, usize)>,
    pulls: Vec<(u64, usize)>,
    drops: Vec<(u64, usize)>,
    second: u64,
    start: Instant,
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

impl World {
    fn new(nodes: u8, room: u64) -> Self {
        let mut roster = Roster::default();
        for seed in 0..nodes {
            let key = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
            let willing = Willing {
                node: NodeKey(key.public_key().as_ref().try_into().unwrap()),
                issued: 1_800_000_000,
                expires: 1_800_003_600,
                bytes: 1 << 40,
                addresses: vec![format!("198.51.{seed}.1:1").parse().unwrap()],
            };
            let sign = |message: &[u8]| key.sign(message).as_ref().try_into().unwrap();
            roster.offer(willing.sign(sign).unwrap(), now());
        }
        let entry = Entry {
            image: IMAGE,
            bytes: 100,
            copies: 3,
        };
        let account = Account::new(vec![entry]).unwrap();
        roster.set_account(PublisherKey([1; 32]), &account, 1);
        roster.refresh();
        let order = roster.order(&IMAGE).to_vec();
        let keeper =
            |(seed, node): (u64, &NodeKey)| Keeper::new(Some(*node), room, Pace::default(), seed);
        World {
            keepers: (0..).zip(&order).map(keeper).collect(),
            roster,
            order,
            has: BTreeSet::new(),
            gone: BTreeSet::new(),
            liars: BTreeSet::new(),
            slow: 60,
            coming: Vec::new(),
            pulls: Vec::new(),
            drops: Vec::new(),
            second: 0,
            start: Instant::now(),
        }
    }

    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds / STEP {
            self.second += STEP;
            let now = self.start + Duration::from_secs(self.second);
            for (at, rank) in self.coming.clone() {
                if at == self.second && !self.gone.contains(&rank) {
                    self.has.insert(rank);
                    self.keepers[rank].has(IMAGE, 100);
                }
            }
            for rank in 0..self.keepers.len() {
                if self.gone.contains(&rank) {
                    continue;
                }
                for action in self.keepers[rank].poll(&self.roster, true, now) {
                    self.act(rank, action, now);
                }
            }
        }
    }

    fn act(&mut self, rank: usize, action: Action, now: Instant) {
        match action {
            Action::Check { node, proof, .. } => {
                let other = self.order.iter().position(|other| *other == node).unwrap();
                let is_coming = |(at, who): &(u64, usize)| *who == other && *at > self.second;
                let outcome = if self.gone.contains(&other) {
                    Outcome::Silent
                } else if self.liars.contains(&other) {
                    if proof {
                        Outcome::Wrong
                    } else {
                        Outcome::Whole
                    }
                } else if self.has.contains(&other) {
                    Outcome::Whole
                } else if self.coming.iter().any(is_coming) {
                    Outcome::Part(self.second)
                } else {
                    Outcome::Nothing
                };
                self.keepers[rank].checked(&IMAGE, &node, outcome, now);
            }
            Action::Pull { bytes, .. } => {
                assert_eq!(bytes, 100);
                self.pulls.push((self.second, rank));
                self.coming.push((self.second + self.slow, rank));
            }
            Action::Drop { .. } => {
                self.has.remove(&rank);
                self.drops.push((self.second, rank));
            }
        }
    }

    fn pullers(&self) -> Vec<usize> {
        self.pulls.iter().map(|(_, rank)| *rank).collect()
    }
}

#[test]
fn the_first_ones_keep_an_image_and_the_next_takes_the_place_of_who_is_gone() {
    let mut world = World::new(9, 1000);
    world.run(600);
    let mut first = world.pullers();
    first.sort_unstable();
    assert_eq!(first, [0, 1, 2]);
    world.run(3600);
    assert_eq!(world.pulls.len(), 3);
    // All that look after it know of the others' copies.
    assert_eq!(world.keepers[0].copies(&IMAGE).unwrap().proven, 2);
    assert_eq!(
        world.keepers[3].copies(&IMAGE).unwrap(),
        Copies {
            proven: 3,
            own: Own::None
        }
    );

    world.gone.insert(1);
    let died = world.second;
    world.run(5 * 60);
    assert!(
        world.keepers[3].misses(&IMAGE, &world.order[1]),
        "it was noticed"
    );
    world.run(15 * 60);
    let (at, rank) = world.pulls[3];
    assert_eq!((world.pulls.len(), rank), (4, 3));
    assert!((180..600).contains(&(at - died)), "{}", at - died);
    assert!(world.has.contains(&3));

    // It comes back, with what it had: a day later the one that took its place gives it up.
    world.gone.clear();
    world.run(23 * 3600);
    assert!(world.drops.is_empty() && world.pulls.len() == 4);
    world.run(3 * 3600);
    assert_eq!(
        world
            .drops
            .iter()
            .map(|(_, rank)| *rank)
            .collect::<Vec<_>>(),
        [3]
    );
    world.run(3600);
    assert_eq!((world.pulls.len(), world.has.len()), (4, 3));
}

#[test]
fn who_is_away_for_a_moment_or_comes_back_empty_causes_no_pull() {
    let mut world = World::new(9, 1000);
    world.run(1200);
    world.gone.insert(0);
    world.run(150);
    world.gone.clear();
    world.run(3600);
    assert_eq!(world.pulls.len(), 3);
    // A second one is away for long, and comes back with an empty store and an empty mind.
    world.gone.insert(2);
    world.run(3600);
    assert_eq!(world.pulls.len(), 4);
    world.gone.clear();
    world.has.remove(&2);
    world.keepers[2] = Keeper::new(Some(world.order[2]), 1000, Pace::default(), 99);
    world.run(3600);
    assert_eq!(world.pulls.len(), 4, "another one has it");
}

#[test]
fn half_of_them_go_at_once() {
    let mut world = World::new(10, 1000);
    world.run(1200);
    world.gone.extend([0, 2, 3, 4, 5]);
    world.run(1200);
    let alive = world.has.iter().filter(|rank| !world.gone.contains(rank));
    assert_eq!(alive.copied().collect::<Vec<_>>(), [1, 6, 7]);
    assert_eq!(world.pulls.len(), 5);
}

#[test]
fn who_claims_and_does_not_keep_is_no_holder() {
    let mut world = World::new(9, 1000);
    world.liars.extend([0, 1]);
    world.run(1800);
    for liar in [0, 1] {
        assert!(world.keepers[4].misses(&IMAGE, &world.order[liar]));
        world.has.remove(&liar);
    }
    assert_eq!(world.has, BTreeSet::from([2, 3, 4]));
    assert_eq!(world.keepers[5].copies(&IMAGE).unwrap().proven, 3);
}

#[test]
fn who_has_no_room_or_no_peers_pulls_nothing() {
    let mut world = World::new(9, 99);
    world.run(3600);
    assert!(world.pulls.is_empty());
    let mut world = World::new(9, 1000);
    let now = world.start;
    let actions = world.keepers[0].poll(&world.roster, false, now);
    assert!(actions.is_empty());
}

#[test]
fn what_is_larger_than_its_account_says_is_tried_again_with_another_account() {
    let mut world = World::new(1, 1000);
    let now = world.start;
    let pull = |world: &mut World| {
        let actions = world.keepers[0].poll(&world.roster, true, now);
        matches!(actions[..], [Action::Pull { .. }])
    };
    assert!(pull(&mut world));
    world.keepers[0].too_large(&IMAGE);
    assert!(!pull(&mut world));
    let entry = Entry {
        image: IMAGE,
        bytes: 200,
        copies: 3,
    };
    let account = Account::new(vec![entry]).unwrap();
    world.roster.set_account(PublisherKey([1; 32]), &account, 1);
    assert!(pull(&mut world));
}

#[test]
fn what_nobody_wants_any_more_goes_after_a_day() {
    let mut world = World::new(5, 1000);
    world.run(1200);
    world.roster.remove_account(&PublisherKey([1; 32]));
    world.run(23 * 3600);
    assert_eq!(world.has.len(), 3);
    world.run(2 * 3600);
    assert_eq!((world.has.len(), world.drops.len()), (0, 3));
}
