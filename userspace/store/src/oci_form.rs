// SPDX-License-Identifier: GPL-2.0 OR MIT

//! From what `index.json` names to peerfs manifests, by way of OCI image indexes and manifests. Whoever wrote them is
//! not trusted: of an index only so many bytes and entries are looked at, an index in an index is not followed, and a
//! manifest that many indexes name is read once.

use std::collections::HashMap;

use peerfs_format::{Digest, METADATA_MAX};
use peerfs_oci::{oci_manifests, OciManifest, TargetKind, OCI_INDEX_MAX};

use crate::{Error, Result, Store};

/// Reads the OCI forms of a store's images.
pub(crate) struct OciForms<'a> {
    store: &'a Store,
    /// The OCI image manifests that were read, None for what is none.
    manifests: HashMap<Digest, Option<OciManifest>>,
}

/// The blobs that an entry of `index.json` leads to.
pub(crate) struct Found {
    /// The peerfs manifest.
    pub(crate) manifest: Digest,
    /// The OCI image index or manifest that leads to it, unless it is named directly.
    pub(crate) oci_index: Option<Digest>,
    /// The configuration by which its programs are run, unless it is named directly.
    pub(crate) config: Option<Digest>,
    /// The blobs that other tools need to copy the image, besides its own.
    pub(crate) needed: Vec<Digest>,
}

/// A blob that should lead to a peerfs manifest, and why it does not.
pub(crate) struct Lost {
    pub(crate) blob: Digest,
    pub(crate) error: Error,
}

impl<'a> OciForms<'a> {
    pub(crate) fn new(store: &'a Store) -> Self {
        OciForms {
            store,
            manifests: HashMap::new(),
        }
    }

    /// The blobs that an entry or target leads to; None if that is no peerfs image.
    pub(crate) fn find(
        &mut self,
        kind: Option<TargetKind>,
        digest: Option<Digest>,
    ) -> Result<Option<Found>, Lost> {
        let (Some(kind), Some(digest)) = (kind, digest) else {
            return Ok(None);
        };
        let children = match kind {
            TargetKind::Manifest => {
                return Ok(Some(Found {
                    manifest: digest,
                    oci_index: None,
                    config: None,
                    needed: Vec::new(),
                }));
            }
            TargetKind::OciManifest => vec![digest],
            TargetKind::OciIndex => self.read_index(&digest).map_err(|error| Lost {
                blob: digest,
                error,
            })?,
        };
        let (mut manifest, mut config) = (None, None);
        let mut needed = Vec::new();
        let mut lost = None;
        for child in children {
            needed.push(child);
            match self.read_manifest(&child) {
                Ok(found) => {
                    if found.manifest.is_none() {
                        config = config.or(found.config);
                    }
                    manifest = manifest.or(found.manifest);
                    needed.extend(found.config.into_iter().chain(found.other_layer));
                }
                Err(error) => {
                    lost.get_or_insert(Lost { blob: child, error });
                }
            }
        }
        match (manifest, lost) {
            (Some(manifest), _) => Ok(Some(Found {
                manifest,
                oci_index: Some(digest),
                config,
                needed,
            })),
            (None, Some(lost)) => Err(lost),
            (None, None) => Ok(None),
        }
    }

    fn read_index(&self, digest: &Digest) -> Result<Vec<Digest>> {
        let text = self.store.read_metadata(digest, OCI_INDEX_MAX)?;
        oci_manifests(&text).map_err(Error::oci(self.store.blob_path(digest)))
    }

    fn read_manifest(&mut self, digest: &Digest) -> Result<OciManifest> {
        if let Some(known) = self.manifests.get(digest) {
            return known.ok_or(Error::BlobDamaged(*digest));
        }
        let text = self.store.read_metadata(digest, METADATA_MAX);
        let read = text.and_then(|text| {
            OciManifest::parse(&text).map_err(Error::oci(self.store.blob_path(digest)))
        });
        // To look again for what is missing costs nothing.
        if !matches!(read, Err(Error::BlobMissing(_))) {
            self.manifests.insert(*digest, read.as_ref().ok().copied());
        }
        read
    }
}
