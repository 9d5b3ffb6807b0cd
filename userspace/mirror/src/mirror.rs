// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What can be asked for: what is here, then what peers have, then what the registry has.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use peerfs_format::Digest;
use peerfs_oci::{BlobInfo, RegistryReference};
use peerfs_peer::Node;
use peerfs_registry::{Remote, DOCUMENT_MAX};
use peerfs_text::Causes;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::blobs::{self, Blob, Blobs};
use crate::flight::{Failure, Problem, Progress, Writer};
use crate::swarm::Swarm;
use crate::tags::Tags;
use crate::upstreams::Upstreams;

/// Blobs that are brought here at a time.
const FLIGHTS_MAX: usize = 64;
/// The end of a blob that is not given out before all of it was verified, so that nobody takes a wrong one for whole.
const HELD_BACK: u64 = 64 * 1024;

/// A mirror. Clones are the same.
#[derive(Clone)]
pub struct Mirror(Arc<Shared>);

struct Shared {
    blobs: Arc<Blobs>,
    tags: Tags,
    upstreams: Upstreams,
    swarm: Swarm,
    flights: Mutex<HashMap<Digest, watch::Receiver<Progress>>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// What is fetched, which registries have at different places.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// An index or a manifest.
    Document,
    /// A blob.
    Blob,
}

/// A blob that can be read, or will be able to.
pub(crate) struct Content {
    /// Bytes of it.
    pub(crate) length: u64,
    from: From,
    read: Option<Read>,
}

/// What was read of a blob, and from what file.
struct Read {
    file: Arc<File>,
    part: Range<u64>,
}

enum From {
    Here(Blob),
    Coming(watch::Receiver<Progress>),
}

impl Content {
    fn new(length: u64, from: From) -> Self {
        let read = None;
        Content { length, from, read }
    }

    /// All of it, once it has come and is verified.
    async fn whole(self) -> Result<Blob, Failure> {
        let mut progress = match self.from {
            From::Here(blob) => return Ok(blob),
            From::Coming(progress) => progress,
        };
        let ended = progress.wait_for(|now| now.end.is_some()).await;
        let end = ended.ok().and_then(|now| now.end.clone());
        end.unwrap_or(Err(Failure::ShuttingDown))
    }

    /// Some bytes from `offset` on, before `end`, of which it waits for the first one. They go on where those ended that were
    /// read before, and are of the same blob: what has come of a source that failed may be something else.
    pub(crate) async fn read(
        &mut self,
        offset: u64,
        end: u64,
        count: usize,
    ) -> Result<Vec<u8>, Failure> {
        let (file, until) = match &mut self.from {
            From::Here(blob) => {
                let blob = blob.clone();
                let count = count.min(usize::try_from(end.saturating_sub(offset)).unwrap_or(count));
                let read = spawn_blocking(move || blob.read(offset, count)).await;
                return read
                    .map_err(|_| Failure::ShuttingDown)?
                    .map_err(Failure::from);
            }
            From::Coming(progress) => await_byte(progress, self.length, offset).await?,
        };
        let before = self.read.take();
        let start = before.as_ref().map_or(offset, |read| read.part.start);
        let other = before.filter(|read| !Arc::ptr_eq(&read.file, &file));
        let now = Arc::clone(&file);
        let read = move || match other {
            Some(other) if !blobs::are_same(&other.file, &now, &other.part)? => Err(Failure::Wrong),
            _ => Ok(blobs::read(&now, offset, end.min(until), count)?),
        };
        let read = spawn_blocking(read).await;
        let bytes = read.unwrap_or(Err(Failure::ShuttingDown))?;
        let part = start..offset + bytes.len() as u64;
        self.read = Some(Read { file, part });
        Ok(bytes)
    }
}

/// The file of a blob that is coming, and its end as far as it may be read, once the byte at `offset` is before that.
async fn await_byte(
    progress: &mut watch::Receiver<Progress>,
    length: u64,
    offset: u64,
) -> Result<(Arc<File>, u64), Failure> {
    loop {
        {
            let now = progress.borrow_and_update();
            match (&now.end, &now.attempt) {
                (Some(Err(failure)), _) => return Err(failure.clone()),
                (Some(Ok(blob)), _) if blob.length == length => return Ok((blob.file(), length)),
                (None, Some(attempt)) if attempt.length == length => {
                    let until = attempt.come.min(length.saturating_sub(HELD_BACK));
                    if until > offset {
                        return Ok((Arc::clone(&attempt.file), until));
                    }
                }
                (None, None) => (),
                // The first source was wrong about the length, which the client was told.
                _ => return Err(Failure::Missing),
            }
        }
        let changed = progress.changed().await;
        changed.map_err(|_| Failure::ShuttingDown)?;
    }
}

impl Mirror {
    /// A mirror of these registries, in a folder that has its blobs. It works until `shutdown`.
    ///
    /// # Errors
    /// What the system says of the folder.
    pub fn new(
        folder: &Path,
        blobs: Arc<Blobs>,
        upstreams: Upstreams,
        node: Node,
        shutdown: CancellationToken,
    ) -> io::Result<Self> {
        Ok(Mirror(Arc::new(Shared {
            blobs,
            tags: Tags::load(&folder.join("tags"))?,
            upstreams,
            swarm: Swarm::new(node),
            flights: Mutex::default(),
            tasks: TaskTracker::new(),
            shutdown,
        })))
    }

    /// The repository that a client means.
    pub(crate) fn repository(
        &self,
        namespace: Option<&str>,
        name: &str,
    ) -> Option<RegistryReference> {
        self.0.upstreams.repository(namespace, name)
    }

    /// What a tag stands for: if the registry can't be asked, what it stood for when it was asked last.
    pub(crate) async fn resolve(&self, reference: RegistryReference) -> Result<Digest, Failure> {
        let tag = reference.tag.clone().unwrap_or_default();
        let asked = async { self.0.upstreams.remote(&reference)?.digest_of(&tag).await };
        match asked.await {
            Ok(digest) => {
                let shared = Arc::clone(&self.0);
                let noted = spawn_blocking(move || shared.tags.note(&reference, digest));
                if let Ok(Err(error)) = noted.await {
                    tracing::warn!(%error, "cannot note what tags stand for in the mirror");
                }
                Ok(digest)
            }
            Err(
                error @ (peerfs_registry::Error::Missing { .. }
                | peerfs_registry::Error::Denied { .. }),
            ) => Err(error.into()),
            Err(error) => match self.0.tags.find(&reference) {
                Some(digest) => {
                    tracing::warn!(image = %reference, error = %Causes(&error), "given out as it was when the registry was asked last");
                    Ok(digest)
                }
                None => Err(error.into()),
            },
        }
    }

    /// All of an index or a manifest, verified.
    pub(crate) async fn document(
        &self,
        repository: &RegistryReference,
        digest: Digest,
    ) -> Result<Vec<u8>, Failure> {
        let content = self.content(repository, digest, Kind::Document).await?;
        let blob = content.whole().await?;
        if blob.length > DOCUMENT_MAX {
            return Err(Failure::Missing);
        }
        let read = spawn_blocking(move || blob.read(0, DOCUMENT_MAX as usize)).await;
        let bytes = read.map_err(|_| Failure::ShuttingDown)??;
        self.0.swarm.learn(digest, &bytes).await;
        Ok(bytes)
    }

    /// Bytes of a blob, which is not fetched for that.
    pub(crate) async fn length(
        &self,
        repository: &RegistryReference,
        digest: Digest,
    ) -> Result<u64, Failure> {
        if let Some(length) = self.0.blobs.length(&digest) {
            return Ok(length);
        }
        let coming = self.0.lock().get(&digest).cloned();
        if let Some(attempt) = coming.and_then(|coming| coming.borrow().attempt.clone()) {
            return Ok(attempt.length);
        }
        let remote = self.0.upstreams.remote(repository)?;
        let length = remote.length(&digest).await?;
        length.ok_or_else(|| Failure::NoLength(remote.host().to_owned()))
    }

    /// A blob, as soon as it is known how long it is.
    pub(crate) async fn content(
        &self,
        repository: &RegistryReference,
        digest: Digest,
        kind: Kind,
    ) -> Result<Content, Failure> {
        let mut progress = loop {
            let blobs = Arc::clone(&self.0.blobs);
            let here = spawn_blocking(move || blobs.find(&digest)).await;
            if let Some(blob) = here.map_err(|_| Failure::ShuttingDown)?? {
                return Ok(Content::new(blob.length, From::Here(blob)));
            }
            if let Some(coming) = self.join(repository, digest, kind)? {
                break coming;
            }
        };
        // Of what a source says to be empty no end can be held back.
        let has_begun = |now: &Progress| {
            let attempt = now.attempt.as_ref();
            attempt.is_some_and(|attempt| attempt.length > 0) || now.end.is_some()
        };
        let begun = progress.wait_for(has_begun);
        let begun = begun.await.map_err(|_| Failure::ShuttingDown)?.clone();
        let length = match (begun.end, begun.attempt) {
            (Some(end), _) => end?.length,
            (None, Some(attempt)) => attempt.length,
            (None, None) => return Err(Failure::ShuttingDown),
        };
        Ok(Content::new(length, From::Coming(progress)))
    }

    /// Joins those who wait for a blob, or begins to bring it here; None if it has come in this moment.
    fn join(
        &self,
        repository: &RegistryReference,
        digest: Digest,
        kind: Kind,
    ) -> Result<Option<watch::Receiver<Progress>>, Failure> {
        let mut flights = self.0.lock();
        if let Some(coming) = flights.get(&digest) {
            return Ok(Some(coming.clone()));
        }
        if self.0.blobs.length(&digest).is_some() {
            return Ok(None);
        }
        if flights.len() >= FLIGHTS_MAX {
            return Err(Failure::Busy);
        }
        let remote = self.0.upstreams.remote(repository)?;
        let (sender, coming) = watch::channel(Progress::default());
        flights.insert(digest, coming.clone());
        let shared = Arc::clone(&self.0);
        // It goes on when nobody waits any more: who asks again finds it here.
        self.0.tasks.spawn(async move {
            let bring = shared.bring(&remote, digest, kind, &sender);
            if let Some(end) = shared.shutdown.run_until_cancelled(bring).await {
                // Whoever does not find it any more finds the blob.
                shared.lock().remove(&digest);
                sender.send_modify(|progress| progress.end = Some(end));
            }
        });
        Ok(Some(coming))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, watch::Receiver<Progress>>> {
        // A map is valid after every step.
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn bring(
        &self,
        remote: &Remote,
        digest: Digest,
        kind: Kind,
        progress: &watch::Sender<Progress>,
    ) -> Result<Blob, Failure> {
        if let Some(blob) = self.swarm.fetch(&self.blobs, digest, kind, progress).await {
            return Ok(blob);
        }
        let blob = match kind {
            Kind::Document => {
                let bytes = remote.document_bytes(&digest).await?;
                let writer = Writer::begin(&self.blobs, digest, bytes.len() as u64, progress);
                writer.put(bytes.into()).await;
                writer.finish().await
            }
            Kind::Blob => {
                let length = remote.length(&digest).await?;
                let length = length.ok_or_else(|| Failure::NoLength(remote.host().to_owned()))?;
                let wanted = BlobInfo {
                    digest,
                    length,
                    media_type: String::new(),
                };
                let mut pieces = remote.blob_pieces(&wanted);
                let writer = Writer::begin(&self.blobs, digest, length, progress);
                while let Some(piece) = pieces.next().await {
                    if !writer.put(piece?).await {
                        break;
                    }
                }
                writer.finish().await
            }
        };
        let host = || remote.host().to_owned();
        let blob = blob.map_err(|problem| match problem {
            Problem::Short => peerfs_registry::Error::Short { host: host() }.into(),
            Problem::Wrong => {
                let error = peerfs_registry::Error::Wrong {
                    host: host(),
                    digest,
                };
                tracing::warn!(error = %Causes(&error), "not mirrored");
                error.into()
            }
            Problem::CannotBegin(problem) => Failure::from(problem),
            Problem::Disk(error) => Failure::from(error),
        })?;
        tracing::info!(blob = %digest, bytes = blob.length, source = remote.name(), "mirrored");
        Ok(blob)
    }
}
