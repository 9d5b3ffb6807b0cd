// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The images that are kept complete without being asked for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use peerfs_format::Digest;
use peerfs_store::Reference;
use peerfs_text::Causes;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use crate::disk::Disk;
use crate::images::resolve;
use crate::pulls::{PullState, Pulls};

/// Between two looks for a tag that the store does not have.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);

/// The pins. Clones are the same ones.
#[derive(Clone)]
pub struct Pins(Arc<Shared>);

struct Shared {
    disk: Disk,
    pulls: Pulls,
    pins: Mutex<BTreeMap<Key, Pin>>,
}

/// Who wants an image to be kept, and what it is called there.
type Key = (PinOrigin, String);

/// Who wants an image to be kept.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum PinOrigin {
    /// The configuration.
    Configuration,
    /// A user, by a command.
    Command,
    /// A publisher, whose images are kept for others.
    Replica,
}

/// A pin, and how it is doing.
#[derive(Clone, Debug)]
pub struct PinInfo {
    /// What the image is called there.
    pub image: String,
    /// Who wants it to be kept.
    pub origin: PinOrigin,
    /// How it is doing.
    pub state: PullState,
}

struct Pin {
    known: Arc<Mutex<Known>>,
    _task: AbortOnDropHandle<()>,
}

/// What is known of the image of a pin.
struct Known {
    manifest: Option<Digest>,
    state: PullState,
}

impl Pins {
    /// No pins yet, of images that `pulls` completes.
    pub fn new(disk: Disk, pulls: Pulls) -> Self {
        Pins(Arc::new(Shared {
            disk,
            pulls,
            pins: Mutex::default(),
        }))
    }

    /// Keeps an image complete from now on. What a tag stands for is decided once: when the store has it. Must be
    /// called within a tokio runtime.
    pub fn add(&self, image: Reference, origin: PinOrigin) {
        let key = (origin, image.to_string());
        let mut pins = self.0.lock();
        pins.entry(key).or_insert_with(|| {
            let known = Arc::new(Mutex::new(Known {
                manifest: None,
                state: PullState::Fetching,
            }));
            let (disk, pulls) = (self.0.disk.clone(), self.0.pulls.clone());
            let keeping = keep(disk, pulls, image, Arc::clone(&known));
            Pin {
                known,
                _task: AbortOnDropHandle::new(tokio::spawn(keeping)),
            }
        });
    }

    /// Does not keep an image any more for this origin, which has named it by its digest.
    pub fn remove(&self, manifest: &Digest, origin: PinOrigin) {
        let key = (origin, manifest.to_string());
        self.0.lock().remove(&key);
    }

    /// Has the pins of the configuration be these, and leaves those alone that were there before. Must be called within a
    /// tokio runtime.
    pub fn configure(&self, images: impl IntoIterator<Item = Reference>) {
        let images: Vec<Reference> = images.into_iter().collect();
        let names: Vec<String> = images.iter().map(Reference::to_string).collect();
        self.0.lock().retain(|(origin, name), _| {
            *origin != PinOrigin::Configuration || names.contains(name)
        });
        for image in images {
            self.add(image, PinOrigin::Configuration);
        }
    }

    /// Whether the configuration wants an image to be kept.
    pub fn is_configured(&self, manifest: &Digest) -> bool {
        let pins = self.0.lock();
        let mut configured = pins
            .iter()
            .filter(|((origin, _), _)| *origin == PinOrigin::Configuration);
        configured.any(|(_, pin)| lock(&pin.known).manifest == Some(*manifest))
    }

    /// The manifests of all of them, as far as they are known.
    pub fn manifests(&self) -> Vec<Digest> {
        let pins = self.0.lock();
        let known = pins.values().map(|pin| lock(&pin.known).manifest);
        known.flatten().collect()
    }

    /// All of them, with how they are doing.
    pub fn list(&self) -> Vec<PinInfo> {
        let pins = self.0.lock();
        pins.iter()
            .map(|((origin, image), pin)| PinInfo {
                image: image.clone(),
                origin: *origin,
                state: lock(&pin.known).state.clone(),
            })
            .collect()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Pin>> {
        lock(&self.pins)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is locked is valid after every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Completes an image, when it is known which.
async fn keep(disk: Disk, pulls: Pulls, image: Reference, known: Arc<Mutex<Known>>) {
    let manifest = find(&disk, image, &known).await;
    lock(&known).manifest = Some(manifest);
    let mut pull = pulls.pull(manifest);
    loop {
        pull.changed().await;
        let state = pull.progress().state;
        let is_final = state.is_final();
        lock(&known).state = state;
        if is_final {
            return;
        }
    }
}

/// Finds out what image is meant, as soon as the store knows that.
async fn find(disk: &Disk, image: Reference, known: &Mutex<Known>) -> Digest {
    let mut is_told = false;
    loop {
        match resolve(disk, image.clone()).await {
            Ok(manifest) => return manifest,
            Err(error) => {
                let reason = Causes(&error).to_string();
                if !is_told {
                    warn!(%image, error = reason, "cannot be kept complete; tried again");
                    is_told = true;
                }
                lock(known).state = PullState::Retried(reason);
            }
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}
