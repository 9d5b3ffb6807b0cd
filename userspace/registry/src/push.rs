// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Putting an image into a repository: first what it consists of, then what leads to that.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use futures::stream::{self, TryStreamExt};
use peerfs_format::Digest;

use crate::error::Result;
use crate::remote::Remote;
use crate::upload::{Content, Uploaded};

/// Blobs that are sent at a time.
const UPLOADS: usize = 4;

/// An image to be put into a repository.
pub struct Push {
    /// Its blobs, each once.
    pub blobs: Vec<Arc<dyn Content>>,
    /// Its indexes and manifests: each after what it leads to, the one that the image is called by last.
    pub documents: Vec<Document>,
    /// Repositories of the same registry that have blobs, by these.
    pub elsewhere: HashMap<Digest, String>,
    /// What the image is to be called there: a tag, or `sha256:` and the digest of the last document.
    pub tag: String,
}

/// An index or a manifest.
pub struct Document {
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// How far it is. Shared with whoever wants to know.
#[derive(Debug, Default)]
pub struct PushProgress {
    /// Bytes that have gone.
    pub sent_bytes: Arc<AtomicU64>,
    /// Bytes that need not go.
    pub spared_bytes: AtomicU64,
    /// Blobs that were sent.
    pub sent: AtomicU64,
    /// Blobs that another repository of the registry had.
    pub mounted: AtomicU64,
    /// Blobs that were there.
    pub present: AtomicU64,
}

impl Push {
    /// Does it. What has arrived stays when the future is dropped, and the next one goes on from there.
    ///
    /// # Errors
    /// Those of [`Remote::upload`] and [`Remote::put_document`].
    pub async fn run(&self, remote: &Remote, progress: &PushProgress) -> Result<()> {
        let Some(top) = self.documents.last() else {
            return Ok(());
        };
        if remote.has_document(&self.tag, &top.digest).await? {
            // It can't be there without all that it leads to.
            for blob in &self.blobs {
                progress.note(Uploaded::WasThere, blob.length());
            }
            return Ok(());
        }
        stream::iter(self.blobs.iter().map(Ok))
            .try_for_each_concurrent(UPLOADS, |blob| async move {
                let from = self.elsewhere.get(&blob.digest()).map(String::as_str);
                let uploaded = remote.upload(blob, from, &progress.sent_bytes).await?;
                progress.note(uploaded, blob.length());
                Ok::<_, crate::Error>(())
            })
            .await?;
        let last = self.documents.len() - 1;
        for (place, document) in self.documents.iter().enumerate() {
            let name = match place == last {
                true => self.tag.clone(),
                false => format!("sha256:{}", document.digest),
            };
            remote
                .put_document(&name, &document.media_type, &document.bytes)
                .await?;
        }
        Ok(())
    }
}

impl PushProgress {
    fn note(&self, uploaded: Uploaded, length: u64) {
        let count = match uploaded {
            Uploaded::Sent => &self.sent,
            Uploaded::Mounted => &self.mounted,
            Uploaded::WasThere => &self.present,
        };
        count.fetch_add(1, Ordering::Relaxed);
        if uploaded != Uploaded::Sent {
            self.spared_bytes.fetch_add(length, Ordering::Relaxed);
        }
    }
}
