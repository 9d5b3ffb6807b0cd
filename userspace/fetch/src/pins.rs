// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Keeps an image complete without being asked for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use peerfs_exchange::Priority;
use peerfs_format::{BlobTable, Digest, Manifest};
use peerfs_store::Error as StoreError;
use peerfs_text::Causes;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::disk::DiskError;
use crate::repository::{GetError, Purpose, Repository};

/// How long one pack may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(600);
/// Between two attempts.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);
/// It is said that nobody sends a blob when it has not come for so long, and then again from time to time.
const PATIENCE: Duration = Duration::from_secs(5);
const REMINDER: Duration = Duration::from_secs(600);

/// How the images are doing that are to be kept complete. Clones are the same list.
#[derive(Clone, Default)]
pub struct Pins(Arc<Mutex<BTreeMap<Digest, State>>>);

/// How one of them is doing.
#[derive(Clone, Debug, Eq, PartialEq)]
enum State {
    /// It is being fetched.
    Fetching,
    /// This blob of it does not come.
    Waiting(Digest),
    /// All of it is here.
    Complete,
    /// It failed for this reason, and is tried again.
    Retried(String),
    /// It can never be complete, for this reason.
    Failed(String),
}

impl Pins {
    /// The images, each with what is to be said of it.
    pub fn states(&self) -> Vec<(Digest, String)> {
        let states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        states
            .iter()
            .map(|(manifest, state)| (*manifest, state.to_string()))
            .collect()
    }

    fn set(&self, manifest: Digest, state: State) {
        // A map is valid after every step. As many entries as the configuration has.
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        states.insert(manifest, state);
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            State::Fetching => f.write_str("being fetched"),
            State::Waiting(blob) => write!(f, "waiting: nobody that can be reached sends {blob}"),
            State::Complete => f.write_str("complete"),
            State::Retried(reason) => write!(f, "not complete and tried again: {reason}"),
            State::Failed(reason) => write!(f, "not complete: {reason}"),
        }
    }
}

/// Why an image could not be made complete.
#[derive(Debug, thiserror::Error)]
enum PinError {
    /// Something of it could not be got.
    #[error(transparent)]
    Get(#[from] GetError),
    /// It is no image that this program knows.
    #[error("{0} is not the manifest of an image: {1}")]
    Manifest(Digest, #[source] peerfs_format::Error),
    /// All chunks were stored, but what the disk has is something else.
    #[error("pack {0} could not be made whole: chunks of it are damaged on the disk, and are fetched anew")]
    Damaged(Digest),
}

impl PinError {
    /// Whether it is the image that is wrong, so that it never becomes complete, whoever sends what.
    fn is_final(&self) -> bool {
        let wrong_index = |error: &GetError| {
            let GetError::Disk(DiskError::Store(error)) = error else {
                return false;
            };
            matches!(error, StoreError::WrongIndex { .. })
        };
        match self {
            PinError::Manifest(..) => true,
            PinError::Damaged(_) => false,
            PinError::Get(error) => wrong_index(error),
        }
    }
}

/// Fetches all of an image, until it is here or until `shutdown`.
pub async fn pin(
    repository: Arc<Repository>,
    pins: Pins,
    manifest: Digest,
    shutdown: CancellationToken,
) {
    let mut attempt = Attempt {
        repository: &repository,
        pins: &pins,
        manifest,
        checked: BTreeSet::new(),
    };
    let complete = async {
        let mut last = String::new();
        loop {
            pins.set(manifest, State::Fetching);
            match attempt.fetch_all().await {
                Ok(()) => {
                    pins.set(manifest, State::Complete);
                    return info!(%manifest, "complete");
                }
                Err(error) => {
                    let reason = Causes(&error).to_string();
                    if error.is_final() {
                        pins.set(manifest, State::Failed(reason.clone()));
                        return warn!(%manifest, error = reason, "cannot be kept complete");
                    }
                    pins.set(manifest, State::Retried(reason.clone()));
                    // The same problem is told once, not with every attempt.
                    if reason != last {
                        warn!(%manifest, error = reason, "not complete; tried again");
                        last = reason;
                    }
                }
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    };
    tokio::select! {
        () = complete => (),
        () = shutdown.cancelled() => (),
    }
}

/// Attempts to fetch all of an image.
struct Attempt<'a> {
    repository: &'a Repository,
    pins: &'a Pins,
    manifest: Digest,
    /// The packs of which all was read since, each with its index: there is no need to do it again.
    checked: BTreeSet<(Digest, Digest)>,
}

impl Attempt<'_> {
    fn purpose(&self) -> Purpose {
        Purpose {
            manifest: self.manifest,
            priority: Priority::Background,
            deadline: Instant::now() + STEP_TIMEOUT,
        }
    }

    async fn fetch_all(&mut self) -> Result<(), PinError> {
        let blob = self.blob(self.manifest).await?;
        let not_an_image = |error| PinError::Manifest(self.manifest, error);
        let parsed = Manifest::parse(&blob).map_err(not_an_image)?;
        let table = self.blob(parsed.blob_table).await?;
        let table = BlobTable::parse(&table, parsed.inode_count).map_err(not_an_image)?;
        for shard in table.shards.iter() {
            self.blob(shard.digest).await?;
        }
        for record in table.packs.iter() {
            self.pack(record.digest, record.index_digest).await?;
        }
        // Last: whoever only reads the image does without.
        for record in table.packs.iter() {
            self.blob(record.contents_digest).await?;
        }
        Ok(())
    }

    /// Gets a pack. One that is here is whole only if all its chunks are what they should be: what is called a blob
    /// may be damaged.
    async fn pack(&mut self, pack: Digest, index: Digest) -> Result<(), PinError> {
        self.blob(index).await?;
        let repository = self.repository;
        let open = repository.pack(pack, index, self.purpose()).await?;
        let chunks = 0..open.record().chunk_count;
        if open.is_blob() && !self.checked.contains(&(pack, index)) {
            repository.discard_damaged(&open, chunks.clone()).await?;
        }
        repository.chunks(&open, chunks, self.purpose()).await?;
        if !repository.complete(open).await? {
            return Err(PinError::Damaged(pack));
        }
        self.checked.insert((pack, index));
        Ok(())
    }

    /// Gets a metadata blob; says so if it does not come.
    async fn blob(&self, digest: Digest) -> Result<Vec<u8>, GetError> {
        let got = self.repository.blob(digest, self.purpose());
        tokio::pin!(got);
        let mut patience = PATIENCE;
        loop {
            tokio::select! {
                got = &mut got => {
                    self.pins.set(self.manifest, State::Fetching);
                    return got;
                }
                () = tokio::time::sleep(patience) => {
                    self.pins.set(self.manifest, State::Waiting(digest));
                    warn!(
                        manifest = %self.manifest, blob = %digest,
                        "nobody that can be reached sends a blob of a pinned image; still looking"
                    );
                    patience = REMINDER;
                }
            }
        }
    }
}
