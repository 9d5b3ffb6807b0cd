// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Brings all of an image into the store, once for all who want it.

mod attempt;
mod tally;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use peerfs_control::PullStatus;
use peerfs_format::Digest;
use peerfs_text::Causes;
use tokio::sync::{broadcast, watch, Notify, OwnedRwLockWriteGuard, RwLock};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::repository::Repository;
use crate::traffic::{ImageTraffic, Traffic};
use attempt::Attempts;
pub use tally::{Amount, Awaited};
use tally::{Sample, Tally};

/// Between two attempts.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);
/// Between two looks at how it is going.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);
/// Ends that wait for who is told of them.
const ENDED_QUEUE: usize = 64;
/// What does not come is told to the log again after so long.
const REMINDER: Duration = Duration::from_secs(600);

/// The images of which all is being brought into the store. Clones are the same ones.
#[derive(Clone)]
pub struct Pulls(Arc<Shared>);

struct Shared {
    repository: Arc<Repository>,
    traffic: Arc<Traffic>,
    jobs: Mutex<BTreeMap<Digest, Weak<Job>>>,
    ended: broadcast::Sender<Progress>,
    /// Passed by each before it begins.
    gate: Arc<RwLock<()>>,
}

/// An image that is being brought into the store. When the last one of an image is dropped, that ends, and what has
/// come stays.
pub struct Pull {
    job: Arc<Job>,
    updates: watch::Receiver<Progress>,
}

struct Job {
    updates: watch::Receiver<Progress>,
    /// Somebody came who does not want to wait for the next attempt.
    hurry: Arc<Notify>,
    task: AbortOnDropHandle<()>,
}

/// How it is going.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Progress {
    /// The image's manifest.
    pub manifest: Digest,
    /// What is being done.
    pub state: PullState,
    /// How much the image has, once that is known.
    pub total: Option<Amount>,
    /// How much of it is in the store.
    pub here: Amount,
    /// Bytes that came for it since somebody wants it, by the names of the sources.
    pub bytes_by_source: BTreeMap<String, u64>,
}

/// What is being done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PullState {
    /// It is being fetched, or what is here is being read to check it.
    Fetching,
    /// Something of it does not come.
    Waiting(Awaited),
    /// All of it is here.
    Complete,
    /// It failed for this reason, and is tried again as long as somebody wants it.
    Retried(String),
    /// It can never be complete, for this reason.
    Failed(String),
}

impl PullState {
    /// Whether nothing more is done.
    pub fn is_final(&self) -> bool {
        matches!(self, PullState::Complete | PullState::Failed(_))
    }
}

impl Progress {
    /// As clients of a control socket are told it.
    pub fn status(&self) -> PullStatus {
        use peerfs_control::PullState as Told;
        let (state, reason) = match &self.state {
            PullState::Fetching => (Told::Fetching, None),
            PullState::Waiting(_) => (Told::Waiting, Some(self.state.to_string())),
            PullState::Complete => (Told::Complete, None),
            PullState::Retried(reason) => (Told::Retried, Some(reason.clone())),
            PullState::Failed(reason) => (Told::Failed, Some(reason.clone())),
        };
        PullStatus {
            image: self.manifest.to_string(),
            state,
            reason,
            total_bytes: self.total.map(|total| total.bytes),
            present_bytes: self.here.bytes,
            total_chunks: self.total.map(|total| total.chunks),
            present_chunks: self.here.chunks,
            bytes_by_source: self.bytes_by_source.clone(),
            conversion: None,
        }
    }
}

impl std::fmt::Display for PullState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PullState::Fetching => f.write_str("being fetched"),
            PullState::Waiting(awaited) => {
                let blob = awaited.blob;
                write!(f, "waiting: nobody that can be reached sends {blob}")
            }
            PullState::Complete => f.write_str("complete"),
            PullState::Retried(reason) => write!(f, "not complete and tried again: {reason}"),
            PullState::Failed(reason) => write!(f, "not complete: {reason}"),
        }
    }
}

impl Pulls {
    /// No images yet; they are got by `repository`, and `traffic` counts from where.
    pub fn new(repository: Arc<Repository>, traffic: Arc<Traffic>) -> Self {
        Pulls(Arc::new(Shared {
            repository,
            traffic,
            jobs: Mutex::default(),
            ended: broadcast::channel(ENDED_QUEUE).0,
            gate: Arc::default(),
        }))
    }

    /// Keeps those from beginning that are asked for from now on, until this is dropped: who gives up what no pull needs
    /// would otherwise take from them what they have found to be here. [`Pulls::progress`] has them all the same.
    pub async fn hold(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.0.gate).write_owned().await
    }

    /// Begins to bring all of an image into the store, or joins who is doing it. Must be called within a tokio runtime.
    pub fn pull(&self, manifest: Digest) -> Pull {
        let mut jobs = self.0.lock();
        let running = jobs.get(&manifest).and_then(Weak::upgrade);
        let running = running.filter(|job| !job.task.is_finished());
        let job = running.unwrap_or_else(|| {
            let job = Arc::new(self.0.start(manifest));
            jobs.retain(|_, job| job.strong_count() > 0);
            jobs.insert(manifest, Arc::downgrade(&job));
            job
        });
        drop(jobs);
        let mut updates = job.updates.clone();
        // How an attempt ended that was made for others is nothing to the new one.
        if matches!(updates.borrow_and_update().state, PullState::Retried(_)) {
            job.hurry.notify_one();
        } else {
            updates.mark_changed();
        }
        Pull { job, updates }
    }

    /// The ends of what somebody wanted, from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Progress> {
        self.0.ended.subscribe()
    }

    /// How it is going with all that somebody wants.
    pub fn progress(&self) -> Vec<Progress> {
        let jobs: Vec<_> = self.0.lock().values().filter_map(Weak::upgrade).collect();
        jobs.iter().map(|job| job.progress()).collect()
    }
}

impl Shared {
    fn start(&self, manifest: Digest) -> Job {
        let progress = Progress {
            manifest,
            state: PullState::Fetching,
            total: None,
            here: Amount::default(),
            bytes_by_source: BTreeMap::new(),
        };
        let (sender, updates) = watch::channel(progress);
        let hurry = Arc::new(Notify::new());
        let work = Work {
            repository: Arc::clone(&self.repository),
            traffic: self.traffic.of_image(manifest),
            tally: Tally::new(Instant::now()),
            manifest,
            updates: sender,
            ended: self.ended.clone(),
            hurry: Arc::clone(&hurry),
            gate: Arc::clone(&self.gate),
        };
        Job {
            updates,
            hurry,
            task: AbortOnDropHandle::new(tokio::spawn(work.run())),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, Weak<Job>>> {
        // A map is valid after every step.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Job {
    fn progress(&self) -> Progress {
        self.updates.borrow().clone()
    }
}

impl Pull {
    /// How it is going.
    pub fn progress(&self) -> Progress {
        self.job.progress()
    }

    /// Waits until it goes otherwise than it did. It stays as it is when it has come to an end.
    pub async fn changed(&mut self) {
        if self.updates.changed().await.is_err() {
            // The end was told before.
            std::future::pending().await
        }
    }
}

/// What the task of a job does.
struct Work {
    repository: Arc<Repository>,
    traffic: ImageTraffic,
    tally: Tally,
    manifest: Digest,
    updates: watch::Sender<Progress>,
    ended: broadcast::Sender<Progress>,
    hurry: Arc<Notify>,
    gate: Arc<RwLock<()>>,
}

impl Work {
    /// Attempts it, until all is here or that can never be.
    async fn run(self) {
        let manifest = self.manifest;
        drop(self.gate.read().await);
        let attempts = Attempts::new(&self.repository, &self.tally, manifest);
        let mut last = String::new();
        loop {
            self.tally.restart(Instant::now());
            self.show(PullState::Fetching);
            let ended = tokio::select! {
                ended = attempts.fetch_all() => ended,
                never = self.watch() => never,
            };
            let Err(error) = ended else {
                info!(%manifest, "complete");
                return self.end(PullState::Complete);
            };
            let reason = Causes(&error).to_string();
            if error.is_final() {
                warn!(%manifest, error = reason, "cannot be made complete");
                return self.end(PullState::Failed(reason));
            }
            // The same problem is told once, not with every attempt.
            if reason != last {
                warn!(%manifest, error = reason, "not complete; tried again");
                last.clone_from(&reason);
            }
            self.show(PullState::Retried(reason));
            tokio::select! {
                () = tokio::time::sleep(RETRY_INTERVAL) => (),
                () = self.hurry.notified() => (),
            }
        }
    }

    /// Shows the end.
    fn end(&self, state: PullState) {
        self.show(state);
        // Nobody need be interested.
        let _ = self.ended.send(self.updates.borrow().clone());
    }

    /// Shows what has come, and says so if nothing comes.
    async fn watch<T>(&self) -> T {
        let mut warned: Option<Instant> = None;
        loop {
            tokio::time::sleep(SAMPLE_INTERVAL).await;
            let now = Instant::now();
            let Some(awaited) = self.show(PullState::Fetching) else {
                warned = None;
                continue;
            };
            if warned.is_none_or(|time| now.saturating_duration_since(time) >= REMINDER) {
                warned = Some(now);
                warn!(
                    manifest = %self.manifest, blob = %awaited.blob,
                    "nobody that can be reached sends a blob of an image that is wanted; still looking"
                );
            }
        }
    }

    /// Shows what there is now. What is being fetched and does not come is waited for.
    fn show(&self, state: PullState) -> Option<Awaited> {
        let Sample {
            total,
            here,
            awaited,
        } = self.tally.sample(Instant::now());
        let state = match (state, awaited) {
            (PullState::Fetching, Some(awaited)) => PullState::Waiting(awaited),
            (state, _) => state,
        };
        let progress = Progress {
            manifest: self.manifest,
            state,
            total,
            here,
            bytes_by_source: self.traffic.bytes_by_source(),
        };
        self.updates.send_if_modified(|shown| {
            let is_new = *shown != progress;
            *shown = progress;
            is_new
        });
        awaited
    }
}
