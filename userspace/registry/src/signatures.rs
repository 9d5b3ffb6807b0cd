// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Signatures of images, in the repositories that these are in.

use peerfs_format::Digest;
use peerfs_names::{signature_tag, ImageSignature, SignatureManifest, MANIFEST_TYPE, PAYLOAD_MAX};
use peerfs_oci::DOCUMENT_TYPES;

use crate::error::{Error, Result};
use crate::remote::Remote;
use crate::revision::{Revising, Revision};

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

    /// Puts a signature of an index or manifest of this repository beside those that are there, and beside those that others
    /// put there at once.
    ///
    /// # Errors
    /// Those of the server; [`Error::Signatures`] if what is there is not understood; [`Error::Contended`].
    pub async fn add_signature(&self, image: &Digest, signature: &ImageSignature) -> Result<()> {
        let tag = signature_tag(image);
        let mut revising = Revising::default();
        loop {
            let before = self.signature_revision(&tag).await?;
            let mut manifest = self.signatures_in(before.as_ref())?;
            if manifest.has(signature) {
                return Ok(());
            }
            manifest.add(signature);
            let (config, bytes) = manifest.to_bytes();
            for blob in [&signature.payload, &config] {
                self.put_small_blob(blob).await?;
            }
            self.revise(&tag, MANIFEST_TYPE, &bytes, before.as_ref())
                .await?;
            revising.settle(self.host()).await?;
        }
    }

    /// The manifest that leads to the signatures; an empty one if there is none.
    async fn signature_manifest(&self, image: &Digest) -> Result<SignatureManifest> {
        let found = self.signature_revision(&signature_tag(image)).await?;
        self.signatures_in(found.as_ref())
    }

    async fn signature_revision(&self, tag: &str) -> Result<Option<Revision>> {
        self.revision(tag, &DOCUMENT_TYPES.join(", ")).await
    }

    fn signatures_in(&self, found: Option<&Revision>) -> Result<SignatureManifest> {
        let Some(found) = found else {
            return Ok(SignatureManifest::default());
        };
        SignatureManifest::parse(&found.bytes).map_err(|source| Error::Signatures {
            host: self.host().to_owned(),
            source,
        })
    }
}
