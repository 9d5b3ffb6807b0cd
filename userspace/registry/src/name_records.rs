// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Records of names, in repositories of registries: each is an artifact under a tag of its own.

use peerfs_format::Digest;
use peerfs_names::{SignedRecord, RECORD_MAX};
use peerfs_oci::{Document, RegistryReference};

use crate::artifact::{descriptor, manifest, MANIFEST_TYPE};
use crate::error::{Error, Result};
use crate::remote::Remote;

/// The media type of a record.
const RECORD_TYPE: &str = "application/vnd.peerfs.name.v1";

/// The tag under which records of a topic are.
fn tag(topic: &Digest) -> String {
    format!("peerfs-name-{topic}")
}

impl Remote {
    /// The record of a topic that is in a repository, which is this one; None if there is none, or something else.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn name_record(
        &self,
        repository: &RegistryReference,
        topic: &Digest,
    ) -> Result<Option<SignedRecord>> {
        let reference = RegistryReference {
            tag: Some(tag(topic)),
            digest: None,
            ..repository.clone()
        };
        let found = match self.resolve(&reference).await {
            Err(Error::Missing { .. }) => return Ok(None),
            found => found?,
        };
        let Document::Manifest { layers, .. } = found.document else {
            return Ok(None);
        };
        let Some(layer) = layers.iter().find(|layer| layer.media_type == RECORD_TYPE) else {
            return Ok(None);
        };
        let bytes = self.small_blob(&layer.digest, RECORD_MAX as u64).await?;
        let record = SignedRecord::parse(&bytes).ok();
        Ok(record.filter(|record| record.record().name.topic() == *topic))
    }

    /// Puts a record of a name into this repository, in the place of an older one.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn put_name_record(&self, record: &SignedRecord) -> Result<()> {
        self.put_artifact_blob(record.bytes()).await?;
        let layers = [descriptor(RECORD_TYPE, record.bytes())];
        let bytes = manifest(RECORD_TYPE, &layers);
        let name = tag(&record.record().name.topic());
        self.put_document(&name, MANIFEST_TYPE, &bytes).await
    }
}
