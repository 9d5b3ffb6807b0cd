// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Keeps an image complete without being asked for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use peerfs_format::{BlobTable, Digest, Manifest};
use peerfs_peer::Priority;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::library::{GetError, Library, Purpose};

/// How long one pack may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(600);
/// Between two attempts.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);

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
    #[error("pack {0} is damaged on the disk")]
    Damaged(Digest),
}

/// Fetches all of an image, until it is here or until `shutdown`.
pub async fn mirror(library: Arc<Library>, manifest: Digest, shutdown: CancellationToken) {
    let complete = async {
        loop {
            match fetch_all(&library, manifest).await {
                Ok(()) => return info!(%manifest, "mirrored"),
                Err(error @ MirrorError::Manifest(..)) => return warn!(%error, "not mirrored"),
                Err(error) => warn!(%manifest, %error, "mirroring is tried again"),
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    };
    tokio::select! {
        () = complete => (),
        () = shutdown.cancelled() => (),
    }
}

async fn fetch_all(library: &Library, manifest: Digest) -> Result<(), MirrorError> {
    let purpose = || Purpose {
        manifest,
        priority: Priority::Background,
        deadline: Instant::now() + STEP_TIMEOUT,
    };
    let blob = library.blob(manifest, purpose()).await?;
    let not_an_image = |error| MirrorError::Manifest(manifest, error);
    let parsed = Manifest::parse(&blob).map_err(not_an_image)?;
    let table = library.blob(parsed.blob_table, purpose()).await?;
    let table = BlobTable::parse(&table, parsed.inode_count).map_err(not_an_image)?;
    for shard in table.shards.iter() {
        library.blob(shard.digest, purpose()).await?;
    }
    for record in table.packs.iter() {
        let pack = library
            .pack(record.digest, record.index_digest, purpose())
            .await?;
        let chunks = 0..pack.record().chunk_count;
        library.chunks(&pack, chunks, purpose()).await?;
        if !library.complete(pack).await? {
            return Err(MirrorError::Damaged(record.digest));
        }
    }
    Ok(())
}
