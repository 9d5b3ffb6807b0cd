// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A small store to try things with.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::running::{build, fail, peerfs};
use peerfs_format::{Digest, Manifest, PackRecord, Record, METADATA_MAX};
use peerfs_store::{Image, Pack, Store};
use serde_json::Value;
use tempfile::TempDir;

/// A store with an image of one file, whose content does not compress.
pub struct Fixture {
    pub folder: TempDir,
    pub manifest: Digest,
    pub content: Vec<u8>,
}

impl Fixture {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let mut state = 42_u64;
        let content: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(1_000_000)
        .collect();
        fs::write(tree.join("file"), &content).unwrap();
        let manifest = build(&tree, &folder.path().join("store"), "image", &[]);
        Fixture {
            folder,
            manifest: manifest.parse().unwrap(),
            content,
        }
    }

    pub fn tree(&self) -> PathBuf {
        self.folder.path().join("tree")
    }

    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// Builds a second image beside that of the fixture, with other content, and returns its manifest's digest.
    pub fn build_other(&self) -> String {
        let tree = self.folder.path().join("other");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("file"), "other").unwrap();
        build(&tree, &self.store(), "other", &[])
    }

    pub fn blobs(&self) -> Vec<Digest> {
        Store::open(&self.store()).unwrap().blobs().unwrap()
    }

    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.store().join(format!("blobs/sha256/{digest}"))
    }

    pub fn read_manifest(&self) -> (Vec<u8>, Manifest) {
        let bytes = fs::read(self.blob(&self.manifest)).unwrap();
        let manifest = Manifest::parse(&bytes).unwrap();
        (bytes, manifest)
    }

    pub fn pack(&self) -> (PackRecord, Vec<u8>) {
        let store = Store::open(&self.store()).unwrap();
        let image = Image::open(Arc::new(store), &self.manifest).unwrap();
        let record = image.blob_table().pack(0).unwrap();
        let index = Store::open(&self.store())
            .and_then(|store| store.read_metadata(&record.index_digest, METADATA_MAX))
            .unwrap();
        (record, index)
    }

    /// Makes the pack a partial one that has all chunks but this one.
    pub fn make_partial(&self, missing: u32) -> Arc<Pack> {
        let (record, index) = self.pack();
        let blob = self.blob(&record.digest);
        let whole = fs::read(&blob).unwrap();
        fs::remove_file(blob).unwrap();
        let store = Store::create(&self.store()).unwrap();
        let pack = store.pack(&record, index).unwrap();
        for number in (0..record.chunk_count).filter(|number| *number != missing) {
            let chunk = pack.chunk(number).unwrap();
            let stored = &whole[chunk.stored_offset as usize..][..chunk.stored_length as usize];
            pack.write_chunk(number, stored).unwrap();
        }
        pack
    }

    /// Reads the file through the command line; what is printed must be right as far as it goes.
    pub fn cat_fails(&self) -> String {
        let (content, message) = fail(peerfs(&self.store(), "cat").args(["image", "/file"]));
        assert!(self.content.starts_with(&content));
        assert!(content.len() < self.content.len());
        message
    }

    /// What is wrong with a store that has got an image with this manifest.
    pub fn only_problem_with(&self, manifest: &[u8]) -> String {
        let store = Store::create(&self.store()).unwrap();
        let digest = store.add_blob(manifest).unwrap();
        store
            .remember_image(&digest, manifest.len() as u64)
            .unwrap();
        let findings = self.verify_fails();
        let damages = findings["damages"].as_array().unwrap();
        assert_eq!(damages.len(), 1, "{damages:?}");
        damages[0]["problem"].as_str().unwrap().to_owned()
    }

    pub fn verify_fails(&self) -> Value {
        let (findings, _) = fail(peerfs(&self.store(), "verify").arg("--json"));
        serde_json::from_slice(&findings).unwrap()
    }
}

pub fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let before = fs::read(path).unwrap();
    let mut after = before.clone();
    change(&mut after);
    fs::write(path, after).unwrap();
    before
}

pub fn bytes_of(record: &impl Record) -> Vec<u8> {
    let mut bytes = Vec::new();
    record.write_to(|part| bytes.extend_from_slice(part));
    bytes
}

/// Puts other bytes of the same length in the place of some that are there.
pub fn replace(bytes: &mut [u8], old: &[u8], new: &[u8]) {
    let place = bytes.windows(old.len()).position(|found| found == old);
    bytes[place.unwrap()..][..new.len()].copy_from_slice(new);
}
