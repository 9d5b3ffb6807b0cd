// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Indexes, manifests and small blobs, as a whole: got, verified, and put there.

use peerfs_format::Digest;
use peerfs_oci::{Document, RegistryReference, DOCUMENT_TYPES};
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::StatusCode;
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::http::WRITE_TIMEOUT;
use crate::remote::Remote;
use crate::retry::persist;

/// The most bytes of an index or a manifest, as distribution's specification has it.
pub const DOCUMENT_MAX: u64 = 4 * 1024 * 1024;
/// The header in which a registry says the digest of what it sends.
const CONTENT_DIGEST: &str = "docker-content-digest";
/// The tag of a reference that has none, for a registry.
const DEFAULT_TAG: &str = "latest";

/// An index or a manifest of a registry.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What it leads to.
    pub document: Document,
}

impl Remote {
    /// The index or manifest that a reference to this repository stands for; tried again if that may help.
    ///
    /// # Errors
    /// [`Error::Missing`]; [`Error::Wrong`] if the reference has a digest and other bytes came.
    pub async fn resolve(&self, reference: &RegistryReference) -> Result<Fetched> {
        match (&reference.digest, &reference.tag) {
            (Some(digest), _) => self.document(digest).await,
            (None, Some(tag)) => persist(|| self.get_document(tag, None)).await,
            (None, None) => persist(|| self.get_document(DEFAULT_TAG, None)).await,
        }
    }

    /// An index or a manifest, verified; tried again if that may help.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Wrong`], [`Error::Document`].
    pub async fn document(&self, digest: &Digest) -> Result<Fetched> {
        let name = format!("sha256:{digest}");
        persist(|| self.get_document(&name, Some(*digest))).await
    }

    async fn get_document(&self, name: &str, expected: Option<Digest>) -> Result<Fetched> {
        let (digest, bytes) = self.get_unread(name, expected).await?;
        let document = Document::parse(&bytes).map_err(|source| Error::Document {
            host: self.host().to_owned(),
            source,
        })?;
        Ok(Fetched {
            digest,
            bytes,
            document,
        })
    }

    /// The bytes of an index or a manifest of whatever kind, verified; tried again if that may help.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Wrong`].
    pub async fn document_bytes(&self, digest: &Digest) -> Result<Vec<u8>> {
        let name = format!("sha256:{digest}");
        let (_, bytes) = persist(|| self.get_unread(&name, Some(*digest))).await?;
        Ok(bytes)
    }

    /// What a tag stands for, by its digest; tried again if that may help.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub async fn digest_of(&self, tag: &str) -> Result<Digest> {
        let url = self.url(self.base().await?, &format!("manifests/{tag}"))?;
        let accept = DOCUMENT_TYPES.join(", ");
        let scope = self.pull_scope();
        let said = persist(|| async {
            let answer = self
                .ask(&scope, |client| {
                    client.head(url.clone()).header(ACCEPT, &accept)
                })
                .await?;
            match answer.status() {
                StatusCode::OK => {
                    let said = answer.headers().get(CONTENT_DIGEST);
                    Ok(said.and_then(|said| said.to_str().ok()?.parse().ok()))
                }
                _ => Err(answer.into_error().await),
            }
        });
        match said.await? {
            Some(digest) => Ok(digest),
            // A server need not say it.
            None => Ok(persist(|| self.get_unread(tag, None)).await?.0),
        }
    }

    async fn get_unread(&self, name: &str, expected: Option<Digest>) -> Result<(Digest, Vec<u8>)> {
        let url = self.url(self.base().await?, &format!("manifests/{name}"))?;
        let accept = DOCUMENT_TYPES.join(", ");
        let scope = self.pull_scope();
        let answer = self
            .ask(&scope, |client| {
                client.get(url.clone()).header(ACCEPT, &accept)
            })
            .await?;
        if answer.status() != StatusCode::OK {
            return Err(answer.into_error().await);
        }
        let bytes = answer.read(DOCUMENT_MAX).await?;
        let digest = sha256(&bytes);
        self.check(expected.unwrap_or(digest), digest)?;
        Ok((digest, bytes))
    }

    /// A blob of at most `limit` bytes, verified; tried again if that may help.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Wrong`], [`Error::TooLong`].
    pub async fn small_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        persist(|| async {
            let bytes = self.blob(digest).await?.read(limit).await?;
            self.check(*digest, sha256(&bytes))?;
            Ok(bytes)
        })
        .await
    }

    /// Puts an index or a manifest there; all that it leads to must be there. Tried again if that may help.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn put_document(&self, name: &str, media_type: &str, bytes: &[u8]) -> Result<()> {
        let url = self.url(self.base().await?, &format!("manifests/{name}"))?;
        let scope = self.push_scope();
        persist(|| async {
            let answer = self
                .ask_within(&scope, WRITE_TIMEOUT, |client| {
                    let request = client.put(url.clone()).header(CONTENT_TYPE, media_type);
                    request.body(bytes.to_vec())
                })
                .await?;
            match answer.status() {
                StatusCode::CREATED => Ok(()),
                _ => Err(answer.into_error().await),
            }
        })
        .await
    }

    /// Whether an index or a manifest is there.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn has_document(&self, name: &str, digest: &Digest) -> Result<bool> {
        let url = self.url(self.base().await?, &format!("manifests/{name}"))?;
        let accept = DOCUMENT_TYPES.join(", ");
        let scope = self.push_scope();
        let expected = format!("sha256:{digest}");
        persist(|| async {
            let answer = self
                .ask(&scope, |client| {
                    client.head(url.clone()).header(ACCEPT, &accept)
                })
                .await?;
            let found = answer.headers().get(CONTENT_DIGEST);
            match answer.status() {
                StatusCode::OK => Ok(found.is_some_and(|found| *found == *expected)),
                StatusCode::NOT_FOUND => Ok(false),
                _ => Err(answer.into_error().await),
            }
        })
        .await
    }

    pub(crate) fn check(&self, expected: Digest, actual: Digest) -> Result<()> {
        if expected == actual {
            return Ok(());
        }
        Err(Error::Wrong {
            host: self.host().to_owned(),
            digest: expected,
        })
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}
