// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Images that are kept for others, and those that others keep: carries out what `peerfs-replica` decides.

mod accounts;
mod copy;
mod saved;
mod told;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use peerfs_fetch::{PinOrigin, Pins, Pulls, Repository};
use peerfs_format::Digest;
use peerfs_names::PublisherKey;
use peerfs_peer::{Identity, Node, WillingBook};
use peerfs_replica::account::Account;
use peerfs_replica::keeper::Keeper;
use peerfs_replica::roster::{Roster, Verdict};
use peerfs_replica::willing::SignedWilling;
use peerfs_store::Reference;
use tokio::sync::broadcast;

use saved::Folder;
pub use saved::SavedError;

use crate::names::Names;
use crate::replicate_config::ReplicateConfig;

/// The announcements that a peer may be behind.
const CHANGES_MAX: usize = 256;

/// What is known of replicas. Clones are the same.
#[derive(Clone)]
pub struct Replicas(Arc<Shared>);

struct Shared {
    config: ReplicateConfig,
    identity: Identity,
    folder: Folder,
    state: Mutex<State>,
    changes: broadcast::Sender<Arc<SignedWilling>>,
}

struct State {
    /// What is kept here for others, by the configuration.
    kept: Side,
    /// What others keep for publishers of whom nothing is kept here: those who publish on this machine.
    watched: Side,
    /// The images that are kept for others, as they are remembered.
    saved: BTreeMap<Digest, u64>,
    publishers: BTreeMap<PublisherKey, Publisher>,
}

/// What is known, and what is done about it.
struct Side {
    roster: Roster,
    keeper: Keeper,
}

/// A publisher's account.
#[derive(Clone, Default)]
struct Publisher {
    /// The account that counts, its digest, and its bytes.
    account: Account,
    digest: Option<Digest>,
    bytes: Arc<[u8]>,
    /// The sequence of the record that says so.
    sequence: Option<u64>,
    /// How many of its images are accepted.
    accepted: usize,
    /// Why nothing new of it is, for people.
    problem: Option<String>,
}

/// The parts of a daemon that are needed.
pub(crate) struct Parts {
    pub(crate) node: Node,
    pub(crate) names: Names,
    pub(crate) repository: Arc<Repository>,
    pub(crate) pins: Pins,
    pub(crate) pulls: Pulls,
}

impl Replicas {
    /// What is in this folder, which is made if it does not exist. Blocks on the disk.
    ///
    /// # Errors
    /// If what is remembered can't be read.
    pub fn load(
        path: &Path,
        config: &ReplicateConfig,
        identity: Identity,
    ) -> Result<Self, SavedError> {
        let folder = Folder::open(path)?;
        let saved = folder.kept()?;
        let key = identity.node_key().filter(|_| config.bytes.is_some());
        let room = config.bytes.map_or(0, std::num::NonZeroU64::get);
        let side = |key, room| Side {
            roster: Roster::default(),
            keeper: Keeper::new(key, room, config.pace(), fastrand::u64(..)),
        };
        let mut kept = side(key, room);
        for (image, bytes) in &saved {
            kept.keeper.has(*image, *bytes);
        }
        Ok(Replicas(Arc::new(Shared {
            config: config.clone(),
            identity,
            folder,
            state: Mutex::new(State {
                kept,
                watched: side(None, 0),
                saved,
                publishers: BTreeMap::new(),
            }),
            changes: broadcast::channel(CHANGES_MAX).0,
        })))
    }

    /// Has the images pinned that were kept before. Must be called within a tokio runtime.
    pub(crate) fn pin_kept(&self, pins: &Pins) {
        for image in self.0.lock().saved.keys() {
            pins.add(Reference::Digest(*image), PinOrigin::Replica);
        }
    }

    /// Whether this node keeps images for others.
    fn is_willing(&self) -> bool {
        self.0.config.bytes.is_some()
    }

    /// The publishers whose accounts are looked at: those of whom images are kept, and those of whom somebody on this
    /// machine has published one.
    fn publishers(&self, names: &Names) -> BTreeSet<PublisherKey> {
        let granted = self.0.config.publishers.keys().copied();
        granted.chain(names.publishers_of_accounts()).collect()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // What is in it is valid after every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes an announcement; whether others are to be told.
    fn offer(&mut self, announcement: &SignedWilling, now: SystemTime) -> bool {
        let sides = [&mut self.kept, &mut self.watched];
        let verdicts = sides.map(|side| side.roster.offer(announcement.clone(), now));
        verdicts.contains(&Verdict::New)
    }

    fn side(&mut self, is_kept: bool) -> &mut Side {
        if is_kept {
            &mut self.kept
        } else {
            &mut self.watched
        }
    }

    /// Brings all in line with the time.
    fn expire(&mut self, now: SystemTime) {
        for side in [&mut self.kept, &mut self.watched] {
            side.roster.expire(now);
            side.roster.refresh();
        }
    }
}

impl WillingBook for Replicas {
    fn announcements(&self) -> Vec<SignedWilling> {
        let state = self.0.lock();
        state.kept.roster.announcements().cloned().collect()
    }

    fn offer(&self, announcement: SignedWilling) {
        let is_new = self.0.lock().offer(&announcement, SystemTime::now());
        if is_new {
            // Nobody need be interested.
            let _ = self.0.changes.send(Arc::new(announcement));
        }
    }

    fn changes(&self) -> broadcast::Receiver<Arc<SignedWilling>> {
        self.0.changes.subscribe()
    }
}
