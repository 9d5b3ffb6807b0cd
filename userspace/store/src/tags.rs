// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `index.json`: which images are in the store, and what they are called.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
use peerfs_format::{Digest, METADATA_MAX};

use crate::directory::StoreDirectory;
use crate::oci::{check_length, descriptor, media_type, new_index};
use crate::{layout, whole_file, Error, Result, Store};

/// OCI's annotation for the name of an image in a layout.
const TAG_ANNOTATION: &str = "org.opencontainers.image.ref.name";

/// The most tags that a message lists.
const TAGS_LISTED: usize = 20;

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

/// Something that `index.json` or an OCI image manifest names and that is missing or not valid.
pub(crate) struct IndexProblem {
    pub(crate) blob: Digest,
    pub(crate) problem: String,
    /// Tags, or digests of what has none.
    pub(crate) images: BTreeSet<String>,
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

    /// Reads the index.
    ///
    /// # Errors
    /// [`Error::NoIndex`] if there is none, [`Error::Layout`] if it is not valid, and [`Error::Io`].
    pub(crate) fn read(directory: &StoreDirectory) -> Result<Self> {
        let path = directory.path(layout::INDEX);
        let text = whole_file::read(directory, layout::INDEX, METADATA_MAX)?.unwrap_or_default();
        if text.trim_ascii().is_empty() {
            return Err(Error::NoIndex(path));
        }
        let index = serde_json::from_slice(&text).map_err(|error| Error::Layout {
            path,
            reason: error.to_string(),
        })?;
        Ok(TagIndex { index })
    }

    /// Changes the index, and makes one if there is none; other processes that do so wait.
    pub(crate) fn change(
        directory: &Arc<StoreDirectory>,
        change: impl FnOnce(&mut Self),
    ) -> Result<()> {
        let guard = directory
            .read(layout::OCI_LAYOUT)?
            .ok_or_else(|| Error::NotAStore(directory.root_dir().to_owned()))?;
        directory.lock(layout::OCI_LAYOUT, &guard)?;
        let mut tags = match Self::read(directory) {
            Err(Error::NoIndex(_)) => TagIndex { index: new_index() },
            tags => tags?,
        };
        change(&mut tags);
        tags.write(directory)
    }

    fn write(&self, directory: &Arc<StoreDirectory>) -> Result<()> {
        let failed = || directory.failed("write", layout::INDEX);
        let mut text =
            serde_json::to_vec_pretty(&self.index).map_err(|error| failed()(error.into()))?;
        text.push(b'\n');
        check_length(
            "index.json",
            &text,
            "the store has too many images and tags: use another one (--root-dir)",
        )?;
        // The blobs' names must be on the disk before what refers to them.
        directory.sync(layout::BLOBS).map_err(failed())?;
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

    /// The manifest of the image that is called `name`.
    pub(crate) fn resolve_tag(&self, store: &Store, name: &str) -> Result<Digest> {
        let mut is_foreign = false;
        for entry in self.index.manifests() {
            if tag_of(entry) == Some(name) {
                match manifest_of(store, entry) {
                    Ok(Some(found)) => return Ok(found.manifest),
                    Ok(None) => is_foreign = true,
                    Err(Error::BlobMissing(blob)) => {
                        return Err(Error::TagLeadsNowhere {
                            tag: name.to_owned(),
                            blob,
                        });
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        if is_foreign {
            return Err(Error::NotAnImage(name.to_owned()));
        }
        let mut tags = self.index.manifests().iter().filter_map(tag_of);
        let known = tags.by_ref().take(TAGS_LISTED).map(str::to_owned).collect();
        Err(Error::UnknownImage {
            name: name.to_owned(),
            known,
            more: tags.count(),
        })
    }

    /// The manifest that a digest stands for: it is the manifest's own or that of the OCI image manifest. What
    /// it is called by others does not matter.
    pub(crate) fn resolve_digest(&self, store: &Store, digest: Digest) -> Digest {
        let entries = self.index.manifests().iter();
        entries
            .filter(|entry| digest_of(entry) == Some(digest))
            // What is wrong with it is seen when it is read as a manifest.
            .find_map(|entry| manifest_of(store, entry).ok().flatten())
            .map_or(digest, |found| found.manifest)
    }

    /// The images, in the order of their first entries. Those that lead nowhere are left out, with a warning for each.
    pub(crate) fn images(&self, store: &Store) -> Vec<TaggedImage> {
        let mut images: Vec<TaggedImage> = Vec::new();
        let mut places: HashMap<Digest, usize> = HashMap::new();
        for (entry, tags) in self.by_target() {
            // An image whose OCI manifest is missing or damaged can't be named by it: see `problems`.
            let Ok(Some(found)) = manifest_of(store, entry) else {
                tracing::warn!(
                    "index.json names {}, which is no peerfs image or damaged",
                    entry.digest()
                );
                continue;
            };
            let place = *places.entry(found.manifest).or_insert(images.len());
            if place == images.len() {
                images.push(TaggedImage {
                    manifest: found.manifest,
                    oci_manifest: None,
                    tags: Vec::new(),
                });
            }
            if let Some(image) = images.get_mut(place) {
                image.tags.extend(tags.into_iter().map(str::to_owned));
                let oci_manifest = found.oci.map(|oci| oci.manifest);
                image.oci_manifest = image.oci_manifest.or(oci_manifest);
            }
        }
        for image in &mut images {
            image.tags.sort();
        }
        images
    }

    /// What no image can be found or copied by: entries that lead nowhere, and OCI configurations that are
    /// missing. Nobody fetches them, since a mount does not need them.
    pub(crate) fn problems(&self, store: &Store) -> Vec<IndexProblem> {
        let mut problems: BTreeMap<Digest, IndexProblem> = BTreeMap::new();
        for (entry, tags) in self.by_target() {
            let Some(digest) = digest_of(entry) else {
                continue;
            };
            let found = manifest_of(store, entry);
            let (blob, problem) = match found.map(|found| found.and_then(|found| found.oci)) {
                Ok(oci) => match oci.and_then(|oci| oci.config) {
                    Some(config) if !store.has_blob(&config) => (
                        config,
                        "the OCI configuration is missing: other tools can't copy the image"
                            .to_owned(),
                    ),
                    _ => continue,
                },
                Err(Error::BlobMissing(_)) => (
                    digest,
                    "the OCI image manifest is missing: the tag leads nowhere".to_owned(),
                ),
                Err(error) => (digest, error.to_string()),
            };
            let names = &mut problems
                .entry(blob)
                .or_insert_with(|| IndexProblem {
                    blob,
                    problem,
                    images: BTreeSet::new(),
                })
                .images;
            names.extend(tags.iter().map(|tag| (*tag).to_owned()));
            if tags.is_empty() {
                names.insert(digest.to_string());
            }
        }
        problems.into_values().collect()
    }

    /// What the index names, in its order and each once, with its tags: what is named by many is read once.
    fn by_target(&self) -> Vec<(&Descriptor, Vec<&str>)> {
        let mut targets: Vec<(&Descriptor, Vec<&str>)> = Vec::new();
        let mut places: HashMap<(&str, &str), usize> = HashMap::new();
        for entry in self.index.manifests() {
            let key = (entry.media_type().as_ref(), entry.digest().as_ref());
            let place = *places.entry(key).or_insert(targets.len());
            if place == targets.len() {
                targets.push((entry, Vec::new()));
            }
            if let Some((_, tags)) = targets.get_mut(place) {
                tags.extend(tag_of(entry));
            }
        }
        targets
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

/// What an entry of the index leads to.
struct Found {
    /// The peerfs manifest.
    manifest: Digest,
    /// What leads to it, unless it is named directly.
    oci: Option<OciBlobs>,
}

struct OciBlobs {
    manifest: Digest,
    config: Option<Digest>,
}

/// What an entry leads to; None if that is no peerfs image.
fn manifest_of(store: &Store, entry: &Descriptor) -> Result<Option<Found>> {
    let Some(digest) = digest_of(entry) else {
        return Ok(None);
    };
    if entry.media_type().as_ref() == media_type::MANIFEST {
        return Ok(Some(Found {
            manifest: digest,
            oci: None,
        }));
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
    Ok(found.map(|found| Found {
        manifest: found,
        oci: Some(OciBlobs {
            manifest: digest,
            config: digest_of(manifest.config()),
        }),
    }))
}
