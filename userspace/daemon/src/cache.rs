// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Keeps what can be fetched again within a size.

use std::sync::Arc;
use std::time::Duration;

use peerfs_fetch::{Disk, DiskError, Packs, Pins, Pulls};
use peerfs_format::Digest;
use peerfs_store::{Error as StoreError, Usage};
use peerfs_text::Causes;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// How often it is looked whether there is too much.
const INTERVAL: Duration = Duration::from_secs(5);
/// By which part of its size a store must have grown since it was last looked at closely, which means reading the metadata
/// of all images.
const GROWTH: u64 = 32;

/// The chunks that can be fetched again.
pub(crate) struct Cache {
    /// Bytes that they may take.
    pub(crate) limit: u64,
    pub(crate) disk: Disk,
    /// The packs that are open, which are opened anew after an eviction.
    pub(crate) packs: Arc<Packs>,
    pub(crate) pins: Pins,
    pub(crate) pulls: Pulls,
}

impl Cache {
    /// Gives up what was not read for the longest time whenever there is too much, until `shutdown`.
    pub(crate) async fn bound(self, shutdown: CancellationToken) {
        // What the store had when it was last looked at closely.
        let mut last = None;
        while shutdown
            .run_until_cancelled(sleep(INTERVAL))
            .await
            .is_some()
        {
            let size = match self.size().await {
                Ok(size) => size,
                Err(error) => {
                    debug!(error = %Causes(&error), "cannot tell how large the store is");
                    continue;
                }
            };
            if is_worth_a_look(self.limit, size, last) {
                self.evict().await;
                last = self.size().await.ok();
            }
        }
    }

    /// Bytes of all that the store has: more than what can be fetched again.
    async fn size(&self) -> Result<u64, DiskError> {
        let usage: Usage = self.disk.run(|store| store.usage()).await?;
        Ok(usage.blob_bytes + usage.partial_bytes + usage.loose_bytes)
    }

    async fn evict(&self) {
        let pulled = self.pulls.progress().into_iter().map(|pull| pull.manifest);
        let keep: Vec<Digest> = self.pins.manifests().into_iter().chain(pulled).collect();
        let limit = self.limit;
        let evicted = self.disk.run(move |store| store.evict(&keep, limit)).await;
        match evicted {
            Ok(evicted) if evicted.packs > 0 => {
                self.packs.close_all();
                info!(
                    packs = evicted.packs,
                    bytes = evicted.bytes,
                    cached_bytes = evicted.cached_bytes,
                    "gave up what was not read for the longest time"
                );
            }
            Ok(_) => (),
            // It goes on when the image is built.
            Err(DiskError::Store(StoreError::Locked(_))) => {
                debug!("an image is being built: nothing is given up meanwhile");
            }
            Err(error) => {
                warn!(error = %Causes(&error), "cannot make the store smaller");
            }
        }
    }
}

/// Whether there may be too much in a store of this size, which had another one when it was last looked at closely.
fn is_worth_a_look(limit: u64, size: u64, last: Option<u64>) -> bool {
    // A store may be larger for what is no cache: then it has to have grown.
    size > limit && last.is_none_or(|last| size > last.saturating_add(limit / GROWTH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_does_not_grow_is_left_alone() {
        assert!(!is_worth_a_look(3200, 3200, None));
        assert!(is_worth_a_look(3200, 3201, None));
        // What is left is what was built here.
        assert!(!is_worth_a_look(3200, 9000, Some(8950)));
        assert!(is_worth_a_look(3200, 9051, Some(8950)));
        assert!(!is_worth_a_look(3200, 3000, Some(8950)));
        assert!(is_worth_a_look(0, 1, Some(0)) && is_worth_a_look(u64::MAX - 1, u64::MAX, None));
    }
}
