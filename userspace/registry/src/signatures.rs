// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Signatures of images, in the repositories that these are in.

use std::io::{Cursor, Read};
use std::sync::atomic::AtomicU64;
use std::sync::Arc;

use peerfs_format::Digest;
use peerfs_names::{signature_tag, ImageSignature, SignatureManifest, MANIFEST_TYPE, PAYLOAD_MAX};
use peerfs_oci::DOCUMENT_TYPES;
use reqwest::header::ACCEPT;
use reqwest::StatusCode;

use crate::documents::{sha256, DOCUMENT_MAX};
use crate::error::{Error, Result};
use crate::remote::Remote;
use crate::retry::persist;
use crate::upload::Content;

impl Remote {
    /// The signatures of an index or manifest of this repository, whoever has made them; none if there are none. One that is
    /// damaged is left out.
    ///
    /// # Errors
    /// Those of the server; [`Error::Signatures`] if what should lead to them is not understood.
    pub async fn signatures(&self, image: &Digest) -> Result<Vec<ImageSignature>> {
        let mut found = Vec::new();
        for (payload, signature) in self.signature_manifest(image).await?.signatures() {
            match self.small_blob(&payload, PAYLOAD_MAX).await {
                Ok(payload) => found.push(ImageSignature { payload, signature }),
                Err(Error::Missing { .. } | Error::Wrong { .. } | Error::TooLong { .. }) => (),
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Puts a signature of an index or manifest of this repository beside those that are there.
    ///
    /// # Errors
    /// Those of the server; [`Error::Signatures`] if what is there is not understood.
    pub async fn add_signature(&self, image: &Digest, signature: &ImageSignature) -> Result<()> {
        let mut manifest = self.signature_manifest(image).await?;
        let made = (sha256(&signature.payload), signature.signature.clone());
        if manifest.signatures().contains(&made) {
            return Ok(());
        }
        manifest.add(signature);
        let (config, bytes) = manifest.to_bytes();
        for blob in [signature.payload.clone(), config] {
            let blob: Arc<dyn Content> = Arc::new(Small(blob.into()));
            self.upload(&blob, None, &Arc::new(AtomicU64::new(0)))
                .await?;
        }
        self.put_document(&signature_tag(image), MANIFEST_TYPE, &bytes)
            .await
    }

    /// The manifest that leads to the signatures; an empty one if there is none.
    async fn signature_manifest(&self, image: &Digest) -> Result<SignatureManifest> {
        let url = self.url(
            self.base().await?,
            &format!("manifests/{}", signature_tag(image)),
        )?;
        let (accept, scope) = (DOCUMENT_TYPES.join(", "), self.pull_scope());
        let bytes = persist(|| async {
            let answer = self
                .ask(&scope, |client| {
                    client.get(url.clone()).header(ACCEPT, &accept)
                })
                .await?;
            match answer.status() {
                StatusCode::OK => answer.read(DOCUMENT_MAX).await.map(Some),
                StatusCode::NOT_FOUND => Ok(None),
                _ => Err(answer.into_error().await),
            }
        })
        .await?;
        let Some(bytes) = bytes else {
            return Ok(SignatureManifest::default());
        };
        SignatureManifest::parse(&bytes).map_err(|source| Error::Signatures {
            host: self.host().to_owned(),
            source,
        })
    }
}

/// A blob in memory.
pub(crate) struct Small(pub(crate) Arc<[u8]>);

impl Content for Small {
    fn digest(&self) -> Digest {
        sha256(&self.0)
    }

    fn length(&self) -> u64 {
        self.0.len() as u64
    }

    fn open(&self) -> std::io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Cursor::new(Arc::clone(&self.0))))
    }
}
