// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What this machine knows of names, on its disk before anybody acts by it.

mod account;
mod clock;
mod folder;
mod offers;
mod registries;
mod search;
mod told;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use data_encoding::BASE64;
use peerfs_fetch::{read_policy, PolicyError};
use peerfs_format::Digest;
use peerfs_names::{
    CannotGoBack, InvalidName, InvalidRecord, KnownName, LatestTime, Name, Point, Policy,
    PublisherKey, Record, SignedRecord, Unusable, Verdict,
};
use peerfs_peer::{NameBook, Node};
use peerfs_registry::Options;
use peerfs_store::Reference;
use peerfs_text::Causes;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub(crate) use account::AccountRecord;
pub use folder::FileError;
use folder::Folder;
use offers::Offers;
use registries::Registries;

use crate::names_config::NamesConfig;

/// The names of which something is known.
const NAMES_MAX: usize = 1024;
/// The changes that a follower may be behind.
const CHANGES_MAX: usize = 256;
/// When records are put into the DHT again after a start: a machine that sleeps each night may not run for longer.
const REPUBLISH_FIRST: Duration = Duration::from_secs(10 * 60);
/// How often after that: they live three times as long there.
const REPUBLISH_INTERVAL: Duration = Duration::from_secs(12 * 60 * 60);
/// Between two of them.
const REPUBLISH_PAUSE: Duration = Duration::from_secs(1);

/// Why a name can't be used.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    /// It is none.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// It is no alias.
    #[error("{0:?} is neither a publisher's name, KEY/NAME, nor an alias in [names.aliases] of peerfsd's configuration")]
    NoAlias(String),
    /// What was sent is no record.
    #[error("what was sent is no record of a name")]
    Base64,
    /// It is one that nobody may accept.
    #[error(transparent)]
    Record(#[from] InvalidRecord),
    /// It stands for nothing.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// There is a policy, which is not understood.
    #[error("{0}")]
    Policy(String),
    /// The policy refuses it.
    #[error("the policy refuses {name}, as {signer} has signed it")]
    Refused {
        /// The name.
        name: Name,
        /// Whose record it is.
        signer: PublisherKey,
    },
    /// It can't be rolled back.
    #[error(transparent)]
    CannotGoBack(#[from] CannotGoBack),
    /// What is said to be an image is none.
    #[error("{0:?} is no digest of an image, which has 64 hexadecimal digits")]
    Image(String),
    /// It is not said what to go back to.
    #[error("to what the name is to be rolled back: give sequence, or time")]
    NoTarget,
    /// A newer record is known.
    #[error("record {known} of {name} is known, and {tried} is not newer; nothing was published")]
    NotNewer {
        /// The name.
        name: Name,
        /// The newest record.
        known: Point,
        /// The one that is none.
        tried: Point,
    },
    /// There are too many.
    #[error("{NAMES_MAX} names are known, and there is no room for more: end peerfsd, remove some of names/ in its state directory, and start it")]
    Full,
    /// What was known of it is not known any more.
    #[error("what was known of {name} is not: {problem}")]
    Damaged {
        /// The name.
        name: Name,
        /// Why.
        problem: String,
    },
    /// It can't be brought to the disk.
    #[error(transparent)]
    File(#[from] FileError),
    /// Nothing is begun any more.
    #[error("the daemon is shutting down")]
    ShuttingDown,
}

/// Why names can't be used at all.
#[derive(Debug, thiserror::Error)]
pub enum NamesError {
    /// The folder can't be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Registries can't be asked.
    #[error(transparent)]
    Registry(#[from] peerfs_registry::Error),
}

/// What this machine knows of names. Clones are the same.
#[derive(Clone)]
pub struct Names(Arc<Shared>);

struct Shared {
    folder: Arc<Folder>,
    aliases: BTreeMap<String, Name>,
    /// The file of the policy, in the place of the usual one.
    policy: Option<PathBuf>,
    registries: Registries,
    state: Mutex<State>,
    /// What others offer, until it is on the disk.
    offers: Mutex<Offers>,
    /// Who changes what is known has it, from reading to when it is on the disk.
    turn: tokio::sync::Mutex<()>,
    changes: broadcast::Sender<Digest>,
    wanted: watch::Sender<Arc<BTreeSet<Digest>>>,
}

/// What a name is to be rolled back to: what `sequence` or `time` says.
pub struct Back {
    /// The sequence of a record.
    pub sequence: Option<u64>,
    /// The generation of its list of writers; without it the last one with the sequence is meant.
    pub generation: Option<u64>,
    /// The image of the record, of two for one place.
    pub image: Option<String>,
    /// What it stood for then, in seconds since 1970.
    pub time: Option<u64>,
    /// Only if it stands for this image now.
    pub refused: Option<String>,
}

struct State {
    known: HashMap<Digest, KnownName>,
    /// Those that could not be read, and why: of these nothing is accepted, or they would go back.
    damaged: HashMap<Digest, String>,
    /// How many want to be told of each.
    interests: HashMap<Digest, usize>,
    latest_time: LatestTime,
}

impl Names {
    /// What is in this folder, which is made if it does not exist. Blocks on the disk.
    ///
    /// # Errors
    /// If the folder can't be read, or registries can't be asked. What is wrong with a single file is told when its name is used.
    pub fn load(path: &Path, config: &NamesConfig, options: &Options) -> Result<Self, NamesError> {
        let (folder, loaded) = Folder::load(path)?;
        let (mut known, mut damaged) = (HashMap::new(), HashMap::new());
        for (topic, name) in loaded {
            match name {
                Ok(name) => drop(known.insert(topic, name)),
                Err(error) => {
                    warn!(error = %Causes(&error), "what was known of a name is not");
                    damaged.insert(topic, Causes(&error).to_string());
                }
            }
        }
        let latest_time = folder.latest_time();
        Ok(Names(Arc::new(Shared {
            folder: Arc::new(folder),
            aliases: config.aliases.clone(),
            policy: config.policy.clone(),
            registries: Registries::new(&config.registries, options)?,
            state: Mutex::new(State {
                known,
                damaged,
                interests: HashMap::new(),
                latest_time,
            }),
            offers: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            changes: broadcast::channel(CHANGES_MAX).0,
            wanted: watch::channel(Arc::default()).0,
        })))
    }

    /// The name that a client means by a text: itself, or an alias of it.
    ///
    /// # Errors
    /// [`NameError::Name`], [`NameError::NoAlias`].
    pub fn parse(&self, text: &str) -> Result<Name, NameError> {
        let alias = match text.parse() {
            Ok(Reference::Published { .. }) => return Ok(text.parse()?),
            Ok(Reference::Alias(alias)) => alias,
            _ => text.to_owned(),
        };
        let name = self.0.aliases.get(&alias).cloned();
        name.ok_or(NameError::NoAlias(alias))
    }

    /// The manifest that a name stands for now.
    ///
    /// # Errors
    /// [`NameError::Unusable`], [`NameError::Damaged`], [`NameError::Refused`], [`NameError::Policy`].
    pub fn manifest(&self, name: &Name) -> Result<Digest, NameError> {
        let known = self.known(name)?;
        let current = known.current(self.now())?;
        let record = current.record.record();
        allow(&self.policy(), record)?;
        Ok(record.manifest)
    }

    /// The trace that is published with an image, by the name whose record of it is the latest.
    pub(crate) fn trace_of(&self, image: &Digest) -> Option<Digest> {
        let state = self.0.lock();
        let newest = state.known.values().filter_map(KnownName::newest);
        let records = newest.map(|past| past.record.record());
        records
            .filter(|record| record.manifest == *image && record.trace.is_some())
            .max_by_key(|record| record.issued)
            .and_then(|record| record.trace)
    }

    /// The traces that names lead to.
    pub(crate) fn traces(&self) -> Vec<Digest> {
        let state = self.0.lock();
        let newest = state.known.values().filter_map(KnownName::newest);
        newest
            .filter_map(|past| past.record.record().trace)
            .collect()
    }

    /// The policy, as it is now: who changes it need not start the daemon anew.
    fn policy(&self) -> Result<Policy, PolicyError> {
        read_policy(self.0.policy.as_deref())
    }

    /// What is known of a name.
    fn known(&self, name: &Name) -> Result<KnownName, NameError> {
        let (state, topic) = (self.0.lock(), name.topic());
        if let Some(problem) = state.damaged.get(&topic) {
            return Err(NameError::Damaged {
                name: name.clone(),
                problem: problem.clone(),
            });
        }
        let known = state.known.get(&topic).cloned();
        Ok(known.unwrap_or_else(|| KnownName::new(name.clone())))
    }

    /// Accepts a record that a client has signed.
    ///
    /// # Errors
    /// [`NameError`], if it is not newer than all that are known, or not on the disk.
    pub async fn publish(&self, record: &str, node: &Node) -> Result<Name, NameError> {
        let bytes = BASE64.decode(record.as_bytes());
        let record = SignedRecord::parse(&bytes.map_err(|_| NameError::Base64)?)?;
        let (name, tried) = (record.record().name.clone(), Point::from(&record));
        let accepted = record.clone();
        self.change(&name, move |known| {
            let newest = known.newest().map(|past| &past.record);
            match newest.map(Point::from) {
                // It need not become a fork before it is refused.
                Some(point) if point >= tried && newest != Some(&accepted) => {
                    Err(NameError::NotNewer {
                        name: known.name().clone(),
                        known: point,
                        tried,
                    })
                }
                _ => Ok(known.offer(accepted, SystemTime::now()) == Verdict::New),
            }
        })
        .await?;
        info!(%name, record = %tried, "published");
        node.put_name(record).await;
        Ok(name)
    }

    /// Has a name stand for what it stood for earlier.
    ///
    /// # Errors
    /// [`NameError::CannotGoBack`], [`NameError::Image`], [`NameError::NoTarget`], or if it can't be brought to the disk.
    pub async fn roll_back(&self, name: &Name, back: Back) -> Result<(), NameError> {
        let now = self.now();
        self.change(name, move |known| {
            if let Some(refused) = back.refused {
                let current = known.current(now);
                let image = current.map(|current| current.record.record().manifest.to_string());
                if image.ok().as_ref() != Some(&refused) {
                    return Ok(false);
                }
            }
            let image = back.image.map(|image| {
                let parsed: Result<Digest, _> = image.parse();
                parsed.map_err(|_| NameError::Image(image))
            });
            let image = image.transpose()?;
            let point = match (back.sequence, back.time) {
                (Some(sequence), None) => known.go_back_to(back.generation, sequence, image)?,
                (None, Some(time)) => {
                    let time = UNIX_EPOCH.checked_add(Duration::from_secs(time));
                    known.go_back_in_time(time.ok_or(NameError::NoTarget)?, image)?
                }
                _ => return Err(NameError::NoTarget),
            };
            info!(name = %known.name(), record = %point, "rolled back");
            Ok(true)
        })
        .await
    }

    /// Changes what is known of a name, if `change` says that it has: on the disk first.
    async fn change(
        &self,
        name: &Name,
        change: impl FnOnce(&mut KnownName) -> Result<bool, NameError>,
    ) -> Result<(), NameError> {
        let turn = self.0.turn.lock().await;
        self.change_in(&turn, name, change).await
    }

    /// The same, of who has its turn.
    async fn change_in(
        &self,
        _turn: &tokio::sync::MutexGuard<'_, ()>,
        name: &Name,
        change: impl FnOnce(&mut KnownName) -> Result<bool, NameError>,
    ) -> Result<(), NameError> {
        let topic = name.topic();
        let mut known = self.known(name)?;
        if !change(&mut known)? {
            return Ok(());
        }
        {
            let state = self.0.lock();
            if state.known.len() >= NAMES_MAX && !state.known.contains_key(&topic) {
                return Err(NameError::Full);
            }
        }
        let (folder, saved) = (Arc::clone(&self.0.folder), known.clone());
        let saved = tokio::task::spawn_blocking(move || folder.save(&saved)).await;
        saved.map_err(|_| NameError::ShuttingDown)??;
        self.0.lock().known.insert(topic, known);
        // Nobody need be interested.
        let _ = self.0.changes.send(topic);
        Ok(())
    }

    /// Accepts what is offered of a name, together with what else is offered of it soon.
    async fn accept_offers(&self, name: &Name) -> Result<(), NameError> {
        let topic = name.topic();
        loop {
            let pause = self.0.offers().pause(&topic, Instant::now());
            tokio::time::sleep(pause).await;
            let turn = self.0.turn.lock().await;
            // Somebody else may have accepted some meanwhile, and what came after that waits anew.
            let offered = {
                let (mut offers, now) = (self.0.offers(), Instant::now());
                match offers.pause(&topic, now) {
                    Duration::ZERO => offers.take(&topic, now),
                    _ => continue,
                }
            };
            if offered.is_empty() {
                return Ok(());
            }
            let change = move |known: &mut KnownName| Ok(accept(known, offered));
            return self.change_in(&turn, name, change).await;
        }
    }

    /// Has a name followed at all peers as long as what is returned lives.
    fn want(&self, name: &Name) -> Interest {
        let topic = name.topic();
        *self.0.lock().interests.entry(topic).or_default() += 1;
        self.0.tell_wanted();
        Interest {
            shared: Arc::clone(&self.0),
            topic,
        }
    }

    /// Puts what is known into the DHT from time to time, until `shutdown`: a name outlives the sleep of its publisher.
    pub async fn republish(self, node: Node, shutdown: CancellationToken) {
        let republish = async {
            let mut pause = REPUBLISH_FIRST;
            loop {
                tokio::time::sleep(pause).await;
                pause = REPUBLISH_INTERVAL;
                for record in self.unexpired() {
                    node.put_name(record).await;
                    tokio::time::sleep(REPUBLISH_PAUSE).await;
                }
            }
        };
        shutdown.run_until_cancelled(republish).await;
    }

    fn unexpired(&self) -> Vec<SignedRecord> {
        let now = self.now();
        let state = self.0.lock();
        let newest = state.known.values().filter_map(KnownName::newest);
        newest
            .map(|past| past.record.clone())
            .filter(|record| record.record().expiry() > now)
            .collect()
    }
}

/// Takes what is offered of a name; returns whether more is known of it then.
fn accept(known: &mut KnownName, offered: Vec<SignedRecord>) -> bool {
    let mut has_changed = false;
    for record in offered {
        let point = Point::from(&record);
        let verdict = known.offer(record, SystemTime::now());
        match verdict {
            Verdict::New => info!(name = %known.name(), record = %point, "a newer record"),
            Verdict::Fork => {
                warn!(name = %known.name(), record = %point, "is forked: it was signed twice");
            }
            Verdict::Known | Verdict::Old | Verdict::Foreign => (),
        }
        has_changed |= matches!(verdict, Verdict::New | Verdict::Fork);
    }
    has_changed
}

/// Whether the policy allows what a record says.
fn allow(policy: &Result<Policy, PolicyError>, record: &Record) -> Result<(), NameError> {
    let policy = policy
        .as_ref()
        .map_err(|error| NameError::Policy(Causes(error).to_string()))?;
    let reference = Reference::Published {
        key: record.name.key(),
        name: record.name.text().to_owned(),
    };
    if policy.requires(&reference).allows_signer(&record.signer) {
        return Ok(());
    }
    Err(NameError::Refused {
        name: record.name.clone(),
        signer: record.signer,
    })
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // What is in it is valid after every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offers(&self) -> MutexGuard<'_, Offers> {
        // What is in it is valid after every step.
        self.offers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_wanted(&self) {
        self.wanted.send_if_modified(|wanted| {
            let topics: BTreeSet<Digest> = self.lock().interests.keys().copied().collect();
            let differs = **wanted != topics;
            *wanted = Arc::new(topics);
            differs
        });
    }
}

/// That somebody wants to know what a name stands for, as long as this lives.
struct Interest {
    shared: Arc<Shared>,
    topic: Digest,
}

impl Drop for Interest {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            if let Some(count) = state.interests.get_mut(&self.topic) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    state.interests.remove(&self.topic);
                }
            }
        }
        self.shared.tell_wanted();
    }
}

#[async_trait]
impl NameBook for Names {
    fn records(&self, topic: &Digest) -> Vec<SignedRecord> {
        let state = self.0.lock();
        let newest = state.known.get(topic).and_then(KnownName::newest);
        newest.map_or(Vec::new(), |past| {
            let rival = past.rival.clone();
            [past.record.clone()].into_iter().chain(rival).collect()
        })
    }

    async fn offer(&self, record: SignedRecord) {
        let name = record.record().name.clone();
        let is_news = {
            let state = self.0.lock();
            let known = state.known.get(&name.topic());
            known.is_none_or(|known| known.is_news(&record))
        };
        if !is_news {
            return;
        }
        self.0.offers().add(record, Instant::now());
        if let Err(error) = self.accept_offers(&name).await {
            warn!(%name, error = %Causes(&error), "a newer record can't be accepted");
        }
    }

    fn changes(&self) -> broadcast::Receiver<Digest> {
        self.0.changes.subscribe()
    }

    fn wanted(&self) -> watch::Receiver<Arc<BTreeSet<Digest>>> {
        self.0.wanted.subscribe()
    }
}
