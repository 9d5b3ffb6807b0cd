// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Images that are read are fetched whole, when that is worth it and nobody waits for anything.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use peerfs_fetch::{Disk, Pull, Pulls};
use peerfs_format::Digest;
use peerfs_text::Causes;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::reload::Settings;

/// How often it is looked what to fetch.
const INTERVAL: Duration = Duration::from_millis(500);
/// Nobody waits any more for what an image lacks when nothing was asked for so long: not ahead of a reader either, who
/// goes through a file and waits for nothing only because all of the line is theirs.
const QUIET: Duration = Duration::from_secs(2);
/// Between two counts of what is here of an image, which read its metadata.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);
/// From which part of an image on the rest is fetched: who reads more of it chunk by chunk waits longer in all.
const WORTH_IT: u64 = 4;
/// The images of which it is known that they are read, the last ones.
const IMAGES_MAX: usize = 64;

/// When an image that is read is fetched whole.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum PullChoice {
    /// When a quarter of it is here and its readers wait for nothing.
    #[default]
    Auto,
    /// As soon as something of it is read and its readers wait for nothing.
    Always,
    /// Not by itself.
    Never,
}

/// The images that are read. Clones are the same ones.
#[derive(Clone)]
pub struct LazyPulls(Arc<Shared>);

struct Shared {
    settings: watch::Receiver<Settings>,
    disk: Disk,
    pulls: Pulls,
    images: Mutex<BTreeMap<Digest, Read>>,
}

/// An image that is read.
struct Read {
    /// When something of it was last asked for.
    asked: Instant,
    /// When it was last counted what is here of it.
    counted: Option<Instant>,
    pull: Option<Pull>,
}

/// What is to be done for an image.
#[derive(Debug, Eq, PartialEq)]
enum Next {
    Nothing,
    /// Count what is here, and begin if it is enough.
    Count,
    Begin,
    /// A reader goes first.
    Pause,
    /// All of it is here, or can never be.
    Forget,
}

impl Read {
    fn next(&self, choice: PullChoice, now: Instant) -> Next {
        let is_quiet = now.saturating_duration_since(self.asked) >= QUIET;
        match (&self.pull, choice) {
            (Some(pull), _) if pull.progress().state.is_final() => Next::Forget,
            (Some(_), _) if !is_quiet => Next::Pause,
            (Some(_), _) => Next::Nothing,
            (None, PullChoice::Always) if is_quiet => Next::Begin,
            (None, PullChoice::Auto) if is_quiet && self.is_more_here(now) => Next::Count,
            (None, _) => Next::Nothing,
        }
    }
}

impl Read {
    /// Whether more may be here than when it was last counted, and that was not just now.
    fn is_more_here(&self, now: Instant) -> bool {
        self.counted
            .is_none_or(|counted| self.asked > counted && now >= counted + COUNT_INTERVAL)
    }
}

impl LazyPulls {
    /// No image is read yet.
    pub fn new(settings: watch::Receiver<Settings>, disk: Disk, pulls: Pulls) -> Self {
        LazyPulls(Arc::new(Shared {
            settings,
            disk,
            pulls,
            images: Mutex::default(),
        }))
    }

    /// A reader waits for something of an image, or is about to.
    pub fn asked(&self, manifest: Digest) {
        let shared = &self.0;
        if shared.choice() == PullChoice::Never || !shared.disk.can_be_filled() {
            return;
        }
        let now = Instant::now();
        let mut images = shared.lock();
        if images.len() >= IMAGES_MAX && !images.contains_key(&manifest) {
            let oldest = images.iter().min_by_key(|(_, read)| read.asked);
            if let Some(oldest) = oldest.map(|(manifest, _)| *manifest) {
                images.remove(&oldest);
            }
        }
        let read = images.entry(manifest).or_insert(Read {
            asked: now,
            counted: None,
            pull: None,
        });
        read.asked = now;
    }

    /// Fetches what is worth it, until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        while shutdown
            .run_until_cancelled(sleep(INTERVAL))
            .await
            .is_some()
        {
            let images: Vec<Digest> = self.0.lock().keys().copied().collect();
            for manifest in images {
                self.0.look(manifest).await;
            }
        }
    }
}

impl Shared {
    fn choice(&self) -> PullChoice {
        self.settings.borrow().pull
    }

    async fn look(&self, manifest: Digest) {
        let (now, choice) = (Instant::now(), self.choice());
        let next = self
            .lock()
            .get(&manifest)
            .map(|read| read.next(choice, now));
        match next {
            None | Some(Next::Nothing) => (),
            Some(Next::Begin) => self.begin(manifest),
            Some(Next::Count) => {
                if let Some(read) = self.lock().get_mut(&manifest) {
                    read.counted = Some(now);
                }
                if self.is_worth_it(manifest).await {
                    self.begin(manifest);
                }
            }
            Some(Next::Pause) => {
                if let Some(read) = self.lock().get_mut(&manifest) {
                    // It goes on when nobody waits.
                    (read.pull, read.counted) = (None, None);
                }
            }
            Some(Next::Forget) => {
                self.lock().remove(&manifest);
            }
        }
    }

    fn begin(&self, manifest: Digest) {
        let pull = self.pulls.pull(manifest);
        if let Some(read) = self.lock().get_mut(&manifest) {
            info!(%manifest, "the rest of an image that is read is fetched");
            read.pull = Some(pull);
        }
    }

    /// Whether so much of an image is here that the rest should come too, and has room.
    async fn is_worth_it(&self, manifest: Digest) -> bool {
        let counted = self.disk.run(move |store| store.inventory(&manifest)).await;
        let inventory = match counted {
            Ok(inventory) => inventory,
            Err(error) => {
                debug!(%manifest, error = %Causes(&error), "cannot tell how much is here of an image that is read");
                return false;
            }
        };
        // The numbers are those that an image's publisher has chosen.
        let (total, here) = inventory.blobs.iter().fold((0_u64, 0_u64), |sums, blob| {
            let (total, here) = sums;
            (
                total.saturating_add(blob.bytes),
                here.saturating_add(blob.present_bytes),
            )
        });
        // What can be fetched again may take so much.
        let room = self.settings.borrow().cache_bytes;
        let has_room = room.is_none_or(|room| total <= room);
        has_room && here < total && here >= total / WORTH_IT
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, Read>> {
        // A map is valid after every step.
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_counted_when_readers_are_quiet_and_not_over_and_over() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut read = Read {
            asked: start,
            counted: None,
            pull: None,
        };
        let auto = |read: &Read, after| read.next(PullChoice::Auto, start + after);
        assert_eq!(auto(&read, second), Next::Nothing);
        assert_eq!(auto(&read, 2 * second), Next::Count);
        read.counted = Some(start + 2 * second);
        // Nothing more can have come.
        assert_eq!(auto(&read, 60 * second), Next::Nothing);
        read.asked = start + 3 * second;
        assert_eq!(auto(&read, 6 * second), Next::Nothing);
        assert_eq!(auto(&read, 7 * second), Next::Count);
        let next = |choice| read.next(choice, start + 7 * second);
        assert_eq!(next(PullChoice::Always), Next::Begin);
        assert_eq!(next(PullChoice::Never), Next::Nothing);
    }
}
