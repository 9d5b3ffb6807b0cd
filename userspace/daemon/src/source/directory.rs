// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Another store as a source.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::StreamExt;
use peerfs_format::{Digest, METADATA_MAX};
use peerfs_peer::{ChunkMap, Have, Priority};
use peerfs_store::{Error, Pack, Store};
use tokio::time::timeout;
use tracing::warn;

use super::{ChunkReply, Source, SourceError, Subject, HAVE_TIMEOUT};
use crate::disk::Disk;

/// Operations that run at a time: those of a network mount that is gone never end, and must not
/// take the threads that the rest of the daemon needs.
const OPERATIONS: usize = 4;

/// Another store as a source.
pub struct DirectorySource {
    root_dir: PathBuf,
    disk: Disk,
}

impl DirectorySource {
    /// The store in `root_dir`.
    ///
    /// # Errors
    /// Those of [`Store::open`].
    pub fn new(root_dir: &Path) -> peerfs_store::Result<Self> {
        Ok(DirectorySource {
            root_dir: root_dir.to_owned(),
            disk: Disk::new(Arc::new(Store::open(root_dir)?), OPERATIONS),
        })
    }
}

#[async_trait]
impl Source for DirectorySource {
    async fn have(&self, content: Digest, subject: &Subject) -> Result<Have, SourceError> {
        let pack = match subject {
            Subject::Blob { .. } => None,
            Subject::Pack { pack, .. } => Some(Arc::clone(pack)),
        };
        let have = self.disk.run(move |store| {
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
            Ok(have) => Ok(have?),
            Err(_) => Ok(Have::Absent),
        }
    }

    async fn fetch_blob(&self, blob: Digest, _priority: Priority) -> Result<Bytes, SourceError> {
        let read = self.disk.run(
            move |store| match store.read_metadata(&blob, METADATA_MAX) {
                // Damaged is as good as absent: nobody lied.
                Err(Error::BlobMissing(_) | Error::BlobDamaged(_)) => Ok(None),
                read => read.map(Some),
            },
        );
        read.await?.map(Bytes::from).ok_or(SourceError::Missing)
    }

    fn fetch_chunks(
        &self,
        pack: &Arc<Pack>,
        chunks: Vec<u32>,
        _priority: Priority,
    ) -> BoxStream<'static, ChunkReply> {
        let (disk, pack) = (self.disk.clone(), Arc::clone(pack));
        let open = {
            let disk = disk.clone();
            async move {
                disk.run(move |store| store.find_pack(pack.record(), pack.index().to_vec()))
                    .await
            }
        };
        stream::once(open)
            .flat_map(move |opened| match opened {
                Ok(other) => read_chunks(disk.clone(), other.map(Arc::new), chunks.clone()),
                Err(error) => stream::iter([Err(error.into())]).boxed(),
            })
            .boxed()
    }

    async fn ban(&self, reason: &str) {
        // What it reads was verified, so it can't be that it lies.
        warn!(source = %self.root_dir.display(), reason, "ignored");
    }
}

fn read_chunks(
    disk: Disk,
    pack: Option<Arc<Pack>>,
    chunks: Vec<u32>,
) -> BoxStream<'static, ChunkReply> {
    stream::iter(chunks)
        .then(move |chunk| {
            let (disk, pack) = (disk.clone(), pack.clone());
            async move {
                let Some(pack) = pack else {
                    return Ok((chunk, None));
                };
                let read = disk.run(move |_| match pack.read_chunk(chunk) {
                    Err(Error::ChunkDamaged { .. }) => Ok(None),
                    read => read,
                });
                Ok((chunk, read.await?.map(Bytes::from)))
            }
        })
        .boxed()
}
