// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Notes what is missed of images when they are started, and brings that early the next time.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt};
use peerfs_exchange::Priority;
use peerfs_fetch::{Disk, GetError, Purpose, Repository};
use peerfs_format::upcall::{BlobKind, Workload};
use peerfs_format::{BlobTable, Digest, Manifest, PackRecord};
use peerfs_store::Error as StoreError;
use peerfs_text::Causes;
use peerfs_trace::{NoTrace, Noted, Part, Sessions, Touch, Trace};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::names::Names;
use crate::upcall::Request;

/// How often it is looked what is to be written down.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long what a trace names may take to come.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long the trace itself may take, which the publisher of a name has given to an image.
const TRACE_PATIENCE: Duration = Duration::from_secs(10);
/// Bytes that a trace brings, at most: it is a hint, of whoever wrote it.
const BROUGHT_MAX: u64 = 256 * 1024 * 1024;
/// Steps of a trace that are under way at a time.
const STEPS_AT_ONCE: usize = 64;
/// Traces that are brought at a time; more are not.
const REPLAYS_MAX: usize = 8;

/// The traces of a store. Clones are the same ones.
#[derive(Clone)]
pub struct Traces(Arc<Shared>);

struct Shared {
    repository: Arc<Repository>,
    names: Names,
    sessions: Mutex<Sessions>,
    replays: Arc<tokio::sync::Semaphore>,
    shutdown: CancellationToken,
}

/// What a trace has brought.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Brought {
    /// Steps that it has.
    pub steps: u64,
    /// Steps that could not be brought, or came behind the bound.
    pub left_out: u64,
}

/// Why what a trace names could not be brought.
#[derive(Debug, thiserror::Error)]
pub enum BringError {
    /// Nobody has noted anything.
    #[error(transparent)]
    NoTrace(#[from] NoTrace),
    /// What leads to it could not be got.
    #[error(transparent)]
    Get(#[from] GetError),
    /// The image is not valid.
    #[error("the image is not valid")]
    Format(#[from] peerfs_format::Error),
    /// The trace could not be read.
    #[error(transparent)]
    Disk(#[from] peerfs_fetch::DiskError),
}

impl Traces {
    /// Nothing is being started yet. What is brought by itself ends with `shutdown`.
    pub fn new(repository: Arc<Repository>, names: Names, shutdown: CancellationToken) -> Self {
        Traces(Arc::new(Shared {
            repository,
            names,
            sessions: Mutex::default(),
            replays: Arc::new(tokio::sync::Semaphore::new(REPLAYS_MAX)),
            shutdown,
        }))
    }

    /// Something was missed. If an image is started by that, what was missed the last time is brought.
    pub fn missed(&self, request: &Request) {
        let (image, workload, touch) = match request {
            Request::Blob(blob) => {
                let touch = match blob.kind() {
                    Some(BlobKind::Manifest) => Touch::Manifest,
                    _ => Touch::Blob(blob.digest),
                };
                (blob.manifest, blob.workload, touch)
            }
            Request::Chunks(chunks) => {
                let touch = Touch::Chunks {
                    pack: chunks.pack,
                    first: chunks.first_chunk,
                    count: chunks.chunk_count,
                };
                (chunks.manifest, chunks.workload, touch)
            }
        };
        if !self.disk().can_be_filled() {
            return;
        }
        let begins = self.lock().touched(image, workload, touch, Instant::now());
        if begins {
            self.replay(image, workload);
        }
    }

    /// Brings what was missed before, ahead of those who will miss it.
    fn replay(&self, image: Digest, workload: Workload) {
        let Ok(permit) = Arc::clone(&self.0.replays).try_acquire_owned() else {
            return;
        };
        let traces = self.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let shutdown = traces.0.shutdown.clone();
            let bringing = traces.bring(image, workload);
            match shutdown.run_until_cancelled(bringing).await {
                None | Some(Err(BringError::NoTrace(_))) => (),
                Some(Ok(brought)) => {
                    info!(%image, workload = workload.name(), ?brought, "what was missed of the image before has come");
                }
                Some(Err(error)) => {
                    debug!(%image, error = %Causes(&error), "what was missed of the image before does not come");
                }
            }
        });
    }

    /// Brings what the trace of an image names, in its order, and waits for it.
    ///
    /// # Errors
    /// [`BringError`]. That a part can't be had is none: others may be.
    pub async fn bring(&self, image: Digest, workload: Workload) -> Result<Brought, BringError> {
        let read = move |store: &peerfs_store::Store| store.trace(&image, workload);
        let purpose = Purpose {
            manifest: image,
            priority: Priority::Readahead,
            deadline: Instant::now() + PATIENCE,
        };
        let trace = match self.disk().run(read).await? {
            Some(trace) => trace,
            None => self.published(image, workload, purpose).await?,
        };
        let repository = &self.0.repository;
        let manifest = Manifest::parse(&repository.blob(image, purpose).await?)?;
        let table = repository.blob(manifest.blob_table, purpose).await?;
        let wanted = wanted(&trace, &BlobTable::parse(&table, manifest.inode_count)?);
        let mut brought = Brought {
            steps: trace.steps.len() as u64,
            left_out: trace.steps.len() as u64,
        };
        let mut coming = stream::iter(wanted)
            .map(|wanted| bring_part(Arc::clone(repository), wanted, purpose))
            .buffered(STEPS_AT_ONCE);
        while let Some(came) = coming.next().await {
            match came {
                Ok(()) => brought.left_out -= 1,
                Err(error) => {
                    debug!(%image, error = %Causes(&error), "a part of a trace does not come")
                }
            }
        }
        Ok(brought)
    }

    /// The trace that the publisher of a name of the image has given to it.
    async fn published(
        &self,
        image: Digest,
        workload: Workload,
        purpose: Purpose,
    ) -> Result<Trace, BringError> {
        let named = self.0.names.trace_of(&image);
        let digest = named.ok_or(NoTrace { image, workload })?;
        let purpose = Purpose {
            deadline: Instant::now() + TRACE_PATIENCE,
            ..purpose
        };
        let bytes = self.0.repository.blob(digest, purpose).await?;
        // It may be of another image, or for something else.
        let trace = Trace::parse(&bytes)
            .ok()
            .filter(|trace| trace.image == image && trace.workload == workload)
            .ok_or(NoTrace { image, workload })?;
        // What is missed all the same is added to it.
        let add = trace.clone();
        self.disk().run(move |store| store.add_trace(&add)).await?;
        Ok(trace)
    }

    /// Writes down what was missed, until `shutdown`.
    pub async fn run(self) {
        let shutdown = self.0.shutdown.clone();
        while shutdown
            .run_until_cancelled(sleep(INTERVAL))
            .await
            .is_some()
        {
            self.save(false).await;
        }
        self.save(true).await;
    }

    async fn save(&self, ends: bool) {
        let due = self.lock().due(ends, Instant::now());
        for noted in due {
            let image = noted.image;
            match self.write_down(noted).await {
                Ok(true) => debug!(%image, "what was missed of an image is noted"),
                Ok(false) => (),
                Err(error) => {
                    warn!(%image, error = %Causes(&error), "what is missed of an image is not noted");
                }
            }
        }
    }

    /// Adds what was missed to the image's trace.
    async fn write_down(&self, noted: Noted) -> Result<bool, peerfs_fetch::DiskError> {
        let add = move |store: &peerfs_store::Store| {
            let manifest = match store.read_manifest(&noted.image) {
                // Nobody but its readers has heard of the image.
                Err(StoreError::BlobMissing(_)) => return Ok(false),
                manifest => manifest?,
            };
            let table = store.read_metadata(&manifest.blob_table, peerfs_format::METADATA_MAX)?;
            let table = BlobTable::parse(&table, manifest.inode_count)
                .map_err(StoreError::format(manifest.blob_table))?;
            let missed: Trace = noted.trace(&table);
            if missed.steps.is_empty() {
                return Ok(false);
            }
            store.add_trace(&missed)
        };
        self.disk().run(add).await
    }

    fn disk(&self) -> &Disk {
        self.0.repository.disk()
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        // They are valid after every step.
        self.0
            .sessions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a step of a trace leads to.
enum Wanted {
    Shard(Digest),
    Chunks(PackRecord, Range<u32>),
}

/// What the steps of a trace lead to, as far as the image has it and up to the bound.
fn wanted(trace: &Trace, table: &BlobTable<'_>) -> Vec<Wanted> {
    let (mut wanted, mut bytes) = (Vec::new(), 0_u64);
    for step in &trace.steps {
        let (next, length) = match step.part {
            Part::Shard(number) => {
                let Ok(shard) = table.shard(number) else {
                    continue;
                };
                (Wanted::Shard(shard.digest), u64::from(shard.length))
            }
            Part::Chunks { pack, first, count } => {
                let Ok(record) = table.pack(pack) else {
                    continue;
                };
                let chunks = first..first.saturating_add(count).min(record.chunk_count);
                let average = record.stored_length / u64::from(record.chunk_count.max(1));
                let length = average.saturating_mul(chunks.len() as u64);
                (Wanted::Chunks(record, chunks), length)
            }
        };
        bytes = bytes.saturating_add(length);
        if bytes > BROUGHT_MAX {
            break;
        }
        wanted.push(next);
    }
    wanted
}

async fn bring_part(
    repository: Arc<Repository>,
    wanted: Wanted,
    purpose: Purpose,
) -> Result<(), GetError> {
    match wanted {
        Wanted::Shard(digest) => repository.blob(digest, purpose).await.map(drop),
        Wanted::Chunks(record, chunks) => {
            let pack = repository.pack(record.digest, record.index_digest, purpose);
            repository.chunks(&pack.await?, chunks, purpose).await
        }
    }
}
