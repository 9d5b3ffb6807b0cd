// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Archives as sources: those that GNU tar writes of trees that are made up, and what is left of them when bytes change.

use std::fs::{self, File};
use std::io::Cursor;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use peerfs_build::{
    ArchiveTree, Blob, DirectorySource, Kind, Layer, LayersSource, Limits, Promise, ReadProgress,
    Result,
};
use peerfs_store::{sha256, Store};
use proptest::collection::vec;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};
use proptest::{prelude::any, prop_assert_eq};

use super::build_from;
use crate::made_up::{is_root, make, make_possible, tree, Entry, What};

/// Few, so that changed numbers do not make much of little.
const LIMITS: Limits = Limits {
    unpacked: 64 << 20,
    memory: 64 << 20,
};

fn read(bytes: Vec<u8>, store: &Store) -> Result<ArchiveTree> {
    let archive = Layer {
        path: "archive".into(),
        blob: Blob::Stream(Box::new(|| Ok(Box::new(Cursor::new(bytes))))),
        promise: Promise::default(),
    };
    ArchiveTree::read(archive, store, LIMITS, &Arc::default(), &|| Ok(()))
}

fn tar(tree: &Path, format: &str) -> Vec<u8> {
    let mut process = Command::new("tar");
    process.args(["--create", "--numeric-owner", "--xattrs", "--sparse"]);
    process.args(["--xattrs-include=*", "--acls", "--sort=name"]);
    process.args(format.split(' ')).arg("-C").arg(tree).arg(".");
    let output = process.output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaints}");
    output.stdout
}

#[test]
fn trees_come_back_from_archives() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let store = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::create(&store.path().join("store")).unwrap());
    let is_root = is_root(folder.path());
    let root = folder.path().join("tree");
    let mut runner = TestRunner::new(Config::with_cases(20));
    let changes = vec((any::<Index>(), any::<u8>()), 1..8);
    let outcome = runner.run(
        &(tree(), 0..3_u8, changes),
        |(mut tree, version, changes)| {
            make_possible(&mut tree, folder.path(), is_root);
            // tar passes sockets over, and of links it notes those to files and symbolic links.
            let has_links = |entry: &Entry| {
                let kind = &entry.what;
                matches!(kind, What::Regular(_) | What::Other(Kind::SymbolicLink(_)))
            };
            let linked: Vec<bool> = tree.iter().map(has_links).collect();
            for entry in &mut tree {
                match entry.what {
                    What::Other(Kind::Socket) => entry.what = What::Other(Kind::Fifo),
                    What::Link(number) if !linked[number] => entry.what = What::Other(Kind::Fifo),
                    _ => (),
                }
            }
            make(&tree, &root);
            let expected = build_from(DirectorySource::new(&root, &store), &store);
            let sparse = ["0.0", "0.1", "1.0"][usize::from(version)];
            let archive = tar(&root, &format!("--format=posix --sparse-version={sparse}"));
            fs::remove_dir_all(&root).unwrap();
            let expected = expected.unwrap().manifest;

            // As a file of its own, and as a layer whose bytes come from somewhere.
            let path = folder.path().join("archive");
            fs::write(&path, &archive).unwrap();
            let promise = Promise {
                digest: Some(sha256(&archive)),
                size: Some(archive.len() as u64),
                diff_id: Some(sha256(&archive)),
            };
            let file = Blob::File(File::open(&path).unwrap());
            let bytes = archive.clone();
            let stream = Blob::Stream(Box::new(|| Ok(Box::new(Cursor::new(bytes)))));
            for blob in [file, stream] {
                let path = path.clone();
                let layer = Layer {
                    path,
                    blob,
                    promise,
                };
                let progress = Arc::new(ReadProgress::default());
                let source = LayersSource::new("layers", vec![layer], &store).progress(&progress);
                prop_assert_eq!(build_from(source, &store).unwrap().manifest, expected);
                prop_assert_eq!(progress.bytes(), archive.len() as u64);
            }

            // Whatever is changed, the end is a tree or an error.
            let mut changed = archive.clone();
            for (place, byte) in &changes {
                changed[place.index(archive.len())] = *byte;
            }
            mend(&mut changed);
            if let Ok(tree) = read(changed, &store) {
                let _ = build_from(tree, &store);
            }
            let cut = changes[0].0.index(archive.len());
            if let Ok(tree) = read(archive[..cut].to_vec(), &store) {
                // What is cut off are zeros behind the end.
                prop_assert_eq!(build_from(tree, &store).unwrap().manifest, expected);
            }
            Ok(())
        },
    );
    outcome.unwrap();
}

/// Corrects the checksums of headers, so that what is in them is looked at.
fn mend(archive: &mut [u8]) {
    for block in archive.chunks_exact_mut(512) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

#[test]
fn layers_must_be_what_was_promised() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::create(&folder.path().join("store")).unwrap());
    let archive = vec![0; 1024];
    let digest = sha256(&archive);
    let build = |promise: Promise, bytes: Vec<u8>| {
        let path = folder.path().join("layer");
        fs::write(&path, &bytes).unwrap();
        let file = Blob::File(File::open(&path).unwrap());
        let stream = Blob::Stream(Box::new(|| Ok(Box::new(Cursor::new(bytes)))));
        let outcomes = [file, stream].map(|blob| {
            let path = "layer".into();
            let layer = Layer {
                path,
                blob,
                promise,
            };
            let source = LayersSource::new("image", vec![layer], &store);
            build_from(source, &store)
                .map(|_| ())
                .map_err(|error| error.to_string())
        });
        let [file, stream] = outcomes;
        assert_eq!(file, stream);
        file
    };
    let right = Promise {
        digest: Some(digest),
        size: Some(1024),
        diff_id: Some(digest),
    };
    build(right, archive.clone()).unwrap();
    let other = Some(sha256(b"other"));
    for (promise, expected) in [
        (
            Promise {
                digest: other,
                ..right
            },
            "layer has the digest sha256:",
        ),
        (
            Promise {
                diff_id: other,
                ..right
            },
            "layer has, once it is unpacked, the digest",
        ),
        (
            Promise {
                size: Some(1023),
                ..right
            },
            "more, and should have 1023",
        ),
        (
            Promise {
                size: Some(1025),
                ..right
            },
            "1024, and should have 1025",
        ),
    ] {
        let message = build(promise, archive.clone()).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
}
