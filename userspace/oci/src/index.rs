// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `index.json` of a layout: which images there are, and what they are called.

use std::collections::{HashMap, HashSet};

use oci_spec::image::{Descriptor, ImageIndex, MediaType, SCHEMA_VERSION};
use peerfs_format::Digest;

use crate::descriptor::{descriptor, digest_of};
use crate::error::check_length;
use crate::{media_type, Result, Tag};

/// OCI's annotation for the name of an image in a layout.
pub(crate) const TAG_ANNOTATION: &str = "org.opencontainers.image.ref.name";

/// The annotation for where an image can be had: a repository of a registry, as `REGISTRY/NAME`.
const ORIGIN_ANNOTATION: &str = "vnd.peerfs.origin";
/// The annotation for what an image was made of: the digest of an ordinary image's OCI index or manifest.
const ORIGINAL_ANNOTATION: &str = "vnd.peerfs.original";
/// The annotation of an entry by which an image came that can be fetched again.
const FETCHED_ANNOTATION: &str = "vnd.peerfs.fetched";
/// The most origins of one thing, and the most originals.
const NOTES_MAX: usize = 8;

/// The content of `index.json`. Entries of other tools stay as they are.
#[derive(Debug)]
pub struct Index(ImageIndex);

/// An entry of an index.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry<'a> {
    /// The digest of what it names, as it is written.
    pub name: &'a str,
    /// That digest, if it is a SHA-256.
    pub digest: Option<Digest>,
    /// The kind that it says; None for what is of no interest here.
    pub kind: Option<TargetKind>,
    /// The tag that it gives.
    pub tag: Option<&'a str>,
    /// The repository of a registry that it says to have the thing: whatever text stands there.
    pub origin: Option<&'a str>,
    /// The OCI index or manifest of an ordinary image that it says the thing to be made of.
    pub original: Option<Digest>,
    /// Whether it says that the thing came from elsewhere, and can come again.
    pub is_fetched: bool,
}

impl Entry<'_> {
    /// Whether it says neither that the thing came from elsewhere nor that it is there, too.
    fn is_own(&self) -> bool {
        !self.is_fetched && self.origin.is_none()
    }
}

/// Something that an index names, with all tags that it has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target<'a> {
    /// Its digest, as it is written.
    pub name: &'a str,
    /// Its digest, if it is a SHA-256.
    pub digest: Option<Digest>,
    /// The kind that the index says; None for what is of no interest here.
    pub kind: Option<TargetKind>,
    /// Its tags, in the order of the index.
    pub tags: Vec<&'a str>,
    /// Whether an entry says neither that it came from elsewhere nor that it is there, too.
    pub is_own: bool,
}

/// The kinds of things of peerfs images that an index names.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum TargetKind {
    /// The manifest of a peerfs image.
    Manifest,
    /// An OCI image index, perhaps of another kind of image.
    OciIndex,
    /// An OCI image manifest, perhaps of another kind of image.
    OciManifest,
}

impl Default for Index {
    fn default() -> Self {
        let mut index = ImageIndex::default();
        index
            .set_schema_version(SCHEMA_VERSION)
            .set_media_type(Some(MediaType::ImageIndex));
        Index(index)
    }
}

impl Index {
    /// Reads an index.
    ///
    /// # Errors
    /// [`crate::Error::Json`].
    pub fn parse(text: &[u8]) -> Result<Self> {
        Ok(Index(serde_json::from_slice(text)?))
    }

    /// Its bytes.
    ///
    /// # Errors
    /// [`crate::Error::TooLarge`] if there are too many images and tags.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(&self.0)?;
        text.push(b'\n');
        check_length("index.json", "images and tags", text)
    }

    /// Its entries, in their order.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.0.manifests().iter().map(entry_of)
    }

    /// The things that it names, in its order and each once.
    pub fn targets(&self) -> Vec<Target<'_>> {
        let mut targets: Vec<Target<'_>> = Vec::new();
        let mut places: HashMap<(Option<TargetKind>, &str), usize> = HashMap::new();
        for entry in self.entries() {
            let place = *places
                .entry((entry.kind, entry.name))
                .or_insert(targets.len());
            if place == targets.len() {
                targets.push(Target {
                    name: entry.name,
                    digest: entry.digest,
                    kind: entry.kind,
                    tags: Vec::new(),
                    is_own: false,
                });
            }
            if let Some(target) = targets.get_mut(place) {
                target.is_own |= entry.is_own();
                target.tags.extend(entry.tag);
            }
        }
        targets
    }

    /// Gives something of so many bytes a tag. The entries that had it go, and those without a tag that say no more.
    pub fn tag(&mut self, kind: TargetKind, digest: &Digest, length: u64, tag: &Tag) {
        self.tag_with(kind, digest, length, tag, HashMap::new());
    }

    /// As [`Index::tag`], for something that came from elsewhere, and can come again. What is own stays that.
    pub fn tag_fetched(&mut self, kind: TargetKind, digest: &Digest, length: u64, tag: &Tag) {
        let fetched = (FETCHED_ANNOTATION.to_owned(), "true".to_owned());
        self.tag_with(kind, digest, length, tag, HashMap::from([fetched]));
    }

    fn tag_with(
        &mut self,
        kind: TargetKind,
        digest: &Digest,
        length: u64,
        tag: &Tag,
        mut annotations: HashMap<String, String>,
    ) {
        let is_own = annotations.is_empty();
        let mut entry = descriptor(media_type_of(kind), digest, length);
        annotations.insert(TAG_ANNOTATION.to_owned(), tag.as_str().to_owned());
        entry.set_annotations(Some(annotations));
        let mut entries = self.0.manifests().clone();
        entries.retain(|other| {
            let says_no_more = is_own
                && other.digest() == entry.digest()
                && other.media_type() == entry.media_type()
                && other.annotations().as_ref().is_none_or(HashMap::is_empty);
            tag_of(other) != Some(tag.as_str()) && !says_no_more
        });
        entries.push(entry);
        self.0.set_manifests(entries);
    }

    /// Takes a tag away, and says whether there was one. What it named stays, without a name if it has no other, and own if
    /// it was.
    pub fn untag(&mut self, tag: &str) -> bool {
        let (tagged, mut entries): (Vec<Descriptor>, Vec<Descriptor>) = self
            .0
            .manifests()
            .iter()
            .cloned()
            .partition(|entry| tag_of(entry) == Some(tag));
        let is_found = !tagged.is_empty();
        // By each of them, and by those that say that it is own.
        let mut named: HashSet<(String, bool)> = HashSet::new();
        let mut is_new = |entry: &Descriptor| {
            let (name, is_own) = (entry.digest().to_string(), entry_of(entry).is_own());
            let is_first = named.insert((name.clone(), false));
            is_own && named.insert((name, true)) || is_first
        };
        for entry in &entries {
            is_new(entry);
        }
        for mut entry in tagged {
            if !is_new(&entry) {
                continue;
            }
            let mut annotations = entry.annotations().clone().unwrap_or_default();
            annotations.remove(TAG_ANNOTATION);
            entry.set_annotations(Some(annotations).filter(|left| !left.is_empty()));
            entries.push(entry);
        }
        self.0.set_manifests(entries);
        is_found
    }

    /// Takes away the entries without a tag of things with these digests, as they are written.
    pub fn remove(&mut self, names: &[String]) {
        let mut entries = self.0.manifests().clone();
        entries.retain(|entry| {
            tag_of(entry).is_some() || !names.contains(&entry.digest().to_string())
        });
        self.0.set_manifests(entries);
    }

    /// Notes that a repository of a registry has something, in an entry of its own, so that no change of tags touches it;
    /// of many the last ones stay. Does nothing if that is known.
    pub fn add_origin(&mut self, kind: TargetKind, digest: &Digest, length: u64, origin: &str) {
        let entry = descriptor(media_type_of(kind), digest, length);
        self.note(entry, ORIGIN_ANNOTATION, origin.to_owned());
    }

    /// Notes that something was made of an ordinary image with this OCI index or manifest, as [`Index::add_origin`] does.
    pub fn add_original(
        &mut self,
        kind: TargetKind,
        digest: &Digest,
        length: u64,
        original: &Digest,
    ) {
        let entry = descriptor(media_type_of(kind), digest, length);
        self.note(entry, ORIGINAL_ANNOTATION, format!("sha256:{original}"));
    }

    fn note(&mut self, mut entry: Descriptor, annotation: &str, value: String) {
        entry.set_annotations(Some(HashMap::from([(annotation.to_owned(), value)])));
        let mut entries = self.0.manifests().clone();
        let is_such = |other: &Descriptor| {
            other.digest() == entry.digest() && annotation_of(other, annotation).is_some()
        };
        if entries.contains(&entry) {
            return;
        }
        let count = entries.iter().filter(|other| is_such(other)).count();
        if count >= NOTES_MAX {
            if let Some(place) = entries.iter().position(is_such) {
                entries.remove(place);
            }
        }
        entries.push(entry);
        self.0.set_manifests(entries);
    }

    /// Adds something of so many bytes without a tag.
    pub fn add(&mut self, kind: TargetKind, digest: &Digest, length: u64) {
        let mut entries = self.0.manifests().clone();
        entries.push(descriptor(media_type_of(kind), digest, length));
        self.0.set_manifests(entries);
    }
}

fn entry_of(entry: &Descriptor) -> Entry<'_> {
    Entry {
        name: entry.digest().as_ref(),
        digest: digest_of(entry),
        kind: kind_of(entry),
        tag: tag_of(entry),
        origin: annotation_of(entry, ORIGIN_ANNOTATION),
        original: annotation_of(entry, ORIGINAL_ANNOTATION)
            .and_then(|digest| digest.strip_prefix("sha256:")?.parse().ok()),
        is_fetched: annotation_of(entry, FETCHED_ANNOTATION).is_some(),
    }
}

fn tag_of(entry: &Descriptor) -> Option<&str> {
    annotation_of(entry, TAG_ANNOTATION)
}

fn annotation_of<'a>(entry: &'a Descriptor, name: &str) -> Option<&'a str> {
    let annotations = entry.annotations().as_ref()?;
    annotations.get(name).map(String::as_str)
}

fn kind_of(entry: &Descriptor) -> Option<TargetKind> {
    match entry.media_type() {
        MediaType::ImageIndex => Some(TargetKind::OciIndex),
        MediaType::ImageManifest => Some(TargetKind::OciManifest),
        other if other.as_ref() == media_type::MANIFEST => Some(TargetKind::Manifest),
        _ => None,
    }
}

fn media_type_of(kind: TargetKind) -> MediaType {
    match kind {
        TargetKind::Manifest => MediaType::from(media_type::MANIFEST),
        TargetKind::OciIndex => MediaType::ImageIndex,
        TargetKind::OciManifest => MediaType::ImageManifest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_move_and_go() {
        let (first, second) = (Digest([1; 32]), Digest([2; 32]));
        let tag = |name: &str| name.parse::<Tag>().unwrap();
        let mut index = Index::default();
        index.tag(TargetKind::OciIndex, &first, 5, &tag("stable"));
        index.tag(TargetKind::OciIndex, &first, 5, &tag("old"));
        index.tag(TargetKind::OciIndex, &second, 5, &tag("stable"));
        index.add(TargetKind::Manifest, &second, 5);
        let text = index.encode().unwrap();
        let mut index = Index::parse(&text).unwrap();
        let names = |index: &Index| -> Vec<(Digest, Vec<String>)> {
            let targets = index.targets().into_iter();
            targets
                .map(|target| {
                    let tags = target.tags.into_iter().map(str::to_owned).collect();
                    (target.digest.unwrap(), tags)
                })
                .collect()
        };
        let expected = [
            (first, vec!["old".to_owned()]),
            (second, vec!["stable".to_owned()]),
            (second, vec![]),
        ];
        assert_eq!(names(&index), expected);
        assert!(index.untag("old") && !index.untag("old"));
        assert!(index.untag("stable"));
        // The second has an entry without a tag already; the first gets one, until it has a tag again.
        assert_eq!(names(&index), [(second, vec![]), (first, vec![])]);
        index.tag(TargetKind::OciIndex, &first, 5, &tag("new"));
        assert_eq!(names(&index).len(), 2);
        assert!(index.untag("new"));
        assert!(index.entries().all(|entry| entry.tag.is_none()));
    }

    #[test]
    fn where_an_image_is_outlives_its_tags() {
        let digest = Digest([1; 32]);
        let mut index = Index::default();
        index.tag(TargetKind::OciIndex, &digest, 5, &"a".parse().unwrap());
        for _ in 0..2 {
            index.add_origin(TargetKind::OciIndex, &digest, 5, "r.example/a");
        }
        index.add_origin(TargetKind::OciIndex, &digest, 5, "r.example/b");
        index.tag(TargetKind::OciIndex, &digest, 5, &"b".parse().unwrap());
        assert!(index.untag("a") && index.untag("b"));
        let mut index = Index::parse(&index.encode().unwrap()).unwrap();
        let origins = |index: &Index| -> Vec<String> {
            let entries = index.entries();
            entries
                .filter_map(|entry| Some(entry.origin?.to_owned()))
                .collect()
        };
        assert_eq!(origins(&index), ["r.example/a", "r.example/b"]);
        assert_eq!(index.targets().len(), 1);
        for number in 0..2 * NOTES_MAX {
            let origin = format!("r.example/{number}");
            index.add_origin(TargetKind::OciIndex, &digest, 5, &origin);
        }
        assert_eq!(origins(&index).len(), NOTES_MAX);
        index.remove(&[format!("sha256:{digest}")]);
        assert_eq!(index.entries().count(), 0);
    }

    #[test]
    fn what_is_own_stays_that_wherever_it_goes_and_comes_back_from() {
        let digest = Digest([1; 32]);
        let kind = TargetKind::OciIndex;
        let tag = |name: &str| name.parse::<Tag>().unwrap();
        let is_own = |index: &Index| index.targets()[0].is_own;
        let mut index = Index::default();
        index.tag(kind, &digest, 5, &tag("a"));
        // It is pushed, loses its tag, and is pulled.
        index.add_origin(kind, &digest, 5, "r.example/a");
        assert!(index.untag("a") && is_own(&index));
        index.tag_fetched(kind, &digest, 5, &tag("b"));
        assert!(is_own(&index));
        // It has the tag by which it is pulled.
        index.tag(kind, &digest, 5, &tag("c"));
        assert!(index.untag("c"));
        index.tag_fetched(kind, &digest, 5, &tag("c"));
        assert!(is_own(&index));
        assert!(index.untag("c") && index.untag("b") && is_own(&index));
        index.remove(&[format!("sha256:{digest}")]);
        // What was only fetched is not.
        index.add_origin(kind, &digest, 5, "r.example/a");
        index.tag_fetched(kind, &digest, 5, &tag("a"));
        assert!(!is_own(&index) && index.untag("a") && !is_own(&index));
    }

    #[test]
    fn entries_of_other_tools_stay() {
        let theirs = format!("sha512:{}", "0".repeat(128));
        let text = r#"{"schemaVersion":2,"manifests":[{"mediaType":"text/x","digest":"THEIRS","size":3,
            "annotations":{"a":"b","org.opencontainers.image.ref.name":"theirs"},"urls":["x"]}],"annotations":{"k":"v"}}"#;
        let text = text.replace("THEIRS", &theirs);
        let mut index = Index::parse(text.as_bytes()).unwrap();
        let target = index.targets().remove(0);
        assert_eq!((target.digest, target.kind), (None, None));
        assert!(index.untag("theirs"));
        let text = String::from_utf8(index.encode().unwrap()).unwrap();
        for kept in ["text/x", &theirs, "\"a\": \"b\"", "\"x\"", "\"k\": \"v\""] {
            assert!(text.contains(kept), "{kept}: {text}");
        }
        assert!(!text.contains("theirs"));
    }

    #[test]
    fn what_could_not_be_read_is_not_written() {
        let mut index = Index::default();
        let entry = descriptor(MediaType::ImageManifest, &Digest::default(), 1);
        index.0.set_manifests(vec![entry; 100_000]);
        assert!(matches!(index.encode(), Err(crate::Error::TooLarge { .. })));
    }
}
