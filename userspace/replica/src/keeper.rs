// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What one node does for the images that it may have to keep: checks those who are to keep them, and takes the place of
//! who does not.

mod seen;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use peerfs_format::Digest;

use crate::roster::Roster;
use crate::willing::NodeKey;
use seen::Seen;

/// The images that are brought at a time.
const PULLS_MAX: usize = 2;
/// Nodes behind those that are to keep an image, which check them as often as these do: so many may be gone at once.
const SPARES: usize = 4;
/// How much more rarely those look that are farther behind or only look, and those are looked at who are given up.
const RARELY: u32 = 10;
/// How long others must have been proven to keep an image before one that is not among those who should gives it up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
/// How long after a pull failed it is tried again.
const AGAIN: Duration = Duration::from_secs(10 * 60);

/// How soon something is done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pace {
    /// Between two checks of one copy.
    pub check: Duration,
    /// How long a copy may be away before it is replaced.
    pub patience: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            check: Duration::from_secs(60),
            patience: Duration::from_secs(4 * 60),
        }
    }
}

/// What a check of a copy has shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// All is there, and a chunk was right if one was asked for.
    Whole,
    /// So many chunks of what was asked about are there.
    Part(u64),
    /// The node answers, and has nothing.
    Nothing,
    /// It says that it has all, and did not send a chunk that is right.
    Wrong,
    /// It does not answer.
    Silent,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Ask a node whether it has an image, and for a chunk of it with `proof`; then say so by [`Keeper::checked`].
    Check {
        /// The image.
        image: Digest,
        /// The node.
        node: NodeKey,
        /// Whether a chunk is to be asked for.
        proof: bool,
    },
    /// Bring an image, if it has so many bytes at most, and keep it; then say so by [`Keeper::has`] or [`Keeper::failed`].
    Pull {
        /// The image.
        image: Digest,
        /// The most bytes of its packs.
        bytes: u64,
    },
    /// Do not keep an image any more.
    Drop {
        /// The image.
        image: Digest,
    },
}

/// How it is with the own copy of an image.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Own {
    /// There is none.
    None,
    /// It is being brought.
    Coming,
    /// It is kept.
    Kept,
    /// It has more bytes than its publisher said.
    TooLarge,
}

/// How many copies of an image there are, as far as this node knows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Copies {
    /// Of others, that have sent a chunk of it.
    pub proven: usize,
    /// The own one.
    pub own: Own,
}

/// What one node knows and does.
pub struct Keeper {
    /// None for one that only looks.
    own: Option<NodeKey>,
    /// Bytes that it keeps for others.
    room: u64,
    pace: Pace,
    random: fastrand::Rng,
    images: BTreeMap<Digest, Watched>,
    /// That of the roster when it was looked at last.
    version: Option<u64>,
}

struct Watched {
    own: Own,
    bytes: u64,
    others: BTreeMap<NodeKey, Seen>,
    /// Since when it need not be kept here.
    spare_since: Option<Instant>,
    /// When a pull that failed may be tried again.
    again: Option<Instant>,
}

/// What is to be done for an image.
struct Plan {
    is_needed: bool,
    /// Copies that there are, for the order in which they are replaced.
    copies: usize,
}

impl Keeper {
    /// A node that keeps `room` bytes for others, or with no key of its own only looks.
    pub fn new(own: Option<NodeKey>, room: u64, pace: Pace, seed: u64) -> Self {
        Keeper {
            own,
            room,
            pace,
            random: fastrand::Rng::with_seed(seed),
            images: BTreeMap::new(),
            version: None,
        }
    }

    /// What is to be done now. Nothing, if this node is connected to nobody: then it is the one that is away.
    pub fn poll(&mut self, roster: &Roster, is_connected: bool, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        if !is_connected {
            return actions;
        }
        self.watch(roster);
        let mut needed: Vec<(usize, Digest, u64)> = Vec::new();
        let watched: Vec<Digest> = self.images.keys().copied().collect();
        for image in watched {
            let Some(wanted) = roster.wanted(&image) else {
                self.unwanted(&image, now, &mut actions);
                continue;
            };
            let plan = self.plan(
                &image,
                roster.order(&image),
                wanted.copies,
                now,
                &mut actions,
            );
            if plan.is_needed {
                needed.push((plan.copies, image, wanted.bytes));
            }
        }
        // What is rarest comes first.
        needed.sort_unstable_by_key(|(copies, image, _)| (*copies, image.0));
        for (_, image, bytes) in needed {
            self.pull(image, bytes, now, &mut actions);
        }
        actions
    }

    /// Begins with images that are new, and ends with those that are nothing to this node any more.
    fn watch(&mut self, roster: &Roster) {
        if self.version.replace(roster.version()) == Some(roster.version()) {
            return;
        }
        let add = |images: &mut BTreeMap<Digest, Watched>, image: &Digest| {
            images.entry(*image).or_insert_with(Watched::new);
        };
        match &self.own {
            Some(own) => roster
                .images_of(own)
                .for_each(|image| add(&mut self.images, image)),
            None => roster
                .images()
                .for_each(|(image, _)| add(&mut self.images, image)),
        }
        let own = self.own;
        self.images.retain(|image, watched| {
            let wanted = roster.wanted(image);
            if watched.own == Own::TooLarge
                && wanted.is_some_and(|wanted| wanted.bytes != watched.bytes)
            {
                watched.own = Own::None;
            }
            let is_in_order = || own.is_none_or(|own| roster.order(image).contains(&own));
            watched.own.is_here() || wanted.is_some() && is_in_order()
        });
    }

    /// An image that nobody wants to be kept goes after a while: its publisher may have forgotten to sign in time.
    fn unwanted(&mut self, image: &Digest, now: Instant, actions: &mut Vec<Action>) {
        if let Some(watched) = self.images.get_mut(image) {
            watched.others.clear();
            let since = *watched.spare_since.get_or_insert(now);
            if now.saturating_duration_since(since) >= GIVE_UP_AFTER {
                self.give_up(*image, actions);
            }
        }
    }

    fn give_up(&mut self, image: Digest, actions: &mut Vec<Action>) {
        self.images.remove(&image);
        actions.push(Action::Drop { image });
    }

    /// Goes through the nodes by their rank until there are as many copies as are wanted: who has it, who is bringing it, and
    /// who may still begin to.
    fn plan(
        &mut self,
        digest: &Digest,
        order: &[NodeKey],
        wanted: usize,
        now: Instant,
        actions: &mut Vec<Action>,
    ) -> Plan {
        let pace = self.pace;
        let Some(image) = self.images.get_mut(digest) else {
            return Plan {
                is_needed: false,
                copies: 0,
            };
        };
        image.others.retain(|node, _| order.contains(node));
        let place = order.iter().position(|node| Some(*node) == self.own);
        let is_far = place.is_none_or(|place| place >= wanted + SPARES);
        // Counted are all that will have it in the end.
        let (mut counted, mut others, mut kept, mut proven_ahead) = (0, 0, 0, 0);
        let (mut is_needed, mut is_all_known) = (false, true);
        for (rank, node) in order.iter().enumerate() {
            if Some(rank) == place {
                is_needed = !image.own.is_here() && counted < wanted;
                counted += usize::from(is_needed || image.own.is_here());
                continue;
            }
            // Who is needed and has nothing looks farther: somebody behind may have it.
            if counted >= wanted && !(is_needed && rank < wanted + SPARES) {
                break;
            }
            let seen = image.others.entry(*node).or_insert_with(|| Seen::new(now));
            let counts = seen.counts(counted < wanted, pace.patience, now);
            counted += usize::from(counts);
            others += usize::from(counts);
            kept += usize::from(seen.has());
            proven_ahead += usize::from(seen.is_proven() && place.is_none_or(|place| rank < place));
            is_all_known &= seen.is_known();
            if seen.is_due(now) {
                let is_rare = !counts && seen.is_missed() || is_far && seen.has();
                let interval = if is_rare {
                    pace.check * RARELY
                } else {
                    pace.check
                };
                let proof = seen.ask(interval, &mut self.random, now);
                let (image, node) = (*digest, *node);
                actions.push(Action::Check { image, node, proof });
            }
        }
        if image.own == Own::Kept && proven_ahead >= wanted {
            let since = *image.spare_since.get_or_insert(now);
            if now.saturating_duration_since(since) >= GIVE_UP_AFTER {
                self.give_up(*digest, actions);
            }
        } else {
            image.spare_since = None;
        }
        Plan {
            is_needed: is_needed && is_all_known && others < wanted,
            copies: kept,
        }
    }

    fn pull(&mut self, image: Digest, bytes: u64, now: Instant, actions: &mut Vec<Action>) {
        let coming = self.images.values();
        let coming = coming.filter(|image| image.own == Own::Coming).count();
        if coming >= PULLS_MAX || self.used().saturating_add(bytes) > self.room {
            return;
        }
        if let Some(watched) = self.images.get_mut(&image) {
            if watched.own == Own::None && watched.again.is_none_or(|again| again <= now) {
                watched.own = Own::Coming;
                watched.bytes = bytes;
                actions.push(Action::Pull { image, bytes });
            }
        }
    }

    /// When there may be something to do next, if nothing happens before.
    pub fn next_wakeup(&self, now: Instant) -> Instant {
        let seen = self.images.values().flat_map(|image| image.others.values());
        let due = seen.map(Seen::due).min();
        let latest = now + self.pace.check;
        due.map_or(latest, |due| due.clamp(now, latest))
    }

    /// Says what a check has shown.
    pub fn checked(&mut self, image: &Digest, node: &NodeKey, outcome: Outcome, now: Instant) {
        let watched = self.images.get_mut(image);
        if let Some(seen) = watched.and_then(|watched| watched.others.get_mut(node)) {
            seen.note(outcome, self.pace.check, &mut self.random, now);
        }
    }

    /// Says that an image is kept here, as after a pull, or from before.
    pub fn has(&mut self, image: Digest, bytes: u64) {
        let watched = self.images.entry(image).or_insert_with(Watched::new);
        watched.own = Own::Kept;
        watched.bytes = bytes;
    }

    /// Says that an image that was to be pulled can't be had now.
    pub fn failed(&mut self, image: &Digest, now: Instant) {
        if let Some(watched) = self.images.get_mut(image) {
            watched.own = Own::None;
            watched.again = Some(now + AGAIN.min(self.pace.patience));
        }
    }

    /// Says that an image that was to be pulled has more bytes than its publisher said.
    pub fn too_large(&mut self, image: &Digest) {
        if let Some(watched) = self.images.get_mut(image) {
            watched.own = Own::TooLarge;
        }
    }

    /// How many copies of an image there are, as far as this node knows; none if it does not look after it.
    pub fn copies(&self, image: &Digest) -> Option<Copies> {
        let watched = self.images.get(image)?;
        let proven = watched.others.values().filter(|seen| seen.is_proven());
        Some(Copies {
            proven: proven.count(),
            own: watched.own,
        })
    }

    /// Whether a node that should have an image is taken not to have it.
    pub fn misses(&self, image: &Digest, node: &NodeKey) -> bool {
        let seen = self
            .images
            .get(image)
            .and_then(|image| image.others.get(node));
        seen.is_some_and(Seen::is_missed)
    }

    /// Bytes of the images that are kept here or being brought.
    pub fn used(&self) -> u64 {
        let here = self.images.values().filter(|image| image.own.is_here());
        here.fold(0, |sum, image| sum.saturating_add(image.bytes))
    }
}

impl Own {
    fn is_here(self) -> bool {
        matches!(self, Own::Coming | Own::Kept)
    }
}

impl Watched {
    fn new() -> Self {
        Watched {
            own: Own::None,
            bytes: 0,
            others: BTreeMap::new(),
            spare_since: None,
            again: None,
        }
    }
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
