// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The images of a store, and what they are called.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use peerfs_format::{Digest, METADATA_MAX};
use peerfs_oci::{
    Architecture, ImageBlobs, Index, OciImage, Reference, RuntimeConfig, Tag, Target, TargetKind,
};

use crate::oci_form::OciForms;
use crate::{index_file, Error, Result, Store};

/// The most tags that a message lists.
const TAGS_LISTED: usize = 20;

/// An image of the store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TaggedImage {
    /// The digest of its peerfs manifest, which is what a mount is given.
    pub manifest: Digest,
    /// The digest of its OCI image index (of its OCI image manifest, if `index.json` has no more of it), unless it was
    /// fetched by the digest of its manifest.
    pub oci_index: Option<Digest>,
    /// Its tags; sorted.
    pub tags: Vec<String>,
    /// Whether it was made here, or got a tag by hand: what came from elsewhere can come again.
    pub is_own: bool,
}

/// Something that `index.json` or what it names leads to, and that is missing or not valid.
pub(crate) struct IndexProblem {
    pub(crate) blob: Digest,
    pub(crate) problem: String,
    /// Tags, or digests of what has none.
    pub(crate) images: BTreeSet<String>,
}

/// What an image was made of, and what it is made of stays: see [`Store::originals`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Converted {
    /// The manifest of the image.
    pub manifest: Digest,
    /// Its OCI index.
    pub oci_index: Digest,
    /// The OCI index or manifest of the ordinary image.
    pub original: Digest,
}

/// Makes a complete image known in the store under `tag`: writes its OCI form, for programs of this architecture that
/// are run with this configuration, and changes the index. Returns the digest of its OCI image index, which is the same
/// for the same image, architecture and configuration.
///
/// # Errors
/// [`Error::TooLarge`] if there are too many blobs or tags; [`Error::Layout`] if `index.json` is not valid;
/// [`Error::Io`] if the disk is full. The tag is as before then.
pub fn write_image(
    store: &Store,
    image: &ImageBlobs<'_>,
    architecture: &Architecture,
    config: &RuntimeConfig,
    tag: &Tag,
) -> Result<Digest> {
    let (digest, length) = write_form(store, image, architecture, config)?;
    index_file::change(store.directory(), |index| {
        index.tag(TargetKind::OciIndex, &digest, length, tag);
        Ok(())
    })?;
    Ok(digest)
}

/// As [`write_image`], of an image that was made of an ordinary one, which is noted: see [`Store::originals`]. It needs no tag.
///
/// # Errors
/// Those of [`write_image`].
pub fn write_converted(
    store: &Store,
    image: &ImageBlobs<'_>,
    architecture: &Architecture,
    config: &RuntimeConfig,
    tag: Option<&Tag>,
    originals: &[Digest],
) -> Result<Digest> {
    let (digest, length) = write_form(store, image, architecture, config)?;
    let target = (TargetKind::OciIndex, &digest, length);
    store.note_converted(target, tag, originals)?;
    Ok(digest)
}

/// Writes the OCI form of an image. Returns the digest and length of its OCI image index.
fn write_form(
    store: &Store,
    image: &ImageBlobs<'_>,
    architecture: &Architecture,
    config: &RuntimeConfig,
) -> Result<(Digest, u64)> {
    let form = OciImage::new(image, architecture, config)
        .map_err(Error::oci(store.root_dir().to_owned()))?;
    for blob in &form.blobs {
        store.add_blob(blob)?;
    }
    Ok((store.add_blob(&form.index)?, form.index.len() as u64))
}

impl Store {
    /// The digest of the manifest that a user means. A digest need not be in the store, and no tag can hide it.
    ///
    /// # Errors
    /// [`Error::UnknownImage`], [`Error::NotAnImage`], [`Error::TagLeadsNowhere`], [`Error::NotPulled`],
    /// [`Error::OfPublisher`], and those of
    /// [`Store::images`].
    pub fn resolve(&self, reference: &Reference) -> Result<Digest> {
        let index = index_file::read(self.directory());
        let not_pulled = || Error::NotPulled(reference.to_string());
        match reference {
            Reference::Digest(digest) => Ok(match index {
                Ok(index) => resolve_digest(self, &index, *digest),
                // It says all by itself.
                Err(_) => *digest,
            }),
            Reference::Tag(tag) => resolve_tag(self, &index?, tag.as_str()),
            Reference::Registry(image) => match image.digest {
                Some(digest) => {
                    let index = index?;
                    Some(resolve_digest(self, &index, digest))
                        .filter(|manifest| self.has_blob(manifest))
                        .or_else(|| resolve_original(self, &index, digest))
                        .ok_or_else(not_pulled)
                }
                None => match resolve_tag(self, &index?, &image.to_string()) {
                    Err(Error::UnknownImage { .. }) => Err(not_pulled()),
                    resolved => resolved,
                },
            },
            Reference::Published { .. } | Reference::Alias(_) => {
                Err(Error::OfPublisher(reference.to_string()))
            }
        }
    }

    /// The OCI configuration by which the programs of an image are run: that of the name that the user has chosen, or else
    /// of the first one that leads to the image. None if the store has none of it.
    ///
    /// # Errors
    /// Those of [`Store::images`]; [`Error::BlobMissing`] or [`Error::BlobDamaged`] if it should be here.
    pub fn oci_config(&self, reference: &Reference, manifest: &Digest) -> Result<Option<Vec<u8>>> {
        let index = match index_file::read(self.directory()) {
            Err(Error::NoIndex(_)) => return Ok(None),
            index => index?,
        };
        let mut forms = OciForms::new(self);
        let mut configs = Vec::new();
        for target in index.targets() {
            let found = forms.find(target.kind, target.digest).ok().flatten();
            let found = found.filter(|found| found.manifest == *manifest);
            if let Some(config) = found.and_then(|found| found.config) {
                configs.push((is_meant(&target, reference), config));
            }
        }
        let chosen = configs.iter().find(|(is_chosen, _)| *is_chosen);
        let chosen = chosen.or(configs.first());
        let read = chosen.map(|(_, config)| self.read_metadata(config, METADATA_MAX));
        read.transpose()
    }

    /// The images of the store by their manifests, those that were added without a tag too. Warns of what is named and
    /// leads nowhere.
    ///
    /// # Errors
    /// [`Error::Layout`] if `index.json` is not valid; [`Error::Io`].
    pub fn images(&self) -> Result<Vec<TaggedImage>> {
        let index = index_file::read(self.directory())?;
        Ok(images(self, &index, |name| {
            tracing::warn!("index.json names {name}, which is no peerfs image or damaged");
        }))
    }

    /// Gives an image a tag. The one that had it stays, without a name if it has no other.
    ///
    /// # Errors
    /// Those of [`Store::read_manifest`], which must be here, and of [`Store::images`]; [`Error::TooLarge`] if there are
    /// too many tags. The tags are as before then.
    pub fn tag(&self, manifest: &Digest, tag: &Tag) -> Result<()> {
        self.tag_as(manifest, None, tag)
    }

    /// As [`Store::tag`], of the image that a reference names. Of several OCI forms that an image has it is the one which
    /// the reference leads to: images of the same files may differ in how their programs are run.
    ///
    /// # Errors
    /// Those of [`Store::tag`] and of [`Store::resolve`].
    pub fn tag_reference(&self, reference: &Reference, tag: &Tag) -> Result<()> {
        let manifest = self.resolve(reference)?;
        self.tag_as(&manifest, Some(reference), tag)
    }

    fn tag_as(&self, manifest: &Digest, reference: Option<&Reference>, tag: &Tag) -> Result<()> {
        self.read_manifest(manifest)?;
        index_file::change(self.directory(), |index| {
            // By its OCI form, if there is one, other tools can copy it.
            let form = form_of(self, index, reference, manifest);
            let (kind, digest) = form.unwrap_or((TargetKind::Manifest, *manifest));
            let length = self.read_metadata(&digest, METADATA_MAX)?.len() as u64;
            index.untag(tag.as_str());
            index.tag(kind, &digest, length, tag);
            Ok(())
        })
    }

    /// Gives an image a tag by the blob of its OCI form that it has in a registry: an OCI index or manifest, which must be
    /// here.
    ///
    /// # Errors
    /// [`Error::NotAnImage`] if it does not lead to this manifest; as for [`Store::tag`].
    pub fn tag_oci(&self, manifest: &Digest, oci_index: &Digest, tag: &Tag) -> Result<()> {
        let (kind, length) = self.oci_target(manifest, oci_index)?;
        index_file::change(self.directory(), |index| {
            index.untag(tag.as_str());
            index.tag_fetched(kind, oci_index, length, tag);
            Ok(())
        })
    }

    /// Notes that a repository of a registry, as `REGISTRY/NAME`, has an image, there by this OCI index or manifest, which
    /// is kept from now on as the image is; by its manifest alone if there is none.
    ///
    /// # Errors
    /// As for [`Store::tag_oci`].
    pub fn add_origin(
        &self,
        manifest: &Digest,
        oci_index: Option<&Digest>,
        origin: &str,
    ) -> Result<()> {
        let (kind, digest, length) = match oci_index {
            Some(digest) => {
                let (kind, length) = self.oci_target(manifest, digest)?;
                (kind, digest, length)
            }
            None => {
                let length = self.read_metadata(manifest, METADATA_MAX)?.len() as u64;
                (TargetKind::Manifest, manifest, length)
            }
        };
        index_file::change(self.directory(), |index| {
            index.add_origin(kind, digest, length, origin);
            Ok(())
        })
    }

    /// The images that were made of ordinary ones of registries, and what each was made of, as the store notes it. Nobody can
    /// tell whether that is so.
    ///
    /// # Errors
    /// As for [`Store::images`].
    pub fn originals(&self) -> Result<Vec<Converted>> {
        Ok(originals(self, &index_file::read(self.directory())?))
    }

    /// Gives an image that was made of an ordinary one a tag, and notes of what else it is made: the ordinary image may have
    /// come to be called otherwise.
    ///
    /// # Errors
    /// As for [`Store::tag_oci`].
    pub fn tag_converted(
        &self,
        converted: &Converted,
        tag: Option<&Tag>,
        originals: &[Digest],
    ) -> Result<()> {
        let oci_index = &converted.oci_index;
        let (kind, length) = self.oci_target(&converted.manifest, oci_index)?;
        self.note_converted((kind, oci_index, length), tag, originals)
    }

    fn note_converted(
        &self,
        (kind, oci_index, length): (TargetKind, &Digest, u64),
        tag: Option<&Tag>,
        originals: &[Digest],
    ) -> Result<()> {
        index_file::change(self.directory(), |index| {
            for original in originals {
                index.add_original(kind, oci_index, length, original);
            }
            if let Some(tag) = tag {
                index.tag(kind, oci_index, length, tag);
            }
            Ok(())
        })
    }

    /// The kind and the length of what leads to an image.
    fn oci_target(&self, manifest: &Digest, oci_index: &Digest) -> Result<(TargetKind, u64)> {
        let length = self.read_metadata(oci_index, METADATA_MAX)?.len() as u64;
        let mut forms = OciForms::new(self);
        let mut kinds = [TargetKind::OciIndex, TargetKind::OciManifest].into_iter();
        let kind = kinds.find(|kind| {
            let found = forms.find(Some(*kind), Some(*oci_index)).ok().flatten();
            found.is_some_and(|found| found.manifest == *manifest)
        });
        let kind = kind.ok_or_else(|| Error::NotAnImage(oci_index.to_string()))?;
        Ok((kind, length))
    }

    /// The images that repositories of registries are noted to have, by their manifests: whatever texts stand there.
    ///
    /// # Errors
    /// As for [`Store::images`].
    pub fn origins(&self) -> Result<Vec<(Digest, String)>> {
        let index = index_file::read(self.directory())?;
        let mut forms = OciForms::new(self);
        let origins = index.entries().filter_map(|entry| {
            let origin = entry.origin?;
            // What leads nowhere is told elsewhere.
            let found = forms.find(entry.kind, entry.digest).ok()??;
            Some((found.manifest, origin.to_owned()))
        });
        Ok(origins.collect())
    }

    /// Takes a tag away. The image stays, without a name if it has no other.
    ///
    /// # Errors
    /// [`Error::UnknownImage`] if there is no such tag, and those of [`Store::images`].
    pub fn untag(&self, tag: &str) -> Result<()> {
        index_file::change(self.directory(), |index| {
            if index.untag(tag) {
                Ok(())
            } else {
                Err(unknown_tag(index, tag))
            }
        })
    }

    /// Takes an image out of the index: by a tag that tag, and the image with the last one. What it needs, and nothing
    /// else does, is given up by [`Store::collect`]. Returns the digest of its manifest.
    ///
    /// # Errors
    /// [`Error::UnknownImage`] if the index does not name it; [`Error::StillTagged`] if it is named by its digest and has
    /// tags; those of [`Store::resolve`].
    pub fn remove_image(&self, reference: &Reference) -> Result<Digest> {
        let manifest = self.resolve(reference)?;
        let image = self
            .images()?
            .into_iter()
            .find(|image| image.manifest == manifest);
        let unknown = |index: &Index| unknown_tag(index, &reference.to_string());
        let Some(image) = image else {
            return Err(unknown(&index_file::read(self.directory())?));
        };
        let named = image.tags.iter().find(|tag| **tag == reference.to_string());
        if named.is_none() && !image.tags.is_empty() {
            return Err(Error::StillTagged {
                manifest,
                tags: image.tags,
            });
        }
        index_file::change(self.directory(), |index| {
            if let Some(tag) = named {
                index.untag(tag);
            }
            if image.tags.len() <= 1 {
                let mut forms = OciForms::new(self);
                let mut is_it = |target: &Target<'_>| {
                    let found = forms.find(target.kind, target.digest);
                    found.is_ok_and(|found| found.is_some_and(|found| found.manifest == manifest))
                };
                let targets = index.targets();
                let names = targets.iter().filter(|target| target.tags.is_empty());
                let names: Vec<String> = names
                    .filter(|target| is_it(target))
                    .map(|target| target.name.to_owned())
                    .collect();
                index.remove(&names);
            }
            Ok(())
        })?;
        Ok(manifest)
    }

    /// Adds an image whose manifest is a blob of `length` bytes to [`Store::images`], without a tag:
    /// for one that was fetched by its digest. Does nothing if it is there already.
    ///
    /// # Errors
    /// As for [`Store::images`].
    pub fn remember_image(&self, manifest: &Digest, length: u64) -> Result<()> {
        let known = match self.images() {
            // It is made anew.
            Err(Error::NoIndex(_)) => Vec::new(),
            images => images?,
        };
        if known.iter().any(|image| image.manifest == *manifest) {
            return Ok(());
        }
        index_file::change(self.directory(), |index| {
            index.add(TargetKind::Manifest, manifest, length);
            Ok(())
        })
    }
}

/// The OCI form of an image: the one that a reference leads to, or else the first one.
pub(crate) fn form_of(
    store: &Store,
    index: &Index,
    reference: Option<&Reference>,
    manifest: &Digest,
) -> Option<(TargetKind, Digest)> {
    let mut forms = OciForms::new(store);
    let targets = index.targets().into_iter();
    let (meant, others): (Vec<_>, Vec<_>) =
        targets.partition(|target| reference.is_some_and(|reference| is_meant(target, reference)));
    meant.into_iter().chain(others).find_map(|target| {
        let found = forms.find(target.kind, target.digest).ok()??;
        let digest = found.oci_index.filter(|_| found.manifest == *manifest)?;
        Some((target.kind?, digest))
    })
}

/// Whether a reference names this target, by its digest or by one of its tags.
fn is_meant(target: &Target<'_>, reference: &Reference) -> bool {
    match reference {
        Reference::Digest(digest) => target.digest == Some(*digest),
        Reference::Registry(image) if image.digest.is_some() => target.digest == image.digest,
        _ => target.tags.contains(&reference.to_string().as_str()),
    }
}

/// The manifest of the image that has this tag.
fn resolve_tag(store: &Store, index: &Index, tag: &str) -> Result<Digest> {
    let mut is_foreign = false;
    let mut forms = OciForms::new(store);
    for entry in index.entries().filter(|entry| entry.tag == Some(tag)) {
        match forms.find(entry.kind, entry.digest) {
            Ok(Some(found)) => return Ok(found.manifest),
            Ok(None) => is_foreign = true,
            Err(lost) => {
                return Err(match lost.error {
                    Error::BlobMissing(blob) => Error::TagLeadsNowhere {
                        tag: tag.to_owned(),
                        blob,
                    },
                    error => error,
                });
            }
        }
    }
    if is_foreign {
        return Err(Error::NotAnImage(tag.to_owned()));
    }
    Err(unknown_tag(index, tag))
}

fn unknown_tag(index: &Index, tag: &str) -> Error {
    let mut tags = index.entries().filter_map(|entry| entry.tag);
    let known = tags.by_ref().take(TAGS_LISTED).map(str::to_owned).collect();
    Error::UnknownImage {
        name: tag.to_owned(),
        known,
        more: tags.count(),
    }
}

/// The manifest that a digest stands for: it is the manifest's own or that of the image's OCI index. What
/// it is called by others does not matter.
fn resolve_digest(store: &Store, index: &Index, digest: Digest) -> Digest {
    let mut forms = OciForms::new(store);
    index
        .entries()
        .filter(|entry| entry.digest == Some(digest))
        // What is wrong with it is seen when it is read as a manifest.
        .find_map(|entry| forms.find(entry.kind, entry.digest).ok().flatten())
        .map_or(digest, |found| found.manifest)
}

/// The manifest of an image that is noted to be made of an ordinary one with this OCI index or manifest, and is here.
fn resolve_original(store: &Store, index: &Index, original: Digest) -> Option<Digest> {
    let made = originals(store, index).into_iter();
    let mut made = made.filter(|made| made.original == original);
    let found = made.find(|made| store.has_blob(&made.manifest));
    found.map(|made| made.manifest)
}

fn originals(store: &Store, index: &Index) -> Vec<Converted> {
    let mut forms = OciForms::new(store);
    let entries = index.entries().filter_map(|entry| {
        let (original, oci_index) = (entry.original?, entry.digest?);
        // What leads nowhere is told elsewhere.
        let found = forms.find(entry.kind, entry.digest).ok()??;
        Some(Converted {
            manifest: found.manifest,
            oci_index,
            original,
        })
    });
    entries.collect()
}

/// The images, in the order of their first entries. Those that lead nowhere are left out, and `lost` is told what the
/// index calls them.
pub(crate) fn images(store: &Store, index: &Index, mut lost: impl FnMut(&str)) -> Vec<TaggedImage> {
    let mut images: Vec<TaggedImage> = Vec::new();
    let mut places: HashMap<Digest, usize> = HashMap::new();
    let mut forms = OciForms::new(store);
    for target in index.targets() {
        // An image whose OCI form is missing or damaged can't be named by it: see `problems`.
        let Ok(Some(found)) = forms.find(target.kind, target.digest) else {
            lost(target.name);
            continue;
        };
        let place = *places.entry(found.manifest).or_insert(images.len());
        if place == images.len() {
            images.push(TaggedImage {
                manifest: found.manifest,
                oci_index: None,
                tags: Vec::new(),
                is_own: false,
            });
        }
        if let Some(image) = images.get_mut(place) {
            // By its manifest alone an image is named that was fetched by that.
            image.is_own |= target.is_own && target.kind != Some(TargetKind::Manifest);
            image
                .tags
                .extend(target.tags.into_iter().map(str::to_owned));
            image.oci_index = image.oci_index.or(found.oci_index);
        }
    }
    for image in &mut images {
        image.tags.sort();
    }
    images
}

/// The problems by which an image can't be found or copied: entries that lead nowhere, and blobs of the OCI form that
/// are missing. Nobody fetches them, since a mount does not need them.
pub(crate) fn problems(store: &Store, index: &Index) -> Vec<IndexProblem> {
    let mut problems: BTreeMap<Digest, IndexProblem> = BTreeMap::new();
    let mut forms = OciForms::new(store);
    for target in index.targets() {
        let Some(digest) = target.digest else {
            continue;
        };
        let mut add = |blob: Digest, problem: String| {
            let names = &mut problems
                .entry(blob)
                .or_insert_with(|| IndexProblem {
                    blob,
                    problem,
                    images: BTreeSet::new(),
                })
                .images;
            names.extend(target.tags.iter().map(|tag| (*tag).to_owned()));
            if target.tags.is_empty() {
                names.insert(digest.to_string());
            }
        };
        match forms.find(target.kind, target.digest) {
            Ok(found) => {
                let needed = found.map(|found| found.needed).unwrap_or_default();
                for blob in needed.iter().filter(|blob| !store.has_blob(blob)) {
                    let problem =
                        "a blob of its OCI form is missing: other tools can't copy the image";
                    add(*blob, problem.to_owned());
                }
            }
            Err(lost) => add(
                lost.blob,
                match lost.error {
                    Error::BlobMissing(_) => {
                        "an OCI image index or manifest is missing: the tag leads nowhere"
                            .to_owned()
                    }
                    error => error.to_string(),
                },
            ),
        }
    }
    problems.into_values().collect()
}
