// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `index.json`: which images are in the store, and what they are called.

use std::collections::HashMap;
use std::sync::Arc;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
use peerfs_format::{Digest, METADATA_MAX};

use crate::directory::StoreDirectory;
use crate::oci::{descriptor, media_type, new_index};
use crate::{layout, whole_file, Error, Result, Store};

/// OCI's annotation for the name of an image in a layout.
const TAG_ANNOTATION: &str = "org.opencontainers.image.ref.name";

/// An image of the store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TaggedImage {
    /// The digest of its peerfs manifest, which is what a mount is given.
    pub manifest: Digest,
    /// The digest of its OCI image manifest, unless it was fetched by the digest of its manifest.
    pub oci_manifest: Option<Digest>,
    /// What it is called; sorted.
    pub tags: Vec<String>,
}

/// The content of `index.json`.
pub(crate) struct TagIndex {
    index: ImageIndex,
}

impl TagIndex {
    /// Writes an empty index, unless there is one.
    pub(crate) fn create(directory: &Arc<StoreDirectory>) -> Result<()> {
        if directory.has_file(layout::INDEX) {
            return Ok(());
        }
        TagIndex { index: new_index() }.write(directory)
    }

    pub(crate) fn read(directory: &StoreDirectory) -> Result<Self> {
        let path = directory.path(layout::INDEX);
        let text = whole_file::read(directory, layout::INDEX, METADATA_MAX)?
            .ok_or_else(|| Error::io("read", &path)(std::io::ErrorKind::NotFound.into()))?;
        let index = serde_json::from_slice(&text).map_err(|error| Error::Layout {
            path,
            reason: error.to_string(),
        })?;
        Ok(TagIndex { index })
    }

    /// Changes the index; other processes that do so wait.
    pub(crate) fn change(
        directory: &Arc<StoreDirectory>,
        change: impl FnOnce(&mut Self),
    ) -> Result<()> {
        let guard = directory
            .read(layout::OCI_LAYOUT)?
            .ok_or_else(|| Error::NotAStore(directory.root_dir().to_owned()))?;
        directory.lock(layout::OCI_LAYOUT, &guard)?;
        let mut tags = Self::read(directory)?;
        change(&mut tags);
        tags.write(directory)
    }

    fn write(&self, directory: &Arc<StoreDirectory>) -> Result<()> {
        let failed = || directory.failed("write", layout::INDEX);
        // The blobs' names must be on the disk before what refers to them.
        directory.sync(layout::BLOBS).map_err(failed())?;
        let mut text =
            serde_json::to_vec_pretty(&self.index).map_err(|error| failed()(error.into()))?;
        text.push(b'\n');
        whole_file::replace(directory, layout::INDEX, &text)?;
        directory.sync(".").map_err(failed())
    }

    /// Gives an OCI image manifest a tag, which another image loses if it had it.
    pub(crate) fn tag(&mut self, mut manifest: Descriptor, tag: &str) {
        let mut manifests = self.index.manifests().clone();
        manifests.retain(|entry| tag_of(entry) != Some(tag));
        manifest.set_annotations(Some(HashMap::from([(
            TAG_ANNOTATION.to_owned(),
            tag.to_owned(),
        )])));
        manifests.push(manifest);
        self.index.set_manifests(manifests);
    }

    /// Adds an image by its peerfs manifest.
    pub(crate) fn add_manifest(&mut self, manifest: &Digest, length: u64) {
        let mut manifests = self.index.manifests().clone();
        manifests.push(descriptor(media_type::MANIFEST, manifest, length));
        self.index.set_manifests(manifests);
    }

    pub(crate) fn resolve(&self, store: &Store, name: &str) -> Result<Digest> {
        for entry in self.index.manifests() {
            if tag_of(entry) == Some(name) {
                if let Some((manifest, _)) = manifest_of(store, entry)? {
                    return Ok(manifest);
                }
            }
        }
        let Ok(digest) = name.parse::<Digest>() else {
            let tags = self.index.manifests().iter().filter_map(tag_of);
            return Err(Error::UnknownImage {
                name: name.to_owned(),
                known: tags.map(str::to_owned).collect(),
            });
        };
        // The digest of an OCI image manifest names its image too.
        for entry in self.index.manifests() {
            if digest_of(entry) == Some(digest) {
                if let Some((manifest, _)) = manifest_of(store, entry)? {
                    return Ok(manifest);
                }
            }
        }
        Ok(digest)
    }

    pub(crate) fn images(&self, store: &Store) -> Result<Vec<TaggedImage>> {
        let mut images: Vec<TaggedImage> = Vec::new();
        for entry in self.index.manifests() {
            // An image whose OCI manifest is missing or damaged can't be named by it; `verify` finds
            // the blob.
            let Ok(Some((manifest, oci_manifest))) = manifest_of(store, entry) else {
                tracing::warn!(
                    "index.json names {}, which is no peerfs image or damaged",
                    entry.digest()
                );
                continue;
            };
            let tag = tag_of(entry).map(str::to_owned);
            match images.iter_mut().find(|image| image.manifest == manifest) {
                Some(image) => {
                    image.tags.extend(tag);
                    image.oci_manifest = image.oci_manifest.or(oci_manifest);
                }
                None => images.push(TaggedImage {
                    manifest,
                    oci_manifest,
                    tags: tag.into_iter().collect(),
                }),
            }
        }
        for image in &mut images {
            image.tags.sort();
        }
        Ok(images)
    }

    /// The OCI image manifests that the index names, with their tags.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Digest, Option<&str>)> {
        self.index
            .manifests()
            .iter()
            .filter_map(|entry| Some((digest_of(entry)?, tag_of(entry))))
    }
}

fn tag_of(entry: &Descriptor) -> Option<&str> {
    let annotations = entry.annotations().as_ref()?;
    annotations.get(TAG_ANNOTATION).map(String::as_str)
}

/// The digest that a descriptor names, if it is a SHA-256.
pub(crate) fn digest_of(entry: &Descriptor) -> Option<Digest> {
    entry.as_digest_sha256()?.parse().ok()
}

/// The peerfs manifest and, unless it is named directly, the OCI manifest that an entry stands for;
/// None if it is something else.
fn manifest_of(store: &Store, entry: &Descriptor) -> Result<Option<(Digest, Option<Digest>)>> {
    let Some(digest) = digest_of(entry) else {
        return Ok(None);
    };
    if entry.media_type().as_ref() == media_type::MANIFEST {
        return Ok(Some((digest, None)));
    }
    if *entry.media_type() != MediaType::ImageManifest {
        return Ok(None);
    }
    let text = store.read_metadata(&digest, METADATA_MAX)?;
    let manifest: ImageManifest = serde_json::from_slice(&text).map_err(|error| Error::Layout {
        path: store.blob_path(&digest),
        reason: error.to_string(),
    })?;
    let layers = manifest.layers().iter();
    let found = layers
        .filter(|layer| layer.media_type().as_ref() == media_type::MANIFEST)
        .find_map(digest_of);
    Ok(found.map(|manifest| (manifest, Some(digest))))
}
