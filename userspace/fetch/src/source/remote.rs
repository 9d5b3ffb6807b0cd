// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What has blobs behind HTTP, as a source: a repository of a registry, or a copy of a store.
//!
//! The server needs to know nothing of peerfs. It is asked for whole blobs and for runs of chunks, and trusted with
//! nothing: what it sends is bounded in bytes, time and connections here, and verified by whoever stores it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::StreamExt;
use peerfs_exchange::limits::PIECE_MAX;
use peerfs_exchange::scheduler::Class;
use peerfs_exchange::{Have, Priority, Progress};
use peerfs_format::{ChunkRecord, Digest, METADATA_MAX};
use peerfs_registry::{Answer, Breaker, Error, Ranged, Remote};
use peerfs_store::Pack;
use peerfs_text::Causes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tracing::warn;

use super::{ChunkReply, Source, SourceError, Subject, HAVE_TIMEOUT};

/// Requests to one server at a time.
const REQUESTS: usize = 8;
/// Those of them that are for what nobody waits for.
const REQUESTS_AHEAD: usize = 6;
/// Runs of one transfer that are asked for at a time.
const RUNS: usize = 4;
/// How long a metadata blob may take that keeps coming.
const BLOB_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// How long finding out who may ask may take: a helper with credentials alone has 15 seconds.
const WARM_UP_TIMEOUT: Duration = Duration::from_secs(60);
/// Chunks with no more bytes between them are asked for at once: those come sooner than another answer would.
const GAP_MAX: u64 = 256 * 1024;
/// The longest run that somebody waits for.
const RUN_MAX: u64 = 4 * 1024 * 1024;
/// The longest one that nobody waits for.
const RUN_MAX_AHEAD: u64 = 16 * 1024 * 1024;
/// Of a server that knows no ranges, longer packs are not taken, once that is known.
const WHOLE_MAX: u64 = 4 * 1024 * 1024;
/// The least part of a longer one that must be wanted: one of so many bytes.
const WANTED_PART: u64 = 4;

/// Why a server did not deliver.
#[derive(Debug, thiserror::Error)]
enum RemoteError {
    #[error(transparent)]
    Registry(#[from] Error),
    #[error("the answer took longer than {BLOB_TIMEOUT:?}")]
    Slow,
    #[error("the server does not say within {HAVE_TIMEOUT:?} what it has")]
    SlowToSay,
    #[error("the server's file is too short")]
    TooShort,
    #[error("the server gives out no ranges, and too little of the file is wanted")]
    Unwanted,
    #[error("the daemon is shutting down")]
    ShuttingDown,
}

/// What has blobs behind HTTP, as a source. Clones share its connections.
#[derive(Clone)]
pub struct RemoteSource {
    server: Arc<Server>,
}

struct Server {
    remote: Remote,
    /// Whether it is said to have what it is asked for.
    is_origin: bool,
    permits: Arc<Semaphore>,
    permits_ahead: Arc<Semaphore>,
    has_lied: AtomicBool,
    knows_no_ranges: AtomicBool,
    has_refused: AtomicBool,
    is_warming_up: AtomicBool,
    breaker: Mutex<Breaker>,
}

impl RemoteSource {
    /// A place that is asked what it has.
    pub fn new(remote: Remote) -> Self {
        Self::make(remote, false)
    }

    /// A place that an image came from, and that has all of it, therefore.
    pub fn origin(remote: Remote) -> Self {
        Self::make(remote, true)
    }

    fn make(remote: Remote, is_origin: bool) -> Self {
        RemoteSource {
            server: Arc::new(Server {
                remote,
                is_origin,
                permits: Arc::new(Semaphore::new(REQUESTS)),
                permits_ahead: Arc::new(Semaphore::new(REQUESTS_AHEAD)),
                has_lied: AtomicBool::new(false),
                knows_no_ranges: AtomicBool::new(false),
                has_refused: AtomicBool::new(false),
                is_warming_up: AtomicBool::new(false),
                breaker: Mutex::default(),
            }),
        }
    }
}

/// The right to ask a server; held until the answer has come.
struct Permit {
    _all: OwnedSemaphorePermit,
    _ahead: Option<OwnedSemaphorePermit>,
}

impl Server {
    async fn permit(&self, priority: Priority) -> Result<Permit, RemoteError> {
        // They are never closed.
        let acquire = |permits: &Arc<Semaphore>| Arc::clone(permits).acquire_owned();
        let closed = |_| RemoteError::ShuttingDown;
        let ahead = match priority {
            Priority::Demand => None,
            _ => Some(acquire(&self.permits_ahead).await.map_err(closed)?),
        };
        Ok(Permit {
            _all: acquire(&self.permits).await.map_err(closed)?,
            _ahead: ahead,
        })
    }

    /// Why it is not asked at the moment, if so.
    fn rest(&self) -> Option<SourceError> {
        let rest = self.breaker().rest(Instant::now());
        rest.map(|retry_after| SourceError::Busy { retry_after })
    }

    /// What an error is to the scheduler. Who fails again and again is left alone for a while.
    fn judge(&self, error: RemoteError) -> SourceError {
        match error {
            RemoteError::Registry(Error::Missing { .. }) => return SourceError::Missing,
            RemoteError::Registry(Error::Busy { retry_after, .. }) => {
                let retry_after = retry_after.unwrap_or_default();
                return SourceError::Busy { retry_after };
            }
            RemoteError::Registry(ref denied @ Error::Denied { .. }) => {
                if !self.has_refused.swap(true, Ordering::Relaxed) {
                    warn!(source = self.remote.name(), error = %Causes(denied), "nothing is fetched from this source");
                }
                self.breaker().failed(Instant::now());
            }
            RemoteError::Registry(_)
            | RemoteError::Slow
            | RemoteError::SlowToSay
            | RemoteError::TooShort => {
                self.breaker().failed(Instant::now());
            }
            RemoteError::Unwanted | RemoteError::ShuttingDown => (),
        }
        SourceError::failed(error)
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        // It is valid after every step.
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for longer than anybody waits for what a source has: a token that comes slowly is remembered, and what asks next
    /// need not wait for it again and again.
    fn warm_up(self: &Arc<Self>, blob: Digest) {
        if self.is_warming_up.swap(true, Ordering::Relaxed) {
            return;
        }
        let server = Arc::clone(self);
        tokio::spawn(async move {
            // What it says is asked for again.
            let _ = timeout(WARM_UP_TIMEOUT, server.remote.length(&blob)).await;
            server.is_warming_up.store(false, Ordering::Relaxed);
        });
    }

    fn succeeded(&self) {
        self.breaker().succeeded();
        self.has_refused.store(false, Ordering::Relaxed);
    }

    async fn blob(
        &self,
        blob: &Digest,
        priority: Priority,
        progress: &Progress,
    ) -> Result<Bytes, RemoteError> {
        let _permit = self.permit(priority).await?;
        let answer = self.remote.blob(blob).await?;
        if answer.length().is_some_and(|length| length > METADATA_MAX) {
            return Err(RemoteError::Unwanted);
        }
        let mut body = Body::new(answer, progress);
        while body.fill().await? {
            if body.rest.len() as u64 > METADATA_MAX {
                return Err(RemoteError::Unwanted);
            }
        }
        self.succeeded();
        Ok(body.rest.freeze())
    }
}

/// The body of an answer as it comes.
struct Body {
    answer: Answer,
    progress: Progress,
    /// Bytes that came since that was last noted.
    unnoted: usize,
    /// What came and was not taken.
    rest: BytesMut,
}

impl Body {
    fn new(answer: Answer, progress: &Progress) -> Self {
        Body {
            answer,
            progress: progress.clone(),
            unnoted: 0,
            rest: BytesMut::new(),
        }
    }

    /// Waits for the next bytes; `false` at the end.
    async fn fill(&mut self) -> Result<bool, RemoteError> {
        let Some(piece) = self.answer.next().await? else {
            return Ok(false);
        };
        // Who sends a byte now and then does not get on.
        self.unnoted = self.unnoted.saturating_add(piece.len());
        if self.unnoted >= PIECE_MAX as usize {
            self.unnoted = 0;
            self.progress.note(Instant::now());
        }
        self.rest.extend_from_slice(&piece);
        Ok(true)
    }

    /// Passes over some bytes.
    async fn skip(&mut self, mut length: u64) -> Result<(), RemoteError> {
        loop {
            let here = self
                .rest
                .len()
                .min(usize::try_from(length).unwrap_or(usize::MAX));
            self.rest.advance(here);
            length -= here as u64;
            if length == 0 {
                return Ok(());
            }
            if !self.fill().await? {
                return Err(RemoteError::TooShort);
            }
        }
    }

    /// The next bytes.
    async fn take(&mut self, length: usize) -> Result<Bytes, RemoteError> {
        while self.rest.len() < length {
            if !self.fill().await? {
                return Err(RemoteError::TooShort);
            }
        }
        Ok(self.rest.split_to(length).freeze())
    }
}

/// Chunks of a pack that are asked for at once, in the order in which they lie there, perhaps with others between them.
#[derive(Debug, PartialEq)]
struct Run {
    range: Range<u64>,
    chunks: VecDeque<Place>,
}

/// A chunk in a pack.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Place {
    number: u32,
    offset: u64,
    length: u32,
}

impl Run {
    /// Bytes of it that are wanted.
    fn wanted(&self) -> u64 {
        let lengths = self.chunks.iter().map(|chunk| u64::from(chunk.length));
        lengths.sum()
    }
}

/// Chunks that are near each other, together.
fn runs(chunks: impl Iterator<Item = (u32, ChunkRecord)>, longest: u64) -> Vec<Run> {
    let mut places: Vec<Place> = chunks
        .map(|(number, record)| Place {
            number,
            offset: record.stored_offset.into(),
            length: record.stored_length,
        })
        .collect();
    places.sort_unstable_by_key(|place| place.offset);
    let mut runs: Vec<Run> = Vec::new();
    for place in places {
        let end = place.offset + u64::from(place.length);
        match runs.last_mut() {
            Some(run)
                if place.offset >= run.range.end
                    && place.offset - run.range.end <= GAP_MAX
                    && end - run.range.start <= longest =>
            {
                run.range.end = end;
                run.chunks.push_back(place);
            }
            _ => runs.push(Run {
                range: place.offset..end,
                chunks: [place].into(),
            }),
        }
    }
    runs
}

/// A run that is being read.
struct Reading {
    server: Arc<Server>,
    pack: Digest,
    run: Run,
    priority: Priority,
    progress: Progress,
    /// Once it was asked for: what comes, and how far that was taken.
    open: Option<(Body, u64, Permit)>,
}

impl Reading {
    /// The next chunk; none at the end of the run.
    async fn next(&mut self) -> Option<ChunkReply> {
        let place = self.run.chunks.front().copied()?;
        if self.open.is_none() {
            if let Some(rest) = self.server.rest() {
                self.run.chunks.clear();
                return Some(Err(rest));
            }
        }
        match self.read(place).await {
            Ok(bytes) => {
                self.run.chunks.pop_front();
                if self.run.chunks.is_empty() {
                    self.server.succeeded();
                }
                Some(Ok((place.number, Some(bytes))))
            }
            Err(error) => {
                self.run.chunks.clear();
                Some(Err(self.server.judge(error)))
            }
        }
    }

    async fn read(&mut self, place: Place) -> Result<Bytes, RemoteError> {
        let (body, offset, _) = match &mut self.open {
            Some(open) => open,
            closed => closed.insert(
                open(
                    &self.server,
                    &self.pack,
                    &self.run,
                    self.priority,
                    &self.progress,
                )
                .await?,
            ),
        };
        body.skip(place.offset.saturating_sub(*offset)).await?;
        let bytes = body.take(place.length as usize).await?;
        *offset = place.offset + u64::from(place.length);
        Ok(bytes)
    }
}

async fn open(
    server: &Server,
    pack: &Digest,
    run: &Run,
    priority: Priority,
    progress: &Progress,
) -> Result<(Body, u64, Permit), RemoteError> {
    let permit = server.permit(priority).await?;
    match server.remote.range(pack, &run.range).await? {
        Ranged::Part(answer) => Ok((Body::new(answer, progress), run.range.start, permit)),
        Ranged::Whole(answer) => {
            let is_first = !server.knows_no_ranges.swap(true, Ordering::Relaxed);
            if is_first {
                let source = server.remote.name();
                warn!(
                    source,
                    "gives out no ranges: only short packs are fetched from it"
                );
            }
            let is_long = run.range.end > WHOLE_MAX;
            if is_long && run.wanted().saturating_mul(WANTED_PART) < run.range.end {
                return Err(RemoteError::Unwanted);
            }
            Ok((Body::new(answer, progress), 0, permit))
        }
    }
}

#[async_trait]
impl Source for RemoteSource {
    fn class(&self) -> Class {
        Class::Origin
    }

    fn name(&self) -> &str {
        self.server.remote.name()
    }

    async fn have(&self, content: Digest, subject: &Subject) -> Result<Have, SourceError> {
        if self.server.has_lied.load(Ordering::Relaxed) {
            return Ok(Have::Absent);
        }
        if let Subject::Pack { pack, .. } = subject {
            let is_long = pack.record().stored_length > WHOLE_MAX;
            if is_long && self.server.knows_no_ranges.load(Ordering::Relaxed) {
                return Ok(Have::Absent);
            }
        }
        if let Some(rest) = self.server.rest() {
            return Err(rest);
        }
        if self.server.is_origin {
            return Ok(Have::Complete);
        }
        let length = match timeout(HAVE_TIMEOUT, self.server.remote.length(&content)).await {
            Ok(Ok(length)) => length,
            Ok(Err(Error::Missing { .. })) => return Ok(Have::Absent),
            Ok(Err(error)) => return Err(self.server.judge(error.into())),
            Err(_) => {
                self.server.warm_up(content);
                return Err(self.server.judge(RemoteError::SlowToSay));
            }
        };
        let fits = |length: u64| match subject {
            Subject::Blob { .. } => length <= METADATA_MAX,
            Subject::Pack { pack, .. } => length == pack.record().stored_length,
        };
        Ok(match length.is_none_or(fits) {
            true => Have::Complete,
            false => Have::Absent,
        })
    }

    async fn fetch_blob(
        &self,
        blob: Digest,
        priority: Priority,
        progress: &Progress,
    ) -> Result<Bytes, SourceError> {
        if let Some(rest) = self.server.rest() {
            return Err(rest);
        }
        let fetched = timeout(BLOB_TIMEOUT, self.server.blob(&blob, priority, progress)).await;
        let fetched = fetched.unwrap_or(Err(RemoteError::Slow));
        fetched.map_err(|error| self.server.judge(error))
    }

    fn fetch_chunks(
        &self,
        pack: &Arc<Pack>,
        chunks: Vec<u32>,
        priority: Priority,
        progress: &Progress,
    ) -> BoxStream<'static, ChunkReply> {
        let digest = *pack.digest();
        let records = chunks.into_iter();
        let records = records.filter_map(|number| Some((number, pack.chunk(number).ok()?)));
        let longest = match priority {
            Priority::Demand => RUN_MAX,
            _ => RUN_MAX_AHEAD,
        };
        let runs = runs(records, longest);
        let (server, progress) = (Arc::clone(&self.server), progress.clone());
        stream::iter(runs)
            .flat_map_unordered(RUNS, move |run| {
                let reading = Reading {
                    server: Arc::clone(&server),
                    pack: digest,
                    run,
                    priority,
                    progress: progress.clone(),
                    open: None,
                };
                stream::unfold(reading, |mut reading| async {
                    let reply = reading.next().await?;
                    Some((reply, reading))
                })
                .boxed()
            })
            .boxed()
    }

    async fn ban(&self, reason: &str) {
        self.server.has_lied.store(true, Ordering::Relaxed);
        warn!(
            source = self.name(),
            reason, "not asked any more until the daemon starts again"
        );
    }
}

#[cfg(test)]
mod tests;
