// SPDX-License-Identifier: GPL-2.0 OR MIT

//! An attempt to bring all of an image into the store.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::try_join;
use futures::stream::{self, TryStreamExt};
use peerfs_exchange::Priority;
use peerfs_format::{BlobTable, Digest, Manifest};
use peerfs_store::{Error as StoreError, Pack};
use tokio::sync::Semaphore;

use super::tally::Tally;
use crate::disk::DiskError;
use crate::repository::{GetError, Purpose, Repository};

/// How long a blob may take, or a pack if nothing of the image comes.
const STEP_TIMEOUT: Duration = Duration::from_secs(600);
/// Metadata blobs that are fetched at a time.
const BLOBS_AT_A_TIME: usize = 16;
/// Packs that are filled at a time, as one pool of chunks: which of them comes next is for the scheduler to say, so
/// that others have something else. What is known of each chunk that is missing takes some 250 bytes.
const PACKS_AT_A_TIME: usize = 32;
/// Packs that were here before and are read at a time to check them.
const CHECKS_AT_A_TIME: usize = 2;

/// Why not all of an image is here.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttemptError {
    /// Something of it could not be got.
    #[error("can't get blob {0}")]
    Get(Digest, #[source] GetError),
    /// It is no image that this program knows.
    #[error("{0} is not the manifest of an image")]
    Manifest(Digest, #[source] peerfs_format::Error),
    /// All chunks were stored, but what the disk has is something else.
    #[error("pack {0} could not be made whole: chunks of it are damaged on the disk, and are fetched anew")]
    Damaged(Digest),
    /// The store could not be read.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl AttemptError {
    /// Whether it fails in the same way each time: because of the image, whoever sends what, or of a store that can't
    /// be written to.
    pub(super) fn is_final(&self) -> bool {
        match self {
            AttemptError::Manifest(..) => true,
            AttemptError::Damaged(_) | AttemptError::Disk(_) => false,
            AttemptError::Get(_, GetError::ReadOnly) => true,
            AttemptError::Get(_, GetError::Disk(DiskError::Store(error))) => {
                matches!(error, StoreError::WrongIndex { .. })
            }
            AttemptError::Get(..) => false,
        }
    }
}

/// Attempts to bring all of an image into the store.
pub(super) struct Attempts<'a> {
    repository: &'a Repository,
    tally: &'a Tally,
    manifest: Digest,
    /// The packs of which all was read since, each with its index: there is no need to do it again.
    checked: Mutex<BTreeSet<(Digest, Digest)>>,
    /// Each of these bounds what is done at a time. None is ever closed.
    blobs: Semaphore,
    fills: Semaphore,
    checks: Semaphore,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(repository: &'a Repository, tally: &'a Tally, manifest: Digest) -> Self {
        Attempts {
            repository,
            tally,
            manifest,
            checked: Mutex::default(),
            blobs: Semaphore::new(BLOBS_AT_A_TIME),
            fills: Semaphore::new(PACKS_AT_A_TIME),
            checks: Semaphore::new(CHECKS_AT_A_TIME),
        }
    }

    /// Gets all of it.
    pub(super) async fn fetch_all(&self) -> Result<(), AttemptError> {
        let blob = self.image_manifest().await?;
        let not_an_image = |error| AttemptError::Manifest(self.manifest, error);
        let parsed = Manifest::parse(&blob).map_err(not_an_image)?;
        let table = self.blob(parsed.blob_table).await?;
        let table = BlobTable::parse(&table, parsed.inode_count).map_err(not_an_image)?;
        let manifest = self.manifest;
        let inventory = self
            .repository
            .disk()
            .run(move |store| store.inventory(&manifest));
        self.tally.learn(&inventory.await?);
        // Nothing of it waits for anything else: the line is never idle while something is read or hashed.
        try_join(self.shards(&table), self.packs(&table)).await?;
        // Last: whoever only reads the image does without.
        stream::iter(table.packs.iter().map(Ok))
            .try_for_each_concurrent(BLOBS_AT_A_TIME, |record| async move {
                self.blob(record.contents_digest).await.map(drop)
            })
            .await
    }

    async fn shards(&self, table: &BlobTable<'_>) -> Result<(), AttemptError> {
        stream::iter(table.shards.iter().map(Ok))
            .try_for_each_concurrent(BLOBS_AT_A_TIME, |shard| async move {
                self.blob(shard.digest).await.map(drop)
            })
            .await
    }

    async fn packs(&self, table: &BlobTable<'_>) -> Result<(), AttemptError> {
        stream::iter(table.packs.iter().map(Ok))
            .try_for_each_concurrent(None, |record| self.pack(record.digest, record.index_digest))
            .await
    }

    fn purpose(&self) -> Purpose {
        Purpose {
            manifest: self.manifest,
            priority: Priority::Background,
            deadline: Instant::now() + STEP_TIMEOUT,
        }
    }

    /// Gets the manifest of the image, which is listed from now on.
    async fn image_manifest(&self) -> Result<Vec<u8>, AttemptError> {
        let _asked = self.tally.asks(self.manifest);
        let got = self.repository.manifest(self.purpose()).await;
        let bytes = got.map_err(|error| AttemptError::Get(self.manifest, error))?;
        self.tally.has_blob(self.manifest, bytes.len());
        Ok(bytes)
    }

    /// Gets a metadata blob.
    async fn blob(&self, digest: Digest) -> Result<Vec<u8>, AttemptError> {
        let _permit = self.blobs.acquire().await;
        let _asked = self.tally.asks(digest);
        let got = self.repository.blob(digest, self.purpose()).await;
        let bytes = got.map_err(|error| AttemptError::Get(digest, error))?;
        self.tally.has_blob(digest, bytes.len());
        Ok(bytes)
    }

    /// Gets a pack. One that is here is whole only if all its chunks are what they should be: what is called a blob, or was
    /// right some time ago, may be damaged.
    async fn pack(&self, pack: Digest, index: Digest) -> Result<(), AttemptError> {
        let failed = |error| AttemptError::Get(pack, error);
        let filling = self.fills.acquire().await;
        self.blob(index).await?;
        let repository = self.repository;
        let open = repository.pack(pack, index, self.purpose()).await;
        let open = open.map_err(failed)?;
        if open.is_whole() && !self.is_checked(pack, index) {
            let _permit = self.checks.acquire().await;
            let chunks = 0..open.record().chunk_count;
            let discarded = repository.discard_damaged(&open, chunks).await;
            discarded.map_err(failed)?;
        }
        self.tally.fills(&open);
        let filled = self.fill(&open).await;
        self.tally.has_filled(&open);
        filled.map_err(failed)?;
        // Others are filled while this one waits to be hashed.
        drop(filling);
        if !repository.complete(open).await.map_err(failed)? {
            return Err(AttemptError::Damaged(pack));
        }
        self.lock_checked().insert((pack, index));
        Ok(())
    }

    /// Gets all chunks of a pack, however long it takes, if only some of the image come.
    async fn fill(&self, pack: &Arc<Pack>) -> Result<(), GetError> {
        let _asked = self.tally.asks(*pack.digest());
        loop {
            let before = self.tally.sample(Instant::now()).here;
            let chunks = 0..pack.record().chunk_count;
            match self.repository.chunks(pack, chunks, self.purpose()).await {
                Err(GetError::TimedOut | GetError::Unreachable)
                    if self.tally.sample(Instant::now()).here.bytes > before.bytes => {}
                got => return got,
            }
        }
    }

    fn is_checked(&self, pack: Digest, index: Digest) -> bool {
        self.lock_checked().contains(&(pack, index))
    }

    fn lock_checked(&self) -> std::sync::MutexGuard<'_, BTreeSet<(Digest, Digest)>> {
        // A set is valid after every step.
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
