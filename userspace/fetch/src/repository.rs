// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is here or can be got: metadata blobs, packs, chunks.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use nix::errno::Errno;
use peerfs_exchange::scheduler::{ContentId, Extent, Full, Order, Outcome, Part};
use peerfs_exchange::Priority;
use peerfs_format::{BlobTable, Digest, Manifest, PackRecord, METADATA_MAX};
use peerfs_store::{Error as StoreError, Pack};
use peerfs_text::Causes;
use tracing::{debug, warn};

use crate::disk::{Disk, DiskError};
use crate::fetcher::Fetcher;
use crate::packs::Packs;
use crate::source::Subject;

/// Bytes of a metadata blob, as good as is known before it comes.
const BLOB_LENGTH: u64 = 64 * 1024;

/// Gets what is in the store, and fetches what is not.
pub struct Repository {
    disk: Disk,
    packs: Arc<Packs>,
    fetcher: Fetcher,
    announcer: Arc<dyn Announce>,
}

/// Whoever tells others what is here.
#[async_trait]
pub trait Announce: Send + Sync {
    /// Tells that an image has come, by its manifest. Returns soon.
    async fn announce_image(&self, manifest: Digest);
}

/// For whom something is to be got.
#[derive(Clone, Copy, Debug)]
pub struct Purpose {
    /// The image that it belongs to, by its manifest.
    pub manifest: Digest,
    /// How urgent it is.
    pub priority: Priority,
    /// When to give up.
    pub deadline: Instant,
}

/// Why something could not be got.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// Nobody that could be reached has it.
    #[error("no peer or other source that can be reached has it")]
    Unreachable,
    /// It did not come in time.
    #[error("it did not come in time, although there are sources that have it")]
    TimedOut,
    /// Too much is asked for at once.
    #[error(transparent)]
    Full(#[from] Full),
    /// It came, and the store could not take it.
    #[error("the store could not take it")]
    Unstorable(#[source] Errno),
    /// It is not here, and the store can't be written to.
    #[error("it is not here, and the store is read only")]
    ReadOnly,
    /// The store could not be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Why an image could not be begun.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// Something of it could not be got.
    #[error("cannot get what a mount needs")]
    Get(#[from] GetError),
    /// It is no image that this program knows.
    #[error("it is not the manifest of an image")]
    Format(#[from] peerfs_format::Error),
}

impl GetError {
    /// What the kernel is told.
    pub fn errno(&self) -> Errno {
        match self {
            GetError::Unreachable => Errno::EHOSTUNREACH,
            GetError::TimedOut => Errno::ETIMEDOUT,
            GetError::Full(Full) => Errno::ENOMEM,
            GetError::Unstorable(errno) => *errno,
            GetError::ReadOnly => Errno::ENODATA,
            GetError::Disk(error) => error.errno(),
        }
    }
}

impl Repository {
    /// A repository over a store and those who fill it.
    pub fn new(
        disk: Disk,
        packs: Arc<Packs>,
        fetcher: Fetcher,
        announcer: Arc<dyn Announce>,
    ) -> Self {
        Repository {
            disk,
            packs,
            fetcher,
            announcer,
        }
    }

    /// The store.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The packs that are in use.
    pub fn packs(&self) -> &Packs {
        &self.packs
    }

    /// A metadata blob, verified.
    pub async fn blob(&self, digest: Digest, purpose: Purpose) -> Result<Vec<u8>, GetError> {
        let read = move |store: &peerfs_store::Store| store.read_metadata(&digest, METADATA_MAX);
        match self.disk.run(read).await {
            // A damaged one is replaced.
            Err(DiskError::Store(
                StoreError::BlobMissing(_)
                | StoreError::BlobDamaged(_)
                | StoreError::NotARegularFile(_),
            )) => (),
            other => return Ok(other?),
        }
        let subject = Subject::Blob {
            manifest: purpose.manifest,
        };
        self.fetch(ContentId::Blob(digest), vec![Part::Whole], subject, purpose)
            .await?;
        let bytes = self.disk.run(read).await?;
        if digest == purpose.manifest && Manifest::parse(&bytes).is_ok() {
            self.remember_image(digest, bytes.len() as u64).await;
            // Who has fetched a manifest becomes a provider of the image.
            self.announcer.announce_image(digest).await;
        }
        Ok(bytes)
    }

    /// The manifest of an image that somebody wants to have, verified. It is in the list of images from now on, be it that it
    /// was here already, and was removed from the list: a collection would take what is being brought.
    ///
    /// # Errors
    /// As for [`Repository::blob`].
    pub async fn manifest(&self, purpose: Purpose) -> Result<Vec<u8>, GetError> {
        let (manifest, bytes) = (
            purpose.manifest,
            self.blob(purpose.manifest, purpose).await?,
        );
        if self.disk.can_be_filled() && Manifest::parse(&bytes).is_ok() {
            self.remember_image(manifest, bytes.len() as u64).await;
        }
        Ok(bytes)
    }

    /// Gets what the first lookup in a mount of this manifest reads, so that its reader does not wait
    /// for one after the other: the blob table and the first shard. What fails is left to that reader.
    pub async fn prepare(&self, manifest: &[u8], purpose: Purpose) {
        let Ok(manifest) = Manifest::parse(manifest) else {
            return;
        };
        let purpose = Purpose {
            priority: Priority::Readahead,
            ..purpose
        };
        let Ok(table) = self.blob(manifest.blob_table, purpose).await else {
            return;
        };
        let first = BlobTable::parse(&table, manifest.inode_count).and_then(|table| table.shard(0));
        if let Ok(shard) = first {
            if let Err(error) = self.blob(shard.digest, purpose).await {
                debug!(
                    error = %Causes(&error),
                    "the first shard did not come ahead of its reader"
                );
            }
        }
    }

    /// Gets what mounting an image needs, and listing its root directory: all else comes when it is read.
    ///
    /// # Errors
    /// [`BeginError`].
    pub async fn begin(&self, purpose: Purpose) -> Result<(), BeginError> {
        let manifest = self.manifest(purpose).await?;
        let manifest = Manifest::parse(&manifest)?;
        let table = self.blob(manifest.blob_table, purpose).await?;
        let shard = BlobTable::parse(&table, manifest.inode_count)?.shard(0)?;
        self.blob(shard.digest, purpose).await?;
        Ok(())
    }

    /// A pack, open, with its index; there may be nothing else of it yet.
    pub async fn pack(
        &self,
        pack: Digest,
        index: Digest,
        purpose: Purpose,
    ) -> Result<Arc<Pack>, GetError> {
        self.packs.learn(pack, index);
        if let Some(open) = self.packs.get_to_fill(pack, index) {
            return Ok(open);
        }
        let packs = Arc::clone(&self.packs);
        let open = move |store: &peerfs_store::Store| {
            if store.is_locked_for_filling() {
                packs.open(store, pack, index).map(Some)
            } else {
                packs.find_with(store, pack, index)
            }
        };
        match self.disk.run(open.clone()).await {
            // Of the index, as a rule. What is wrong with the pack's own file is told when this is tried again.
            Err(DiskError::Store(
                StoreError::BlobMissing(_)
                | StoreError::BlobDamaged(_)
                | StoreError::NotARegularFile(_),
            )) => (),
            opened => return opened?.ok_or(GetError::ReadOnly),
        }
        self.blob(index, purpose).await?;
        self.disk.run(open).await?.ok_or(GetError::ReadOnly)
    }

    /// Gets chunks of a pack into the store.
    pub async fn chunks(
        &self,
        pack: &Arc<Pack>,
        chunks: impl IntoIterator<Item = u32>,
        purpose: Purpose,
    ) -> Result<(), GetError> {
        let missing: Vec<u32> = chunks
            .into_iter()
            .filter(|&chunk| !pack.has(chunk))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let missing = self.adopt(pack, missing).await?;
        if missing.is_empty() {
            return Ok(());
        }
        let missing = missing.into_iter().map(Part::Chunk).collect();
        let subject = Subject::Pack {
            pack: Arc::clone(pack),
            manifest: purpose.manifest,
        };
        let content = ContentId::Pack {
            pack: *pack.digest(),
            index: pack.record().index_digest,
        };
        self.fetch(content, missing, subject, purpose).await
    }

    /// Gets a chunk of a pack for another node, of an origin and no later than `deadline`; at once in vain if nothing of the pack
    /// was fetched here, or no origin has it.
    pub async fn fetch_through(
        &self,
        (pack, index): (Digest, Digest),
        number: u32,
        priority: Priority,
        deadline: Instant,
    ) {
        if self.disk.can_be_filled() {
            let content = ContentId::Pack { pack, index };
            let fetch = self
                .fetcher
                .fetch_through(content, number, priority, deadline);
            let outcome = fetch.await;
            debug!(%pack, number, ?outcome, "was to be fetched for another node");
        }
    }

    /// Takes what the store has of some chunks by other packs; returns those that are still missing.
    async fn adopt(&self, pack: &Arc<Pack>, chunks: Vec<u32>) -> Result<Vec<u32>, GetError> {
        let (adopting, wanted) = (Arc::clone(pack), chunks.len());
        let (missing, is_full) = self.disk.run(move |_| adopting.adopt(chunks)).await?;
        if missing.len() < wanted {
            debug!(pack = %pack.digest(), chunks = wanted - missing.len(), "in the store by other packs");
        }
        if is_full {
            self.disk.start_completing(Arc::clone(pack));
        }
        Ok(missing)
    }

    /// Reads chunks of a pack that are in the store, and forgets those that are damaged: [`Repository::chunks`] fetches
    /// them anew.
    pub async fn discard_damaged(
        &self,
        pack: &Arc<Pack>,
        chunks: Range<u32>,
    ) -> Result<(), GetError> {
        let pack = Arc::clone(pack);
        let digest = *pack.digest();
        match self.disk.run(move |_| pack.discard_damaged(chunks)).await {
            Ok(false) => Ok(()),
            Ok(true) => {
                warn!(pack = %digest, "chunks of the pack are damaged in the store; they are fetched anew");
                Ok(())
            }
            Err(DiskError::Store(error)) if error.is_read_only() => Err(GetError::ReadOnly),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until a pack of which all chunks are there is a blob of the store; `false` if the disk has other
    /// bytes, which are forgotten. Fails if the pack's index is another one's.
    pub async fn complete(&self, pack: Arc<Pack>) -> Result<bool, GetError> {
        Ok(self.disk.complete(pack).await?)
    }

    async fn fetch(
        &self,
        content: ContentId,
        parts: Vec<Part>,
        subject: Subject,
        purpose: Purpose,
    ) -> Result<(), GetError> {
        if !self.disk.can_be_filled() {
            return Err(GetError::ReadOnly);
        }
        let order = Order {
            content,
            parts,
            priority: purpose.priority,
            deadline: purpose.deadline,
            extent: extent(&subject),
            subject,
        };
        match self.fetcher.fetch(order).await? {
            Outcome::Complete => Ok(()),
            Outcome::Unreachable => Err(GetError::Unreachable),
            Outcome::TimedOut => Err(GetError::TimedOut),
            Outcome::Unstorable(errno) => Err(GetError::Unstorable(Errno::from_raw(errno))),
        }
    }

    /// That an image is not in the list of images is no reason not to read it.
    async fn remember_image(&self, manifest: Digest, length: u64) {
        let remember = move |store: &peerfs_store::Store| store.remember_image(&manifest, length);
        if let Err(error) = self.disk.run(remember).await {
            warn!(%manifest, error = %Causes(&error), "cannot add the image to the list");
        }
    }
}

/// How much there is of what is fetched.
fn extent(subject: &Subject) -> Extent {
    match subject {
        // How long it is, only those know who have it.
        Subject::Blob { .. } => Extent {
            parts: 1,
            part_length: BLOB_LENGTH,
        },
        Subject::Pack { pack, .. } => {
            let PackRecord {
                chunk_count: parts,
                stored_length,
                ..
            } = *pack.record();
            Extent {
                parts,
                part_length: stored_length / u64::from(parts.max(1)),
            }
        }
    }
}
