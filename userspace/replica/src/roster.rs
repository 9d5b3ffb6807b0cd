// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Who is willing, which images are to be kept, and who is to keep which: all that does not depend on whom a node can reach.
//! Nodes that know the same announcements come to the same order without asking each other.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use peerfs_format::Digest;
use peerfs_names::PublisherKey;
use sha2::{Digest as _, Sha256};

use crate::account::{Account, Entry};
use crate::willing::{NodeKey, SignedWilling, Willing};

/// The willing nodes that are known.
pub const WILLING_MAX: usize = 1024;
/// The publishers whose accounts are known.
pub const PUBLISHERS_MAX: usize = 256;
/// The images of all accounts together.
pub const IMAGES_MAX: usize = 4096;
/// The nodes of an image's order that are known: those behind never have to do with it.
pub const ORDER_MAX: usize = 16;
/// How far ahead of this node's another clock may be.
const CLOCKS_APART: Duration = Duration::from_secs(10 * 60);
/// The most that a node weighs, by its bytes: who claims all the bytes of the world gets no more.
const WEIGHT_MAX: u32 = 16;
/// What tells the places of nodes from other digests.
const DOMAIN: &[u8] = b"peerfs-place-1\0";

/// What became of an announcement that came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It counts from now on, and others are to be told.
    New,
    /// It, or a later one of the node, is known.
    Known,
    /// It holds no more, or is of the future.
    Expired,
    /// There is no room for it.
    Full,
}

/// An image that is to be kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Wanted {
    /// Bytes of its packs, as its publisher says.
    pub bytes: u64,
    /// How many nodes are to keep it.
    pub copies: usize,
    /// Who wants it to be kept, or the first of several.
    pub publisher: PublisherKey,
}

/// What is known of willing nodes and accounts.
#[derive(Default)]
pub struct Roster {
    willing: BTreeMap<NodeKey, SignedWilling>,
    accounts: BTreeMap<PublisherKey, Vec<Entry>>,
    images: BTreeMap<Digest, Image>,
    /// The images in whose order a node is.
    by_node: HashMap<NodeKey, BTreeSet<Digest>>,
    /// Those whose order is to be found anew.
    stale: BTreeSet<Digest>,
    /// Counts the changes of images and orders.
    version: u64,
}

struct Image {
    wanted: Wanted,
    order: Vec<NodeKey>,
}

impl Roster {
    /// Takes an announcement that has come.
    pub fn offer(&mut self, signed: SignedWilling, now: SystemTime) -> Verdict {
        let willing = signed.willing();
        let now = seconds(now);
        let is_future = willing.issued > now.saturating_add(CLOCKS_APART.as_secs());
        if willing.expires <= now || is_future {
            return Verdict::Expired;
        }
        let node = willing.node;
        match self.willing.get(&node).map(SignedWilling::willing) {
            Some(known) if known.issued >= willing.issued => return Verdict::Known,
            Some(known) => {
                // Most say again what they have said.
                let is_placed_as_before = weight(known) == weight(willing)
                    && known.network() == willing.network()
                    && known.host() == willing.host();
                if !is_placed_as_before {
                    self.stale.extend(self.images.keys());
                }
            }
            None => {
                if self.willing.len() >= WILLING_MAX && !self.make_room(willing) {
                    return Verdict::Full;
                }
                self.stale.extend(self.images.keys());
            }
        }
        self.willing.insert(node, signed);
        Verdict::New
    }

    /// Forgets the announcements that do not hold any more.
    pub fn expire(&mut self, now: SystemTime) {
        let now = seconds(now);
        let gone = |signed: &&SignedWilling| signed.willing().expires <= now;
        let gone: Vec<NodeKey> = self
            .willing
            .values()
            .filter(gone)
            .map(|signed| signed.willing().node)
            .collect();
        for node in gone {
            self.forget(&node);
        }
    }

    fn forget(&mut self, node: &NodeKey) {
        self.willing.remove(node);
        // It need not be in any order that was found.
        self.stale
            .extend(self.by_node.get(node).into_iter().flatten());
    }

    /// Makes room for a node whose network has fewer than the one that has most: keys cost nothing, networks do.
    fn make_room(&mut self, willing: &Willing) -> bool {
        let mut networks: HashMap<[u8; 7], (usize, NodeKey)> = HashMap::new();
        for known in self.willing.values().map(SignedWilling::willing) {
            networks.entry(known.network()).or_insert((0, known.node)).0 += 1;
        }
        let own = networks
            .get(&willing.network())
            .map_or(0, |(count, _)| *count);
        match networks.into_values().max() {
            Some((most, node)) if most > own + 1 => {
                self.forget(&node);
                true
            }
            _ => false,
        }
    }

    /// Has these images of a publisher be kept from now on, and none else of it. Returns how many of them there is no room for.
    pub fn set_account(
        &mut self,
        publisher: PublisherKey,
        account: &Account,
        accepted: usize,
    ) -> usize {
        let entries = account.entries().iter().take(accepted);
        let entries: Vec<Entry> = entries.copied().collect();
        if self.accounts.get(&publisher) == Some(&entries) {
            return 0;
        }
        if self.accounts.len() >= PUBLISHERS_MAX && !self.accounts.contains_key(&publisher) {
            return entries.len();
        }
        self.accounts.insert(publisher, entries);
        self.take_images()
    }

    /// Has nothing of a publisher be kept any more.
    pub fn remove_account(&mut self, publisher: &PublisherKey) {
        if self.accounts.remove(publisher).is_some() {
            self.take_images();
        }
    }

    /// Brings the images in line with the accounts; returns how many there was no room for.
    fn take_images(&mut self) -> usize {
        self.version += 1;
        let mut wanted: BTreeMap<Digest, Wanted> = BTreeMap::new();
        let mut left_out = 0;
        for (publisher, entries) in &self.accounts {
            for entry in entries {
                if wanted.len() >= IMAGES_MAX && !wanted.contains_key(&entry.image) {
                    left_out += 1;
                    continue;
                }
                let image = wanted.entry(entry.image).or_insert(Wanted {
                    bytes: entry.bytes,
                    copies: 0,
                    publisher: *publisher,
                });
                image.copies = image.copies.max(entry.copies.into());
                image.bytes = image.bytes.max(entry.bytes);
            }
        }
        let gone: Vec<Digest> = self.images.keys().copied().collect();
        for image in gone.iter().filter(|image| !wanted.contains_key(image)) {
            self.place(image, Vec::new());
            self.images.remove(image);
            self.stale.remove(image);
        }
        for (image, wanted) in wanted {
            match self.images.get_mut(&image) {
                Some(known) => known.wanted = wanted,
                None => {
                    let order = Vec::new();
                    self.images.insert(image, Image { wanted, order });
                    self.stale.insert(image);
                }
            }
        }
        left_out
    }

    /// Finds out anew who is to keep what, as far as it may be somebody else. To be called before the order is asked for.
    pub fn refresh(&mut self) {
        for image in std::mem::take(&mut self.stale) {
            let order = self.order_of(&image);
            self.place(&image, order);
            self.version += 1;
        }
    }

    /// Another one than before if any image is wanted otherwise, or by others.
    pub fn version(&self) -> u64 {
        self.version
    }

    fn place(&mut self, digest: &Digest, order: Vec<NodeKey>) {
        let Some(image) = self.images.get_mut(digest) else {
            return;
        };
        let before = std::mem::replace(&mut image.order, order);
        for node in before {
            if let Some(images) = self.by_node.get_mut(&node) {
                images.remove(digest);
                if images.is_empty() {
                    self.by_node.remove(&node);
                }
            }
        }
        for node in &image.order {
            self.by_node.entry(*node).or_default().insert(*digest);
        }
    }

    /// The nodes by their rank for an image: first one of each network, then one of each machine, then the others.
    fn order_of(&self, image: &Digest) -> Vec<NodeKey> {
        let willing = self.willing.values().map(SignedWilling::willing);
        let willing = willing.filter(|willing| willing.bytes > 0);
        let mut ranked: Vec<(f64, &Willing)> = willing
            .map(|willing| (score(image, willing), willing))
            .collect();
        ranked.sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
        let (mut networks, mut hosts) = (HashSet::new(), HashSet::new());
        let mut classes: [Vec<NodeKey>; 3] = Default::default();
        for (_, willing) in ranked {
            let is_new_host = hosts.insert(willing.host());
            let class = match networks.insert(willing.network()) {
                true => 0,
                false if is_new_host => 1,
                false => 2,
            };
            if let Some(class) = classes.get_mut(class) {
                class.push(willing.node);
            }
        }
        classes.into_iter().flatten().take(ORDER_MAX).collect()
    }

    /// The images that are to be kept.
    pub fn images(&self) -> impl Iterator<Item = (&Digest, Wanted)> {
        self.images
            .iter()
            .map(|(image, known)| (image, known.wanted))
    }

    /// What is wanted of an image, if it is to be kept.
    pub fn wanted(&self, image: &Digest) -> Option<Wanted> {
        self.images.get(image).map(|image| image.wanted)
    }

    /// The nodes by their rank for an image, as of the last [`Roster::refresh`]: the first ones are to keep it, the others in
    /// their place if they do not.
    pub fn order(&self, image: &Digest) -> &[NodeKey] {
        self.images.get(image).map_or(&[], |image| &image.order)
    }

    /// The images in whose order a node is.
    pub fn images_of(&self, node: &NodeKey) -> impl Iterator<Item = &Digest> {
        self.by_node.get(node).into_iter().flatten()
    }

    /// What a node has announced last.
    pub fn willing(&self, node: &NodeKey) -> Option<&Willing> {
        self.willing.get(node).map(SignedWilling::willing)
    }

    /// All announcements that hold.
    pub fn announcements(&self) -> impl Iterator<Item = &SignedWilling> {
        self.willing.values()
    }
}

/// The distance of a node from an image, by weighted rendezvous hashing: the least is the first. The chance to be that is as
/// the weight.
fn score(image: &Digest, willing: &Willing) -> f64 {
    let mut hash = Sha256::new();
    hash.update(DOMAIN);
    hash.update(image.0);
    hash.update(willing.node.0);
    let hash: [u8; 32] = hash.finalize().into();
    let (first, _) = hash.split_first_chunk().expect("32 bytes are more than 8");
    // Between 0 and 1, and neither.
    let uniform = ((u64::from_le_bytes(*first) >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
    -uniform.ln() / f64::from(weight(willing))
}

/// What a node weighs: one more for twice the bytes. It is what it keeps in all, not what is free of that, or places would
/// change as they are filled.
fn weight(willing: &Willing) -> u32 {
    let bits = u64::BITS - (willing.bytes >> 30).leading_zeros();
    (bits + 1).min(WEIGHT_MAX)
}

/// Whole seconds since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
#[path = "roster_tests.rs"]
mod tests;
