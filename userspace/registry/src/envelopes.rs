// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The envelopes of realms, in the repositories that encrypted images are in: an artifact beside each image, with a layer for
//! each grant.

use peerfs_format::Digest;
use peerfs_realm::{Envelope, Grant, GRANTS_MAX, GRANT_MAX};

use crate::artifact::Beside;
use crate::error::Result;
use crate::remote::Remote;

const GRANTS: Beside = Beside {
    tag: "peerfs-envelope-",
    artifact_type: "application/vnd.peerfs.envelope.v1",
    layer_type: "application/vnd.peerfs.grant.v1",
    count_max: GRANTS_MAX,
    bytes_max: GRANT_MAX as u64,
};

impl Remote {
    /// The envelope that is in this repository beside an image, an empty one if there is none. Nobody has decrypted what is in it.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn envelope(&self, image: &Digest) -> Result<Envelope> {
        let found = self.beside(&GRANTS, image).await?;
        let grants = found.iter().filter_map(|bytes| Grant::parse(bytes));
        Ok(Envelope::of(grants))
    }

    /// Puts the grants of an envelope into this repository, beside an image. Of those that others put there at once none is lost.
    ///
    /// # Errors
    /// Those of the server; [`Error::Contended`](crate::Error::Contended).
    pub async fn put_envelope(&self, image: &Digest, envelope: &Envelope) -> Result<()> {
        // The newest is the last that comes, and so the first there.
        for grant in envelope.grants().iter().rev() {
            self.put_beside(&GRANTS, image, grant.text().as_bytes())
                .await?;
        }
        Ok(())
    }
}
