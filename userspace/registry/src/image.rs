// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The images of a repository: of peerfs, and ordinary ones.

use peerfs_format::Digest;
use peerfs_oci::{BlobInfo, Child, Document, Platform, RegistryReference};

use crate::documents::{Fetched, DOCUMENT_MAX};
use crate::error::{Error, Result};
use crate::remote::Remote;

/// The most manifests of an index that are looked at for the one with all blobs.
const CANDIDATES_MAX: usize = 16;
/// The most bytes of all that leads to an image and is no blob of it: documents, configurations, the layer for container
/// runtimes. They are held in memory.
const FORM_MAX: u64 = 16 * 1024 * 1024;
/// The most of these.
const FORM_BLOBS_MAX: usize = 256;

/// What a reference stands for.
pub enum RemoteImage {
    /// An image of peerfs.
    Peerfs(PeerfsImage),
    /// One for container runtimes alone.
    Ordinary(OrdinaryImage),
}

/// An image of peerfs in a repository: all that OCI's tools need of it, and nothing else.
pub struct PeerfsImage {
    /// The digest of its peerfs manifest.
    pub manifest: Digest,
    /// The index or OCI image manifest that the reference stands for.
    pub top: Fetched,
    /// What else that leads to and is no blob of the peerfs image.
    pub form: Vec<(Digest, Vec<u8>)>,
}

/// An ordinary image: what is needed to get its layers by [`Remote::read_blob`].
#[derive(Clone, Debug)]
pub struct OrdinaryImage {
    /// The digest of what the reference stands for: that manifest, or an index that leads to it.
    pub top: Digest,
    /// Its OCI image manifest, for the platform that was asked for.
    pub manifest: Fetched,
    /// Its configuration.
    pub config: BlobInfo,
    /// Its layers, the lowest first.
    pub layers: Vec<BlobInfo>,
}

impl Remote {
    /// The image that a reference stands for; of an ordinary one for several platforms the one that suits this one best.
    ///
    /// # Errors
    /// Those of the server; [`Error::Choice`].
    pub async fn image(
        &self,
        reference: &RegistryReference,
        platform: &Platform,
    ) -> Result<RemoteImage> {
        let top = self.resolve(reference).await?;
        let index = match &top.document {
            Document::Manifest { .. } => {
                return Ok(match self.peerfs_image(&top, &[]).await? {
                    Some(image) => RemoteImage::Peerfs(image),
                    None => RemoteImage::Ordinary(ordinary(top.digest, top)?),
                });
            }
            Document::Index(index) => index.clone(),
        };
        let children: Vec<&Child> = index.iter().collect();
        if let Some(image) = self.peerfs_image(&top, &children).await? {
            return Ok(RemoteImage::Peerfs(image));
        }
        let blob = index.for_platform(platform).map_err(Error::Choice)?;
        let manifest = self.document(&blob.digest).await?;
        Ok(RemoteImage::Ordinary(ordinary(top.digest, manifest)?))
    }

    /// The image of peerfs that an index or a manifest leads to, if it is one.
    pub(crate) async fn peerfs_image(
        &self,
        top: &Fetched,
        children: &[&Child],
    ) -> Result<Option<PeerfsImage>> {
        let mut manifest = top.document.peerfs_manifest().map(|blob| blob.digest);
        let mut room = Room::new(self.host());
        let mut documents = vec![top.clone()];
        // Nobody takes the one with all blobs for an image that can be run: what else an index has need not be asked for.
        let artifacts = children.iter().filter(|child| !child.may_be_run());
        for child in artifacts.take(CANDIDATES_MAX) {
            let document = self.document(&child.blob.digest).await?;
            if let Some(found) = document.document.peerfs_manifest() {
                manifest = manifest.or(Some(found.digest));
                room.take(&document.bytes)?;
                documents.push(document);
            }
        }
        let Some(manifest) = manifest else {
            return Ok(None);
        };
        let images = children.iter().filter(|child| child.may_be_run());
        for child in images.take(CANDIDATES_MAX) {
            let document = self.document(&child.blob.digest).await?;
            room.take(&document.bytes)?;
            documents.push(document);
        }
        let mut form: Vec<(Digest, Vec<u8>)> = Vec::new();
        for document in &documents {
            if document.digest != top.digest {
                form.push((document.digest, document.bytes.clone()));
            }
            let Document::Manifest { config, layers } = &document.document else {
                continue;
            };
            for blob in layers.iter().chain([config]) {
                let is_new = form.iter().all(|(digest, _)| *digest != blob.digest);
                if is_new && !blob.is_of_peerfs() {
                    let bytes = self.small_blob(&blob.digest, room.bytes).await?;
                    room.take(&bytes)?;
                    form.push((blob.digest, bytes));
                }
            }
        }
        Ok(Some(PeerfsImage {
            manifest,
            top: top.clone(),
            form,
        }))
    }

    /// The configuration of an ordinary image: Env, Entrypoint and the like, as JSON.
    ///
    /// # Errors
    /// As for [`Remote::small_blob`].
    pub async fn config(&self, image: &OrdinaryImage) -> Result<Vec<u8>> {
        self.small_blob(&image.config.digest, DOCUMENT_MAX).await
    }
}

/// What there is room for of an image's form, whatever a registry says that it consists of.
struct Room<'a> {
    host: &'a str,
    bytes: u64,
    blobs: usize,
}

impl<'a> Room<'a> {
    fn new(host: &'a str) -> Self {
        Room {
            host,
            bytes: FORM_MAX,
            blobs: FORM_BLOBS_MAX,
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        let left = self.bytes.checked_sub(bytes.len() as u64);
        let left = left.zip(self.blobs.checked_sub(1));
        (self.bytes, self.blobs) = left.ok_or_else(|| Error::TooLong {
            host: self.host.to_owned(),
            limit: FORM_MAX,
        })?;
        Ok(())
    }
}

fn ordinary(top: Digest, manifest: Fetched) -> Result<OrdinaryImage> {
    match manifest.document.clone() {
        Document::Manifest { config, layers } => Ok(OrdinaryImage {
            top,
            manifest,
            config,
            layers,
        }),
        Document::Index(_) => Err(Error::Protocol {
            host: "the registry".to_owned(),
            problem: "an index leads to another index",
        }),
    }
}
