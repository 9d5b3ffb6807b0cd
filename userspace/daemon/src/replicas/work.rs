// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Runs it.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use peerfs_exchange::Priority;
use peerfs_fetch::{PinOrigin, PullState, Purpose};
use peerfs_format::{BlobTable, Digest, Manifest};
use peerfs_names::PublisherKey;
use peerfs_peer::{peer_id_of, Multiaddr, NameBook, WillingBook};
use peerfs_replica::keeper::{Action, Outcome, Pace};
use peerfs_replica::willing::{NodeKey, Willing, ADDRESSES_MAX, LIFETIME_MAX};
use peerfs_store::{sha256, Reference};
use peerfs_text::Causes;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::{spawn_blocking, JoinSet};
use tokio::time::{interval, timeout, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::copy::Checks;
use super::{Parts, Replicas};

/// How often it is looked what is to be done, at most.
const TICK: Duration = Duration::from_secs(1);
/// How often all accounts are looked at, besides when a record comes.
const ACCOUNTS_INTERVAL: Duration = Duration::from_secs(30);
/// How often this node says that it is willing, and asks the DHT who is.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(30 * 60);
/// How soon it says so again if its addresses or its bytes are others.
const ANNOUNCE_SOON: Duration = Duration::from_secs(10);
/// How often the DHT is asked as long as nobody is known to be willing.
const SEARCH_SOON: Duration = Duration::from_secs(60);
/// The checks that are made at a time; further ones wait for their next turn.
const CHECKS_MAX: usize = 64;
/// How long the metadata of an image that is to be kept may take to come.
const METADATA_PATIENCE: Duration = Duration::from_secs(120);
/// How long nothing may come of one.
const PULL_PATIENCE: Duration = Duration::from_secs(10 * 60);
/// What the key in the DHT is the SHA-256 of under which willing nodes are found.
const PROVIDER_KEY: &[u8] = b"peerfs-willing-1\0";

/// How a task has ended.
enum Done {
    Checked {
        is_kept: bool,
        image: Digest,
        node: NodeKey,
        outcome: Option<Outcome>,
    },
    Pulled {
        image: Digest,
        bytes: u64,
        end: Pulled,
    },
}

enum Pulled {
    Whole,
    TooLarge,
    Failed(String),
}

/// What runs.
struct Work {
    replicas: Replicas,
    parts: Arc<Parts>,
    checks: Checks,
    tasks: JoinSet<Done>,
    /// Who asks others for records of publishers' accounts.
    followers: BTreeMap<PublisherKey, AbortOnDropHandle<()>>,
    announced: Option<(Instant, Vec<SocketAddr>)>,
    searched: Option<Instant>,
}

impl Replicas {
    /// Carries out what is decided, until `shutdown`.
    pub(crate) async fn run(self, parts: Parts, shutdown: CancellationToken) {
        let Pace { check, .. } = self.0.config.pace();
        let checks = Checks::new(parts.node.clone(), parts.repository.disk().clone(), check);
        let work = Work {
            replicas: self,
            parts: Arc::new(parts),
            checks,
            tasks: JoinSet::new(),
            followers: BTreeMap::new(),
            announced: None,
            searched: None,
        };
        shutdown.run_until_cancelled(work.run()).await;
    }
}

impl Work {
    async fn run(mut self) {
        let Pace { check, .. } = self.replicas.0.config.pace();
        let mut tick = interval(TICK.min(check / 4));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut accounts = interval(ACCOUNTS_INTERVAL);
        accounts.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut changes = self.parts.names.changes();
        loop {
            tokio::select! {
                _ = tick.tick() => self.look().await,
                _ = accounts.tick() => self.look_at_accounts().await,
                changed = changes.recv() => match changed {
                    Ok(topic) if !self.parts.names.is_account(&topic) => (),
                    Ok(_) | Err(RecvError::Lagged(_)) => self.look_at_accounts().await,
                    Err(RecvError::Closed) => return,
                },
                Some(done) = self.tasks.join_next() => if let Ok(done) = done {
                    self.take(done).await;
                },
            }
        }
    }

    /// Looks which accounts count now.
    async fn look_at_accounts(&mut self) {
        let (parts, replicas) = (&self.parts, &self.replicas);
        let publishers = replicas.publishers(&parts.names);
        for publisher in &publishers {
            self.followers.entry(*publisher).or_insert_with(|| {
                let name = peerfs_replica::account::account_name(*publisher);
                let mut following = parts.names.follow(&name, &parts.node);
                AbortOnDropHandle::new(tokio::spawn(async move {
                    loop {
                        following.changed().await;
                    }
                }))
            });
            let disk = parts.repository.disk();
            replicas
                .look_at(*publisher, &parts.names, &parts.node, disk)
                .await;
        }
        self.followers
            .retain(|publisher, _| publishers.contains(publisher));
    }

    async fn look(&mut self) {
        let now = Instant::now();
        if self.replicas.is_willing() {
            self.announce(now).await;
        }
        if self.replicas.is_willing() || !self.followers.is_empty() {
            self.search(now).await;
        }
        let is_connected = !self.parts.node.peers().is_empty();
        let actions: Vec<(bool, Action)> = {
            let mut state = self.replicas.0.lock();
            state.expire(SystemTime::now());
            let mut actions = Vec::new();
            for is_kept in [true, false] {
                let side = state.side(is_kept);
                let decided = side.keeper.poll(&side.roster, is_connected, now);
                actions.extend(decided.into_iter().map(|action| (is_kept, action)));
            }
            actions
        };
        for (is_kept, action) in actions {
            match action {
                Action::Check { image, node, proof } => self.check(is_kept, image, node, proof),
                Action::Pull { image, bytes } => self.pull(image, bytes),
                Action::Drop { image } => self.drop(image).await,
            }
        }
    }

    /// Says that this node is willing, from time to time and when it is reached elsewhere.
    async fn announce(&mut self, now: Instant) {
        let is_due =
            |interval: Duration, at: &Instant| now.saturating_duration_since(*at) >= interval;
        if let Some((at, _)) = &self.announced {
            if !is_due(ANNOUNCE_SOON, at) {
                return;
            }
        }
        let Some(network) = self.parts.node.network().await else {
            return;
        };
        let mut addresses = network.told;
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(ADDRESSES_MAX);
        if let Some((at, told)) = &self.announced {
            if *told == addresses && !is_due(ANNOUNCE_INTERVAL, at) {
                return;
            }
        }
        let shared = &self.replicas.0;
        let (Some(node), Some(bytes)) = (shared.identity.node_key(), shared.config.bytes) else {
            return;
        };
        self.announced = Some((now, addresses.clone()));
        let issued = SystemTime::now().duration_since(UNIX_EPOCH);
        let issued = issued.unwrap_or_default();
        let willing = Willing {
            node,
            issued: issued.as_secs(),
            expires: (issued + LIFETIME_MAX).as_secs(),
            bytes: bytes.get(),
            addresses,
        };
        match shared.identity.sign_willing(willing) {
            Ok(signed) => {
                self.replicas.offer(signed);
                self.parts.node.provide(sha256(PROVIDER_KEY)).await;
            }
            Err(error) => {
                warn!(%error, "nobody can be told that images are kept here for others");
            }
        }
    }

    /// Has the DHT lead to willing nodes: who is looked up there is connected to, and says who else is.
    async fn search(&mut self, now: Instant) {
        let is_alone = self.replicas.announcements().len() <= 1;
        let interval = if is_alone {
            SEARCH_SOON
        } else {
            ANNOUNCE_INTERVAL
        };
        let is_due = |at: Instant| now.saturating_duration_since(at) >= interval;
        if self.searched.is_some_and(|at| !is_due(at)) || self.parts.node.peers().is_empty() {
            return;
        }
        self.searched = Some(now);
        let found = self
            .parts
            .node
            .find_providers(sha256(PROVIDER_KEY), None, HashSet::new());
        // The search ends after seconds by itself.
        self.parts.node.spawn(found.for_each(|_| async {}));
    }

    fn check(&mut self, is_kept: bool, image: Digest, node: NodeKey, proof: bool) {
        if self.tasks.len() >= CHECKS_MAX {
            return;
        }
        let addresses = {
            let mut state = self.replicas.0.lock();
            let willing = state.side(is_kept).roster.willing(&node);
            willing.map(|willing| willing.addresses.clone())
        };
        let (Some(addresses), Some(peer)) = (addresses, peer_id_of(&node)) else {
            return;
        };
        let address = |address: SocketAddr| {
            let kind = match address.ip() {
                IpAddr::V4(_) => "ip4",
                IpAddr::V6(_) => "ip6",
            };
            let (ip, port) = (address.ip(), address.port());
            format!("/{kind}/{ip}/tcp/{port}/p2p/{peer}").parse().ok()
        };
        let addresses: Vec<Multiaddr> = addresses.into_iter().filter_map(address).collect();
        let checks = self.checks.clone();
        self.tasks.spawn(async move {
            let outcome = checks.check(image, peer, &addresses, proof).await;
            Done::Checked {
                is_kept,
                image,
                node,
                outcome,
            }
        });
    }

    fn pull(&mut self, image: Digest, bytes: u64) {
        info!(%image, bytes, "is to be kept for others");
        let parts = Arc::clone(&self.parts);
        self.tasks.spawn(async move {
            let end = pull(&parts, image, bytes).await;
            Done::Pulled { image, bytes, end }
        });
    }

    async fn take(&mut self, done: Done) {
        let now = Instant::now();
        match done {
            Done::Checked {
                is_kept,
                image,
                node,
                outcome: Some(outcome),
            } => {
                let mut state = self.replicas.0.lock();
                let keeper = &mut state.side(is_kept).keeper;
                keeper.checked(&image, &node, outcome, now);
            }
            Done::Checked { .. } => (),
            Done::Pulled { image, bytes, end } => match end {
                Pulled::Whole => {
                    info!(%image, "is kept for others");
                    {
                        let mut state = self.replicas.0.lock();
                        state.kept.keeper.has(image, bytes);
                        state.saved.insert(image, bytes);
                    }
                    self.save().await;
                }
                Pulled::TooLarge => {
                    warn!(%image, bytes, "has more bytes than its publisher's account says, and is not kept");
                    self.replicas.0.lock().kept.keeper.too_large(&image);
                }
                Pulled::Failed(reason) => {
                    warn!(%image, reason, "can't be kept for others now");
                    self.replicas.0.lock().kept.keeper.failed(&image, now);
                }
            },
        }
    }

    /// Does not keep an image for others any more. What is here of it may be given up like anything else that can be fetched
    /// again.
    async fn drop(&mut self, image: Digest) {
        info!(%image, "is not kept for others any more");
        self.parts.pins.remove(&image, PinOrigin::Replica);
        self.replicas.0.lock().saved.remove(&image);
        self.save().await;
    }

    async fn save(&self) {
        let (folder, saved) = {
            let state = self.replicas.0.lock();
            (self.replicas.0.folder.clone(), state.saved.clone())
        };
        if let Ok(Err(error)) = spawn_blocking(move || folder.save_kept(&saved)).await {
            warn!(error = %Causes(&error), "it is not remembered which images are kept for others");
        }
    }
}

/// Brings an image that has so many bytes at most, and pins it.
async fn pull(parts: &Parts, image: Digest, bytes: u64) -> Pulled {
    let failed = |reason: &dyn std::error::Error| Pulled::Failed(Causes(reason).to_string());
    let purpose = Purpose {
        manifest: image,
        priority: Priority::Background,
        deadline: Instant::now() + METADATA_PATIENCE,
    };
    let manifest = match parts.repository.manifest(purpose).await {
        Ok(manifest) => manifest,
        Err(error) => return failed(&error),
    };
    let manifest = match Manifest::parse(&manifest) {
        Ok(manifest) => manifest,
        Err(error) => return failed(&error),
    };
    let table = match parts.repository.blob(manifest.blob_table, purpose).await {
        Ok(table) => table,
        Err(error) => return failed(&error),
    };
    let size = match BlobTable::parse(&table, manifest.inode_count) {
        Ok(table) => table
            .packs
            .iter()
            .fold(0_u64, |sum, pack| sum.saturating_add(pack.stored_length)),
        Err(error) => return failed(&error),
    };
    if size > bytes {
        return Pulled::TooLarge;
    }
    parts.pins.add(Reference::Digest(image), PinOrigin::Replica);
    let mut pull = parts.pulls.pull(image);
    loop {
        let changed = timeout(PULL_PATIENCE, pull.changed()).await;
        let reason = match pull.progress().state {
            PullState::Complete => return Pulled::Whole,
            PullState::Failed(reason) => reason,
            PullState::Waiting(awaited) if awaited.since.elapsed() >= PULL_PATIENCE => {
                "nothing has come for a long time".to_owned()
            }
            _ if changed.is_err() => "nothing has come for a long time".to_owned(),
            _ => continue,
        };
        parts.pins.remove(&image, PinOrigin::Replica);
        return Pulled::Failed(reason);
    }
}
