// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Signatures of images that kernels verify, in the repositories that these are in: an artifact under a tag of its own, with a
//! layer for each.

use peerfs_format::Digest;
use peerfs_names::CERTIFIED_MAX;

use crate::artifact::Beside;
use crate::error::Result;
use crate::remote::Remote;

const SIGNATURES: Beside = Beside {
    tag: "peerfs-signed-",
    artifact_type: "application/vnd.peerfs.signed.v1",
    // RFC 5751.
    layer_type: "application/pkcs7-signature",
    count_max: 8,
    bytes_max: CERTIFIED_MAX,
};

impl Remote {
    /// The signatures of an image that are in this repository, in DER; none if there are none. Nobody has verified them.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn certified_signatures(&self, image: &Digest) -> Result<Vec<Vec<u8>>> {
        self.beside(&SIGNATURES, image).await
    }

    /// Puts a signature of an image into this repository. Of those that others put there at once none is lost.
    ///
    /// # Errors
    /// Those of the server; [`Error::Contended`](crate::Error::Contended).
    pub async fn put_certified_signature(&self, image: &Digest, signature: &[u8]) -> Result<()> {
        self.put_beside(&SIGNATURES, image, signature).await
    }
}
