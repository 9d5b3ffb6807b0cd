// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Keeps an image complete without being asked for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use peerfs_format::{BlobTable, Digest, Manifest};
use peerfs_peer::{causes, Priority};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::library::{GetError, Library, Purpose};

/// How long one pack may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(600);
/// Between two attempts.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);
/// It is said that nobody sends a blob when it has not come for so long, and then again from time to time.
const PATIENCE: Duration = Duration::from_secs(5);
const REMINDER: Duration = Duration::from_secs(600);

/// How the images are doing that are to be kept complete. Clones are the same list.
#[derive(Clone, Default)]
pub struct Mirrors(Arc<Mutex<BTreeMap<Digest, State>>>);

/// How one of them is doing.
#[derive(Clone, Debug, Eq, PartialEq)]
enum State {
    /// It is being fetched.
    Fetching,
    /// This blob of it does not come.
    Waiting(Digest),
    /// All of it is here.
    Complete,
    /// It failed for this reason.
    Failed(String),
}

impl Mirrors {
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
            State::Failed(reason) => write!(f, "not complete: {reason}"),
        }
    }
}

/// Why an image could not be mirrored.
#[derive(Debug, thiserror::Error)]
enum MirrorError {
    /// Something of it could not be got.
    #[error(transparent)]
    Get(#[from] GetError),
    /// It is no image that this program knows.
    #[error("{0} is not the manifest of an image: {1}")]
    Manifest(Digest, #[source] peerfs_format::Error),
    /// All chunks were stored, but what the disk has is something else.
    #[error(
        "pack {0} could not be made whole: chunks of it are damaged on the disk and fetched anew, or the image was \
         built wrong and has another pack's index"
    )]
    Damaged(Digest),
}

/// Fetches all of an image, until it is here or until `shutdown`.
pub async fn mirror(
    library: Arc<Library>,
    mirrors: Mirrors,
    manifest: Digest,
    shutdown: CancellationToken,
) {
    let attempt = Attempt {
        library: &library,
        mirrors: &mirrors,
        manifest,
    };
    let complete = async {
        loop {
            mirrors.set(manifest, State::Fetching);
            match attempt.fetch_all().await {
                Ok(()) => {
                    mirrors.set(manifest, State::Complete);
                    return info!(%manifest, "mirrored");
                }
                Err(error @ MirrorError::Manifest(..)) => {
                    mirrors.set(manifest, State::Failed(causes(&error)));
                    return warn!(error = causes(&error), "not mirrored");
                }
                Err(error) => {
                    mirrors.set(manifest, State::Failed(causes(&error)));
                    warn!(%manifest, error = causes(&error), "mirroring is tried again");
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

/// One attempt to fetch all of an image.
struct Attempt<'a> {
    library: &'a Library,
    mirrors: &'a Mirrors,
    manifest: Digest,
}

impl Attempt<'_> {
    fn purpose(&self) -> Purpose {
        Purpose {
            manifest: self.manifest,
            priority: Priority::Background,
            deadline: Instant::now() + STEP_TIMEOUT,
        }
    }

    async fn fetch_all(&self) -> Result<(), MirrorError> {
        let library = self.library;
        let blob = self.blob(self.manifest).await?;
        let not_an_image = |error| MirrorError::Manifest(self.manifest, error);
        let parsed = Manifest::parse(&blob).map_err(not_an_image)?;
        let table = self.blob(parsed.blob_table).await?;
        let table = BlobTable::parse(&table, parsed.inode_count).map_err(not_an_image)?;
        for shard in table.shards.iter() {
            self.blob(shard.digest).await?;
        }
        for record in table.packs.iter() {
            self.blob(record.index_digest).await?;
            let pack = library
                .pack(record.digest, record.index_digest, self.purpose())
                .await?;
            let chunks = 0..pack.record().chunk_count;
            library.chunks(&pack, chunks, self.purpose()).await?;
            if !library.complete(pack).await? {
                return Err(MirrorError::Damaged(record.digest));
            }
        }
        Ok(())
    }

    /// Gets a metadata blob; says so if it does not come.
    async fn blob(&self, digest: Digest) -> Result<Vec<u8>, GetError> {
        let got = self.library.blob(digest, self.purpose());
        tokio::pin!(got);
        let mut patience = PATIENCE;
        loop {
            tokio::select! {
                got = &mut got => {
                    self.mirrors.set(self.manifest, State::Fetching);
                    return got;
                }
                () = tokio::time::sleep(patience) => {
                    self.mirrors.set(self.manifest, State::Waiting(digest));
                    warn!(
                        manifest = %self.manifest, blob = %digest,
                        "nobody that can be reached sends a blob of a mirrored image; still looking"
                    );
                    patience = REMINDER;
                }
            }
        }
    }
}
