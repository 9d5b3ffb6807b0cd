// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Stores with as many images and tags as `index.json` can name.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use peerfs_format::{Digest, PackRecord, METADATA_MAX};
use peerfs_oci::oci_manifests;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::Source;
use crate::{
    sha256, verify, write_image, Architecture, Error, ImageBlobs, RuntimeConfig, Store,
    VerifyProgress,
};

/// Counts what is logged.
#[derive(Clone, Default)]
struct Counter(Arc<AtomicUsize>);

impl Subscriber for Counter {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Writes an `index.json` of these entries: media types, what has the digests that they name, and tags.
fn write_index(store: &Store, entries: impl Iterator<Item = (&'static str, u32, Option<u32>)>) {
    let entries: Vec<String> = entries
        .map(|(media_type, named, tag)| {
            let tag = tag.map_or_else(String::new, |tag| {
                format!(r#","annotations":{{"org.opencontainers.image.ref.name":"{tag}"}}"#)
            });
            let digest = sha256(&named.to_le_bytes());
            format!(r#"{{"mediaType":"{media_type}","digest":"sha256:{digest}","size":4{tag}}}"#)
        })
        .collect();
    let text = format!(
        r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
        entries.join(",")
    );
    assert!(text.len() as u64 <= METADATA_MAX);
    fs::write(store.root_dir().join("index.json"), text).unwrap();
}

#[test]
fn a_hundred_thousand_images_are_listed_soon() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path()).unwrap();
    let manifest = peerfs_oci::media_type::MANIFEST;
    write_index(&store, (0..100_000).map(|image| (manifest, image, None)));
    let start = Instant::now();
    let images = store.images().unwrap();
    assert_eq!(images.len(), 100_000);
    assert_eq!(images[77].manifest, sha256(&77_u32.to_le_bytes()));
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn what_many_tags_share_is_warned_of_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path()).unwrap();
    let missing = "application/vnd.oci.image.manifest.v1+json";
    write_index(&store, (0..1000).map(|tag| (missing, tag % 2, Some(tag))));
    let counter = Counter::default();
    let images = tracing::subscriber::with_default(counter.clone(), || store.images());
    assert_eq!(images.unwrap(), []);
    assert_eq!(counter.0.load(Ordering::Relaxed), 2);
}

/// An OCI index of these entries, as a blob of the store.
fn add_index(store: &Store, entries: &[(&str, Digest)]) -> Digest {
    let entries: Vec<String> = entries
        .iter()
        .map(|(kind, digest)| {
            let kind = format!("application/vnd.oci.image.{kind}.v1+json");
            format!(r#"{{"mediaType":"{kind}","digest":"sha256:{digest}","size":4}}"#)
        })
        .collect();
    let text = format!(
        r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
        entries.join(",")
    );
    store.add_blob(text.as_bytes()).unwrap()
}

#[test]
fn what_indexes_of_others_say_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path()).unwrap();
    write_image(
        &store,
        &image(&[]),
        &Architecture::unknown(),
        &RuntimeConfig::default(),
        &"good".parse().unwrap(),
    )
    .unwrap();
    let good = store.images().unwrap()[0].oci_index.unwrap();
    // An index in an index, an index of 2 MiB, and many that name the same long blob, which is no manifest.
    let nested = add_index(&store, &[("index", good)]);
    let manifests = oci_manifests(&store.read_metadata(&good, METADATA_MAX).unwrap()).unwrap();
    let long = add_index(&store, &vec![("manifest", manifests[1]); 16_000]);
    let blob = store.add_blob(&vec![b'['; METADATA_MAX as usize]).unwrap();
    let mut indexes = vec![nested, long];
    indexes.extend((0..500_u32).map(|number| {
        let other = sha256(&number.to_le_bytes());
        add_index(&store, &[("manifest", other), ("manifest", blob)])
    }));
    let entries: Vec<(&str, Digest)> = indexes.iter().map(|index| ("index", *index)).collect();
    let path = store.blob_path(&add_index(&store, &entries));
    fs::copy(path, store.root_dir().join("index.json")).unwrap();
    let start = Instant::now();
    assert_eq!(store.images().unwrap(), []);
    verify(&store.into(), &[], &VerifyProgress::default()).unwrap();
    assert!(start.elapsed() < Duration::from_secs(10));
}

fn image(packs: &[PackRecord]) -> ImageBlobs<'_> {
    ImageBlobs {
        manifest: &[7; 200],
        blob_table: Digest::default(),
        blob_table_length: 1,
        shards: &[],
        packs,
    }
}

#[test]
fn an_image_that_could_not_be_read_gets_no_tag() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path()).unwrap();
    let record = PackRecord {
        digest: Digest::default(),
        index_digest: Digest::default(),
        contents_digest: Digest::default(),
        stored_length: 1,
        logical_length: 1,
        index_length: 1,
        chunk_count: 1,
    };
    let packs = vec![record; 60_000];
    let mut image = image(&packs);
    let outcome = write_image(
        &store,
        &image,
        &Architecture::unknown(),
        &RuntimeConfig::default(),
        &"large".parse().unwrap(),
    );
    assert!(
        matches!(outcome, Err(Error::TooLarge { .. })),
        "{outcome:?}"
    );
    assert_eq!(store.images().unwrap(), []);
    image.packs = &packs[..10];
    write_image(
        &store,
        &image,
        &Architecture::unknown(),
        &RuntimeConfig::default(),
        &"small".parse().unwrap(),
    )
    .unwrap();
    assert_eq!(store.images().unwrap().len(), 1);
}

#[test]
fn of_two_forms_of_an_image_the_one_that_is_named_is_copied() {
    let source = Source::new(3);
    let store = source.store();
    source.fill(&store);
    let manifest = source.image(&store);
    let blobs = ImageBlobs {
        manifest: &fs::read(store.blob_path(&manifest)).unwrap(),
        blob_table: sha256(b""),
        blob_table_length: 1,
        shards: &[],
        packs: &[source.record],
    };
    let forms = ["amd64", "arm64"].map(|name| {
        let (architecture, tag) = (name.parse().unwrap(), name.parse().unwrap());
        let config = RuntimeConfig::default();
        write_image(&store, &blobs, &architecture, &config, &tag).unwrap()
    });
    assert_ne!(forms[0], forms[1]);
    let by_digest = forms.map(|form| (form.to_string(), form));
    let by_tag = [
        ("amd64".to_owned(), forms[0]),
        ("arm64".to_owned(), forms[1]),
    ];
    for (name, form) in by_tag.into_iter().chain(by_digest) {
        let reference = name.parse().unwrap();
        assert_eq!(store.resolve(&reference).unwrap(), manifest);
        let copy = store.copy_of(&reference, &manifest).unwrap();
        assert_eq!(copy.documents.last().unwrap().digest, form, "{name}");
    }
}
