// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Another store as a source.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::StreamExt;
use peerfs_exchange::scheduler::Class;
use peerfs_exchange::{ChunkMap, Have, Priority, Progress};
use peerfs_format::{Digest, METADATA_MAX};
use peerfs_store::{Error, Pack, Store};
use peerfs_text::Causes;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{info, warn};

use super::{ChunkReply, Source, SourceError, Subject, HAVE_TIMEOUT};
use crate::disk::{run_blocking, DiskError};

/// Operations that run at a time: those of a network mount that is gone never end, and must not
/// take the threads that the rest of the daemon needs.
const OPERATIONS: usize = 4;

/// Another store as a source. It is opened for each question, so that it may come and go, as network mounts do,
/// and nothing is kept open that is in the way of unmounting it.
pub struct DirectorySource {
    place: Arc<Place>,
}

struct Place {
    root_dir: PathBuf,
    name: String,
    permits: Arc<Semaphore>,
    /// What is said of it in the log is said once, until that changes.
    is_absent: AtomicBool,
}

impl DirectorySource {
    /// The store in `root_dir`, when there is one.
    pub fn new(root_dir: &Path) -> Self {
        DirectorySource {
            place: Arc::new(Place {
                root_dir: root_dir.to_owned(),
                name: root_dir.display().to_string(),
                permits: Arc::new(Semaphore::new(OPERATIONS)),
                is_absent: AtomicBool::new(false),
            }),
        }
    }

    /// Says in the log if it is not there, for whoever has just configured it.
    pub async fn look(&self) {
        // What is wrong is in the log.
        let _ = timeout(HAVE_TIMEOUT, self.place.run(|_| Ok(()))).await;
    }
}

impl Place {
    /// Runs an operation on the store, on a thread that may block; None if there is no store now.
    async fn run<T, F>(self: &Arc<Self>, operation: F) -> Result<Option<T>, DiskError>
    where
        T: Send + 'static,
        F: FnOnce(&Store) -> peerfs_store::Result<T> + Send + 'static,
    {
        let place = Arc::clone(self);
        let operation = move || match place.open() {
            Some(store) => operation(&store).map(Some),
            None => Ok(None),
        };
        run_blocking(&self.permits, operation).await
    }

    fn open(&self) -> Option<Store> {
        let directory = self.root_dir.display();
        match Store::open(&self.root_dir) {
            Ok(store) => {
                if self.is_absent.swap(false, Ordering::Relaxed) {
                    info!(%directory, "this source is there again");
                }
                Some(store)
            }
            Err(error) => {
                if !self.is_absent.swap(true, Ordering::Relaxed) {
                    warn!(%directory, error = %Causes(&error), "nothing is fetched from this source until it is there");
                }
                None
            }
        }
    }
}

#[async_trait]
impl Source for DirectorySource {
    fn class(&self) -> Class {
        Class::Directory
    }

    fn name(&self) -> &str {
        &self.place.name
    }

    async fn have(&self, content: Digest, subject: &Subject) -> Result<Have, SourceError> {
        let pack = match subject {
            Subject::Blob { .. } => None,
            Subject::Pack { pack, .. } => Some(Arc::clone(pack)),
        };
        let have = self.place.run(move |store| {
            if store.has_blob(&content) {
                return Ok(Have::Complete);
            }
            let partial = match pack {
                Some(pack) => store.find_pack(pack.record(), pack.index().to_vec())?,
                None => None,
            };
            Ok(partial
                .and_then(|pack| ChunkMap::new(pack.record().chunk_count, pack.presence().into()))
                .map_or(Have::Absent, Have::Partial))
        });
        match timeout(HAVE_TIMEOUT, have).await {
            Ok(have) => Ok(have.map_err(SourceError::failed)?.unwrap_or(Have::Absent)),
            Err(_) => Ok(Have::Absent),
        }
    }

    async fn fetch_blob(
        &self,
        blob: Digest,
        _priority: Priority,
        _progress: &Progress,
    ) -> Result<Bytes, SourceError> {
        let read = self.place.run(
            move |store| match store.read_metadata(&blob, METADATA_MAX) {
                // Damaged is as good as absent: nobody lied.
                Err(
                    Error::BlobMissing(_)
                    | Error::BlobDamaged(_)
                    | Error::BlobTooLarge { .. }
                    | Error::NotARegularFile(_),
                ) => Ok(None),
                read => read.map(Some),
            },
        );
        let bytes = read.await.map_err(SourceError::failed)?.flatten();
        bytes.map(Bytes::from).ok_or(SourceError::Missing)
    }

    fn fetch_chunks(
        &self,
        pack: &Arc<Pack>,
        chunks: Vec<u32>,
        _priority: Priority,
        _progress: &Progress,
    ) -> BoxStream<'static, ChunkReply> {
        let (place, pack) = (Arc::clone(&self.place), Arc::clone(pack));
        let open = {
            let place = Arc::clone(&place);
            async move {
                let find =
                    move |store: &Store| store.find_pack(pack.record(), pack.index().to_vec());
                place.run(find).await
            }
        };
        stream::once(open)
            .flat_map(move |opened| match opened {
                Ok(other) => {
                    let other = other.flatten().map(Arc::new);
                    read_chunks(Arc::clone(&place), other, chunks.clone())
                }
                Err(error) => stream::iter([Err(SourceError::failed(error))]).boxed(),
            })
            .boxed()
    }

    async fn ban(&self, reason: &str) {
        // What it reads was verified, so it can't be that it lies.
        warn!(source = self.name(), reason, "ignored");
    }
}

fn read_chunks(
    place: Arc<Place>,
    pack: Option<Arc<Pack>>,
    chunks: Vec<u32>,
) -> BoxStream<'static, ChunkReply> {
    stream::iter(chunks)
        .then(move |chunk| {
            let (place, pack) = (Arc::clone(&place), pack.clone());
            async move {
                let Some(pack) = pack else {
                    return Ok((chunk, None));
                };
                let read = place.run(move |_| match pack.read_chunk(chunk) {
                    Err(Error::ChunkDamaged { .. }) => Ok(None),
                    read => read,
                });
                let bytes = read.await.map_err(SourceError::failed)?;
                Ok((chunk, bytes.flatten().map(Bytes::from)))
            }
        })
        .boxed()
}
