// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Willing nodes that keep images, and go one after the other. Each decides as a node does, by the keeper of
//! `peerfs-replica`. A model is: all hear of an announcement at once; a pull has half of the node's line, and ends in vain if
//! nobody is left who has the image.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use peerfs_format::Digest;
use peerfs_names::PublisherKey;
use peerfs_replica::account::{Account, Entry};
use peerfs_replica::keeper::{Action, Keeper, Outcome, Pace};
use peerfs_replica::roster::Roster;
use peerfs_replica::willing::{NodeKey, Willing};
use ring::signature::{Ed25519KeyPair, KeyPair};

/// When nodes say again that they are willing, and for how long that holds.
const ANNOUNCE_INTERVAL: u64 = 60 * 60;
const ANNOUNCE_LASTS: u64 = 2 * 60 * 60;
/// How long the answer to a check takes, in seconds, and how long it is waited for.
const ANSWER: u64 = 1;
const ANSWER_TIMEOUT: u64 = 10;
/// Seconds between two decisions of a node at least.
const LOOK: u64 = 20;
/// How long it goes on after the last one has gone.
const AFTER: u64 = 60 * 60;
/// A second of the simulation's clock, for what nodes sign.
const EPOCH: u64 = 1_800_000_000;

/// Who takes part.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nodes.
    pub nodes: u32,
    /// Images, of 128 MiB to 2 GiB.
    pub images: u32,
    /// Copies of each.
    pub copies: u8,
    /// Hours in which half of the nodes go.
    pub hours: u64,
    /// Bits a second of each line.
    pub rate: u64,
    /// With the same one all is the same.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            nodes: 1000,
            images: 500,
            copies: 3,
            hours: 24,
            rate: 100_000_000,
            seed: 1,
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    /// Images of which no copy is left.
    pub lost: usize,
    /// Copies that were on nodes that have gone, of images that were left.
    pub copies_gone: usize,
    /// Seconds until somebody took a copy to be gone, for 99 of a hundred and for all.
    pub noticed: [u64; 2],
    /// Seconds until there was another one, likewise.
    pub repaired: [u64; 2],
    /// Copies that were not replaced in the end.
    pub not_repaired: usize,
    /// Bytes that were brought, by those that were on the nodes that have gone.
    pub traffic: f64,
    /// Checks of a node in an hour.
    pub checks: f64,
}

impl fmt::Display for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [noticed, all_noticed] = self.noticed;
        let [repaired, all_repaired] = self.repaired;
        writeln!(f, "lost images   {}", self.lost)?;
        writeln!(f, "copies gone   {}", self.copies_gone)?;
        writeln!(
            f,
            "noticed       {noticed} s for 99 of 100, {all_noticed} s for all"
        )?;
        writeln!(
            f,
            "repaired      {repaired} s for 99 of 100, {all_repaired} s for all"
        )?;
        writeln!(f, "not repaired  {}", self.not_repaired)?;
        writeln!(f, "traffic       {:.3} of what is gone", self.traffic)?;
        write!(f, "checks        {:.0} a node and hour", self.checks)
    }
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Event {
    Goes(u32),
    Announces(u32),
    Decides(u32),
    Answered { asker: u32, image: u32, of: u32 },
    Pulled { node: u32, image: u32 },
}

struct Node {
    secret: Ed25519KeyPair,
    key: NodeKey,
    bytes: u64,
    keeper: Keeper,
    is_gone: bool,
}

#[derive(Default)]
struct Image {
    digest: Digest,
    bytes: u64,
    holders: BTreeSet<u32>,
    /// Who is bringing it, since when.
    coming: BTreeMap<u32, u64>,
    /// When copies went that were not replaced.
    gone: VecDeque<u64>,
    /// Copies that went, and nobody has noticed.
    unnoticed: BTreeMap<u32, u64>,
    is_lost: bool,
}

struct World {
    options: Options,
    roster: Roster,
    nodes: Vec<Node>,
    by_key: BTreeMap<NodeKey, u32>,
    images: Vec<Image>,
    by_digest: BTreeMap<[u8; 32], u32>,
    /// Of those for one time, the one that was scheduled first.
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    scheduled: u64,
    now: u64,
    start: Instant,
    random: fastrand::Rng,
    noticed: Vec<u64>,
    repaired: Vec<u64>,
    pulled: f64,
    bytes_gone: f64,
    losses: Losses,
    checks: u64,
}

/// Half of the nodes go, one after the other, and others take their places.
///
/// # Panics
/// If the options have more nodes than can be told apart, or no copies.
pub fn replicas(options: &Options) -> Losses {
    let mut world = World::new(options.clone());
    let end = options.hours * 3600 + AFTER;
    while let Some(Reverse((at, _, event))) = world.events.pop() {
        if at > end {
            break;
        }
        world.now = at;
        world.happen(event);
    }
    world.finish()
}

impl World {
    fn new(options: Options) -> Self {
        let mut random = fastrand::Rng::with_seed(options.seed);
        let nodes = (0..options.nodes).map(|number| {
            let mut seed = [0; 32];
            seed[..4].copy_from_slice(&number.to_le_bytes());
            seed[4..12].copy_from_slice(&options.seed.to_le_bytes());
            let secret = Ed25519KeyPair::from_seed_unchecked(&seed).expect("32 bytes are a seed");
            let public = secret.public_key().as_ref().try_into();
            let key = NodeKey(public.expect("a public key has 32 bytes"));
            let bytes = random.u64(64..1024) << 30;
            let pace = Pace::default();
            Node {
                keeper: Keeper::new(Some(key), bytes, pace, random.u64(..)),
                secret,
                key,
                bytes,
                is_gone: false,
            }
        });
        let nodes: Vec<Node> = nodes.collect();
        let images = (0..options.images).map(|number| {
            let mut digest = [0; 32];
            digest[..4].copy_from_slice(&number.to_le_bytes());
            digest[4..12].copy_from_slice(&options.seed.to_le_bytes());
            Image {
                digest: Digest(digest),
                bytes: (128 << 20) << random.u64(..4) | random.u64(..128 << 20),
                ..Image::default()
            }
        });
        let images: Vec<Image> = images.collect();
        let number = |(number, node): (u32, &Node)| (node.key, number);
        let by_key = (0..).zip(&nodes).map(number).collect();
        let number = |(number, image): (u32, &Image)| (image.digest.0, number);
        let by_digest = (0..).zip(&images).map(number).collect();
        let mut world = World {
            roster: Roster::default(),
            nodes,
            by_key,
            images,
            by_digest,
            events: BinaryHeap::new(),
            scheduled: 0,
            now: 0,
            start: Instant::now(),
            random,
            noticed: Vec::new(),
            repaired: Vec::new(),
            pulled: 0.0,
            bytes_gone: 0.0,
            losses: Losses::default(),
            checks: 0,
            options,
        };
        world.begin();
        world
    }

    /// All have what they are to have.
    fn begin(&mut self) {
        for node in 0..self.options.nodes {
            self.announce(node);
            let soon = self.random.u64(1..60);
            self.schedule(soon, Event::Decides(node));
            let later = self.random.u64(1..ANNOUNCE_INTERVAL);
            self.schedule(later, Event::Announces(node));
        }
        let copies = self.options.copies;
        let entry = |image: &Image| Entry {
            image: image.digest,
            bytes: image.bytes,
            copies,
        };
        let accounts: Vec<Account> = self
            .images
            .chunks(peerfs_replica::account::IMAGES_MAX)
            .map(|images| Account::new(images.iter().map(entry).collect()))
            .collect::<Result<_, _>>()
            .expect("each image is there once");
        for (number, account) in (0..).zip(&accounts) {
            let all = account.entries().len();
            self.roster
                .set_account(PublisherKey([number; 32]), account, all);
        }
        self.roster.refresh();
        for image in &mut self.images {
            let order = self.roster.order(&image.digest);
            for key in order.iter().take(copies.into()) {
                let node = self.by_key[key];
                image.holders.insert(node);
                self.nodes[node as usize]
                    .keeper
                    .has(image.digest, image.bytes);
            }
        }
        let mut going: Vec<u32> = (0..self.options.nodes).collect();
        self.random.shuffle(&mut going);
        going.truncate(self.options.nodes as usize / 2);
        for node in going {
            let at = self.random.u64(..self.options.hours * 3600);
            self.schedule(at, Event::Goes(node));
        }
    }

    fn schedule(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse((at, self.scheduled, event)));
    }

    fn instant(&self) -> Instant {
        self.start + Duration::from_secs(self.now)
    }

    fn time(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(EPOCH + self.now)
    }

    fn announce(&mut self, node: u32) {
        let of = &self.nodes[node as usize];
        let [.., a, b] = node.to_be_bytes();
        let willing = Willing {
            node: of.key,
            issued: EPOCH + self.now,
            expires: EPOCH + self.now + ANNOUNCE_LASTS,
            bytes: of.bytes,
            addresses: vec![([198, a, b, 1], 4001).into()],
        };
        let sign = |message: &[u8]| of.secret.sign(message).as_ref().try_into();
        let signed = willing.sign(|message| sign(message).expect("a signature has 64 bytes"));
        let (signed, time) = (signed.expect("it is valid"), self.time());
        self.roster.offer(signed, time);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Goes(node) => self.go(node),
            Event::Announces(node) => {
                if !self.nodes[node as usize].is_gone {
                    self.announce(node);
                    self.schedule(self.now + ANNOUNCE_INTERVAL, Event::Announces(node));
                }
                self.roster.expire(self.time());
                self.roster.refresh();
            }
            Event::Decides(node) => self.decide(node),
            Event::Answered { asker, image, of } => self.answer(asker, image, of),
            Event::Pulled { node, image } => self.arrive(node, image),
        }
    }

    fn go(&mut self, node: u32) {
        self.nodes[node as usize].is_gone = true;
        for image in &mut self.images {
            if let Some(since) = image.coming.remove(&node) {
                let part = (self.now - since) as f64 / duration(image.bytes, &self.options) as f64;
                self.pulled += image.bytes as f64 * part.min(1.0);
            }
            if !image.holders.remove(&node) || image.is_lost {
                continue;
            }
            self.bytes_gone += image.bytes as f64;
            if image.holders.is_empty() {
                image.is_lost = true;
                self.losses.lost += 1;
                continue;
            }
            self.losses.copies_gone += 1;
            // There may have been more than are wanted.
            if image.holders.len() + image.gone.len() < usize::from(self.options.copies) {
                image.gone.push_back(self.now);
            }
            image.unnoticed.insert(node, self.now);
        }
    }

    fn decide(&mut self, node: u32) {
        let now = self.instant();
        let decider = &mut self.nodes[node as usize];
        if decider.is_gone {
            return;
        }
        let actions = decider.keeper.poll(&self.roster, true, now);
        let wakeup = decider
            .keeper
            .next_wakeup(now)
            .duration_since(self.start)
            .as_secs();
        self.schedule(wakeup.max(self.now + LOOK), Event::Decides(node));
        for action in actions {
            match action {
                Action::Check {
                    image, node: other, ..
                } => {
                    self.checks += 1;
                    let (image, of) = (self.by_digest[&image.0], self.by_key[&other]);
                    let is_gone = self.nodes[of as usize].is_gone;
                    let takes = if is_gone { ANSWER_TIMEOUT } else { ANSWER };
                    let answered = Event::Answered {
                        asker: node,
                        image,
                        of,
                    };
                    self.schedule(self.now + takes, answered);
                }
                Action::Pull { image, .. } => {
                    let image = self.by_digest[&image.0];
                    let wanted = &mut self.images[image as usize];
                    wanted.coming.insert(node, self.now);
                    let at = self.now + duration(wanted.bytes, &self.options);
                    self.schedule(at, Event::Pulled { node, image });
                }
                Action::Drop { image } => {
                    let image = self.by_digest[&image.0];
                    self.images[image as usize].holders.remove(&node);
                }
            }
        }
    }

    fn answer(&mut self, asker: u32, image: u32, of: u32) {
        let now = self.instant();
        let about = &self.images[image as usize];
        let outcome = if self.nodes[of as usize].is_gone {
            Outcome::Silent
        } else if about.holders.contains(&of) {
            Outcome::Whole
        } else if about.coming.contains_key(&of) {
            Outcome::Part(self.now)
        } else {
            Outcome::Nothing
        };
        let (digest, key) = (about.digest, self.nodes[of as usize].key);
        let keeper = &mut self.nodes[asker as usize].keeper;
        keeper.checked(&digest, &key, outcome, now);
        if keeper.misses(&digest, &key) {
            let gone = self.images[image as usize].unnoticed.remove(&of);
            self.noticed.extend(gone.map(|gone| self.now - gone));
        }
    }

    fn arrive(&mut self, node: u32, number: u32) {
        let now = self.instant();
        let image = &mut self.images[number as usize];
        if image.coming.remove(&node).is_none() {
            return;
        }
        let keeper = &mut self.nodes[node as usize].keeper;
        if image.is_lost {
            keeper.failed(&image.digest, now);
            return;
        }
        self.pulled += image.bytes as f64;
        image.holders.insert(node);
        let gone = image.gone.pop_front();
        self.repaired.extend(gone.map(|gone| self.now - gone));
        keeper.has(image.digest, image.bytes);
    }

    fn finish(mut self) -> Losses {
        let left = self.images.iter().filter(|image| !image.is_lost);
        self.losses.not_repaired = left.map(|image| image.gone.len()).sum();
        self.losses.noticed = latest(&mut self.noticed);
        self.losses.repaired = latest(&mut self.repaired);
        self.losses.traffic = self.pulled / self.bytes_gone.max(1.0);
        // Three quarters of them are there in the middle.
        let hours = f64::from(self.options.nodes) * 0.75 * self.options.hours as f64;
        self.losses.checks = self.checks as f64 / hours;
        self.losses
    }
}

/// Seconds that a pull takes.
fn duration(bytes: u64, options: &Options) -> u64 {
    1 + bytes * 8 / (options.rate / 2).max(1)
}

/// For 99 of a hundred, and for all.
fn latest(times: &mut [u64]) -> [u64; 2] {
    times.sort_unstable();
    let at = |place: usize| times.get(place).copied().unwrap_or_default();
    [
        at(times.len() * 99 / 100),
        at(times.len().saturating_sub(1)),
    ]
}
