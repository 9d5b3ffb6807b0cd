// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Keeps what can be fetched again within a size.

use std::sync::Arc;
use std::time::{Duration, Instant};

use peerfs_fetch::{Disk, DiskError, Packs, Pins, Pulls};
use peerfs_format::Digest;
use peerfs_store::{Error as StoreError, Keep, Store, Usage};
use peerfs_text::Causes;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::names::Names;
use crate::reload::Settings;
use crate::uses::Uses;

/// How often it is looked whether there is too much.
const INTERVAL: Duration = Duration::from_secs(5);
/// By which part of its size a store must have grown since it was last looked at closely, which means reading the metadata
/// of all images.
const GROWTH: u64 = 32;
/// When it is looked at closely though it has not grown: what was pinned or built here may not be any more.
const LOOK_AGAIN: Duration = Duration::from_secs(10 * 60);

/// The chunks that can be fetched again.
pub(crate) struct Cache {
    /// Bytes that they may take, if there is a limit.
    pub(crate) settings: watch::Receiver<Settings>,
    pub(crate) disk: Disk,
    /// The packs that are open, which are opened anew after an eviction.
    pub(crate) packs: Arc<Packs>,
    pub(crate) pins: Pins,
    pub(crate) pulls: Pulls,
    /// When chunks were used.
    pub(crate) uses: Arc<Uses>,
    /// What leads to traces.
    pub(crate) names: Names,
}

impl Cache {
    /// Gives up what was not used for the longest time whenever there is too much, until `shutdown`.
    pub(crate) async fn bound(self, shutdown: CancellationToken) {
        let mut watch = Watch::new(u64::MAX);
        while shutdown
            .run_until_cancelled(sleep(INTERVAL))
            .await
            .is_some()
        {
            let Some(limit) = self.settings.borrow().cache_bytes else {
                continue;
            };
            if watch.limit != limit {
                watch = Watch::new(limit);
            }
            let uses = Arc::clone(&self.uses);
            // It fails if the daemon is shutting down.
            let _ = spawn_blocking(move || uses.ask(Instant::now())).await;
            let size = match self.size().await {
                Ok(size) => size,
                Err(error) => {
                    debug!(error = %Causes(&error), "cannot tell how large the store is");
                    continue;
                }
            };
            if !watch.is_worth_a_look(size, Instant::now()) {
                continue;
            }
            // It may be ended at any time.
            match shutdown.run_until_cancelled(self.evict(limit)).await {
                Some(true) => {
                    if let Ok(size) = self.size().await {
                        watch.looked(size, Instant::now());
                    }
                }
                Some(false) => (),
                None => return,
            }
        }
    }

    /// Bytes of all that the store has: more than what can be fetched again.
    async fn size(&self) -> Result<u64, DiskError> {
        let usage: Usage = self.disk.run(|store| store.usage()).await?;
        Ok(usage.blob_bytes + usage.partial_bytes + usage.loose_bytes)
    }

    /// Makes the store smaller; `false` if that has to wait.
    async fn evict(&self, limit: u64) -> bool {
        // Who begins to keep or to pull an image meanwhile looks afterwards at what is here of it.
        let _held = self.pulls.hold().await;
        let pulled = self.pulls.progress().into_iter().map(|pull| pull.manifest);
        let pulled: Vec<Digest> = pulled.collect();
        let is_pulling = !pulled.is_empty();
        let keep = Keep {
            images: self.pins.manifests().into_iter().chain(pulled).collect(),
            traces: self.names.traces(),
        };
        let evicting = self.packs.evict();
        let recency = self.uses.recency();
        let evict = move |store: &Store| store.evict(&keep, limit, &recency);
        let evicted = self.disk.run(evict).await;
        drop(evicting);
        match evicted {
            Ok(evicted) if evicted.packs > 0 => {
                info!(
                    packs = evicted.packs,
                    bytes = evicted.bytes,
                    cached_bytes = evicted.cached_bytes,
                    "gave up what was not used for the longest time"
                );
            }
            // What is being pulled may go when it is here.
            Ok(_) if is_pulling => return false,
            Ok(_) => (),
            // It goes on when the image is built.
            Err(DiskError::Store(StoreError::Locked(_))) => {
                debug!("an image is being built: nothing is given up meanwhile");
                return false;
            }
            Err(error) => {
                warn!(error = %Causes(&error), "cannot make the store smaller");
            }
        }
        true
    }
}

/// Decides when a store is looked at closely.
struct Watch {
    limit: u64,
    /// The least size of the store since that was done, and when it was.
    last: Option<(u64, Instant)>,
}

impl Watch {
    fn new(limit: u64) -> Self {
        Watch { limit, last: None }
    }

    /// Whether there may be too much in a store that has this size now.
    fn is_worth_a_look(&mut self, size: u64, now: Instant) -> bool {
        // What has gone since, whoever removed it, may come again.
        self.last = self.last.map(|(least, at)| (least.min(size), at));
        // A store may be larger for what is no cache: then it has to have grown.
        let is_new = |(least, at): (u64, Instant)| {
            size > least.saturating_add(self.limit / GROWTH)
                || now.saturating_duration_since(at) >= LOOK_AGAIN
        };
        size > self.limit && self.last.is_none_or(is_new)
    }

    /// It was looked at closely, and left with this size.
    fn looked(&mut self, size: u64, now: Instant) {
        self.last = Some((size, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_does_not_grow_is_left_alone() {
        let start = Instant::now();
        let mut watch = Watch::new(3200);
        assert!(!watch.is_worth_a_look(3200, start));
        // As often as it takes, until somebody has looked.
        assert!(watch.is_worth_a_look(3201, start) && watch.is_worth_a_look(3201, start));
        // What is left is what was built here.
        watch.looked(8950, start);
        assert!(!watch.is_worth_a_look(9000, start));
        assert!(watch.is_worth_a_look(9051, start));
        // It may not be that any more.
        assert!(watch.is_worth_a_look(9000, start + LOOK_AGAIN));
        assert!(!watch.is_worth_a_look(3000, start + LOOK_AGAIN));
        // It was removed, and something else came.
        assert!(watch.is_worth_a_look(3201, start));
        for (limit, size) in [(0, 1), (u64::MAX - 1, u64::MAX)] {
            let mut watch = Watch::new(limit);
            watch.looked(0, start);
            assert!(watch.is_worth_a_look(size, start));
        }
    }
}
