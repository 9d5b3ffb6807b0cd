// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Signatures of images that kernels verify, in the repositories that these are in: an artifact under a tag of its own, with a
//! layer for each.

use peerfs_format::Digest;
use peerfs_names::CERTIFIED_MAX;

use crate::artifact::{descriptor, Layer};
use crate::error::Result;
use crate::remote::Remote;

/// The media type of a signature (RFC 5751).
const SIGNATURE_TYPE: &str = "application/pkcs7-signature";
/// The type of the artifact.
const ARTIFACT_TYPE: &str = "application/vnd.peerfs.signed.v1";
/// The signatures of an image that are kept there, and taken from there.
const SIGNATURES_MAX: usize = 8;

/// The tag under which the signatures of an image are, by its manifest.
fn tag(image: &Digest) -> String {
    format!("peerfs-signed-{image}")
}

impl Remote {
    /// The signatures of an image that are in this repository, in DER; none if there are none. Nobody has verified them.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn certified_signatures(&self, image: &Digest) -> Result<Vec<Vec<u8>>> {
        let layers = self.artifact_layers(&tag(image)).await?;
        let layers = layers
            .iter()
            .filter_map(|layer| Layer::of(layer, SIGNATURE_TYPE));
        let mut signatures = Vec::new();
        for layer in layers.take(SIGNATURES_MAX) {
            signatures.extend(self.layer_bytes(&layer, CERTIFIED_MAX).await?);
        }
        Ok(signatures)
    }

    /// Puts a signature of an image into this repository. Of those that others put there at once none is lost.
    ///
    /// # Errors
    /// Those of the server; [`Error::Contended`](crate::Error::Contended).
    pub async fn put_certified_signature(&self, image: &Digest, signature: &[u8]) -> Result<()> {
        let layer = descriptor(SIGNATURE_TYPE, signature);
        self.put_artifact_blob(signature).await?;
        self.put_layer(&tag(image), ARTIFACT_TYPE, &layer, SIGNATURES_MAX, |_| {
            false
        })
        .await
    }
}
