// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Conversions of ordinary images beside these: by the registry's API of referrers, or where it has none by the tag that
//! the distribution specification (1.1) has for that.

use peerfs_format::Digest;
use peerfs_oci::{conversions, original_of, with_conversion, Child, Document, DOCUMENT_TYPES};
use reqwest::header::ACCEPT;
use reqwest::StatusCode;

use crate::documents::DOCUMENT_MAX;
use crate::error::{Error, Result};
use crate::image::{OrdinaryImage, PeerfsImage};
use crate::remote::Remote;
use crate::retry::persist;
use crate::revision::Revising;

/// Conversions of one image that are tried.
const TRIED_MAX: usize = 4;

impl Remote {
    /// The image in peerfs form that the repository has beside an ordinary one, and that says that it was made of it. Whoever
    /// may push there may say so.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn conversion(&self, original: &OrdinaryImage) -> Result<Option<PeerfsImage>> {
        let original = original.manifest.digest;
        let list = match self.list(&referrers(&original)).await? {
            Some(list) => Some(list),
            None => self.list(&tagged(&original)).await?,
        };
        let Some(list) = list else {
            return Ok(None);
        };
        let found = conversions(&list).map_err(|source| self.unreadable(source))?;
        for digest in found.iter().take(TRIED_MAX) {
            let top = match self.document(digest).await {
                // A list may name what is gone.
                Err(Error::Missing { .. }) => continue,
                top => top?,
            };
            let Document::Index(index) = &top.document else {
                continue;
            };
            if original_of(&top.bytes) != Some(original) {
                continue;
            }
            let children: Vec<&Child> = index.iter().collect();
            if let Some(image) = self.peerfs_image(&top, &children).await? {
                return Ok(Some(image));
            }
        }
        Ok(None)
    }

    /// Has the repository list a conversion that was put there as what refers to its original.
    ///
    /// # Errors
    /// Those of the server; [`Error::Contended`].
    pub async fn list_conversion(&self, original: &Digest, conversion: &[u8]) -> Result<()> {
        // A registry that answers that makes its lists itself.
        if self.list(&referrers(original)).await?.is_some() {
            return Ok(());
        }
        let (tag, [index, ..]) = (tag(original), DOCUMENT_TYPES);
        let mut revising = Revising::default();
        loop {
            let before = self.revision(&tag, index).await?;
            let list = before.as_ref().map(|before| before.bytes.as_slice());
            let list = with_conversion(list, conversion);
            let Some(list) = list.map_err(|source| self.unreadable(source))? else {
                return Ok(());
            };
            self.revise(&tag, index, &list, before.as_ref()).await?;
            revising.settle(self.host()).await?;
        }
    }

    /// A list of what refers to an image; None if there is none.
    async fn list(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let url = self.url(self.base().await?, path)?;
        let [index, ..] = DOCUMENT_TYPES;
        let scope = self.pull_scope();
        persist(|| async {
            let asked = self.ask(&scope, |client| {
                client.get(url.clone()).header(ACCEPT, index)
            });
            let answer = asked.await?;
            match answer.status() {
                StatusCode::OK => Ok(Some(answer.read(DOCUMENT_MAX).await?)),
                // Who knows no such API says so in other ways too.
                StatusCode::NOT_FOUND
                | StatusCode::METHOD_NOT_ALLOWED
                | StatusCode::NOT_IMPLEMENTED => Ok(None),
                _ => Err(answer.into_error().await),
            }
        })
        .await
    }

    fn unreadable(&self, source: peerfs_oci::Error) -> Error {
        Error::Document {
            host: self.host().to_owned(),
            source,
        }
    }
}

fn referrers(original: &Digest) -> String {
    format!("referrers/sha256:{original}")
}

fn tagged(original: &Digest) -> String {
    format!("manifests/{}", tag(original))
}

fn tag(original: &Digest) -> String {
    format!("sha256-{original}")
}
