// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Gets what the kernel asks for.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use nix::errno::Errno;
use peerfs_control::RequestStatus;
use peerfs_exchange::Priority;
use peerfs_fetch::{DiskError, GetError, Purpose, Repository};
use peerfs_format::upcall::{self, BlobKind, FetchBlob, FetchChunks, FETCH_AGAIN};
use peerfs_format::Digest;
use peerfs_store::{Error as StoreError, PackFiles};
use peerfs_text::Causes;
use tokio::sync::watch;
use tracing::{debug, info};

use crate::lazy_pulls::LazyPulls;
use crate::reload::Settings;
use crate::traces::Traces;
use crate::upcall::{Answer, Request, RequestHandler};

/// Counts the kernel's requests.
#[derive(Default)]
pub struct RequestCounts {
    in_flight: AtomicUsize,
    filled: AtomicU64,
    failed: AtomicU64,
    chunks: AtomicU64,
    chunks_here: AtomicU64,
}

/// The requests that were answered since the daemon started.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RequestTotals {
    /// With what they asked for.
    pub filled: u64,
    /// With an error.
    pub failed: u64,
}

impl RequestCounts {
    /// The number of those that are not answered yet.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// How the requests are doing, as clients are told.
    pub fn status(&self) -> RequestStatus {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        RequestStatus {
            waiting: self.in_flight() as u64,
            filled: count(&self.filled),
            failed: count(&self.failed),
            chunks: count(&self.chunks),
            chunks_here: count(&self.chunks_here),
        }
    }

    fn asked_for_chunks(&self, are_here: bool) {
        self.chunks.fetch_add(1, Ordering::Relaxed);
        self.chunks_here
            .fetch_add(u64::from(are_here), Ordering::Relaxed);
    }

    /// Those that were answered.
    pub fn totals(&self) -> RequestTotals {
        RequestTotals {
            filled: self.filled.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }
}

/// How often a request is handled at most because something was given up meanwhile.
const TRIES_MAX: usize = 3;

/// Handles the kernel's requests by the repository.
pub struct RepositoryHandler {
    repository: Arc<Repository>,
    settings: watch::Receiver<Settings>,
    counts: Arc<RequestCounts>,
    lazy_pulls: LazyPulls,
    traces: Traces,
}

impl RepositoryHandler {
    /// A handler that gives each request as much time as it is set to, counts them, and tells who may fetch the rest, and who
    /// notes what is missed.
    pub fn new(
        repository: Arc<Repository>,
        settings: watch::Receiver<Settings>,
        counts: Arc<RequestCounts>,
        lazy_pulls: LazyPulls,
        traces: Traces,
    ) -> Self {
        RepositoryHandler {
            repository,
            settings,
            counts,
            lazy_pulls,
            traces,
        }
    }

    fn purpose(&self, manifest: Digest, priority: u32) -> Purpose {
        let priority = match upcall::Priority::from_number(priority) {
            upcall::Priority::Demand => Priority::Demand,
            upcall::Priority::Readahead => Priority::Readahead,
        };
        self.lazy_pulls.asked(manifest);
        Purpose {
            manifest,
            priority,
            deadline: Instant::now() + self.settings.borrow().request_timeout,
        }
    }

    async fn blob(&self, request: FetchBlob) -> Result<Answer, GetError> {
        let digest = request.digest;
        let purpose = self.purpose(request.manifest, request.priority);
        let bytes = self.repository.blob(digest, purpose).await?;
        if request.kind() == Some(BlobKind::Manifest) {
            let repository = Arc::clone(&self.repository);
            tokio::spawn(async move { repository.prepare(&bytes, purpose).await });
        }
        let open = self.repository.disk().run(move |store| {
            let file = store.open_blob(&digest)?;
            file.ok_or(StoreError::BlobMissing(digest))
        });
        Ok(Answer::File(Arc::new(open.await?)))
    }

    /// The kernel asks for what it does not find. That it is here, as a pack says that was open before something was given up,
    /// need not be so, and the kernel asks no third time.
    async fn chunks(&self, request: FetchChunks) -> Result<Answer, GetError> {
        let packs = self.repository.packs();
        for _ in 1..TRIES_MAX {
            let settled = packs.settled();
            let (answer, were_here) = self.chunks_by_now(request).await?;
            if !were_here || settled.is_some() && packs.settled() == settled {
                return Ok(answer);
            }
            packs.settle().await;
        }
        let (answer, _) = self.chunks_by_now(request).await?;
        Ok(answer)
    }

    /// The chunks, and whether some of them were here.
    async fn chunks_by_now(&self, request: FetchChunks) -> Result<(Answer, bool), GetError> {
        let purpose = self.purpose(request.manifest, request.priority);
        let pack = self
            .repository
            .pack(request.pack, request.index, purpose)
            .await?;
        let chunks = request.first_chunk..request.first_chunk.saturating_add(request.chunk_count);
        if request.flags & FETCH_AGAIN != 0 {
            // What the kernel found to be wrong is read again and forgotten if it is: the kernel may have read
            // another file than the one that is there now.
            self.repository
                .discard_damaged(&pack, chunks.clone())
                .await?;
        }
        let here = chunks.clone().filter(|chunk| pack.has(*chunk)).count();
        self.counts.asked_for_chunks(here == chunks.len());
        self.repository
            .chunks(&pack, chunks.clone(), purpose)
            .await?;
        let files = self.repository.disk().run(move |_| pack.files(chunks));
        let answer = match files.await? {
            PackFiles::Whole(file) => Answer::File(file),
            PackFiles::Places { table, slots } => Answer::Places { table, slots },
        };
        Ok((answer, here > 0))
    }
}

#[async_trait]
impl RequestHandler for RepositoryHandler {
    async fn handle(&self, request: Request) -> Result<Answer, Errno> {
        self.traces.missed(&request);
        let result = match request {
            Request::Blob(request) => self.blob(request).await,
            Request::Chunks(request) => self.chunks(request).await,
        };
        let answered = match result {
            Ok(_) => &self.counts.filled,
            Err(_) => &self.counts.failed,
        };
        answered.fetch_add(1, Ordering::Relaxed);
        result.map_err(|error| {
            let errno = error.errno();
            match error {
                // The log has it already, and it does not change.
                GetError::Disk(DiskError::Store(StoreError::WrongIndex { .. })) => {
                    debug!(?request, error = %Causes(&error), %errno, "request failed");
                }
                _ => info!(?request, error = %Causes(&error), %errno, "request failed"),
            }
            errno
        })
    }

    fn in_flight(&self, requests: usize) {
        self.counts.in_flight.store(requests, Ordering::Relaxed);
    }
}
