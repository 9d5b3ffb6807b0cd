// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Images that share chunks: each byte is stored once, and stays as long as one of them needs it.

use std::fs::{self, File};
use std::path::Path;
use std::time::UNIX_EPOCH;

use crate::fixture::Fixture;
use crate::running::{build, fail, peerfs, succeed};
use peerfs_store::Store;
use serde_json::Value;

/// Bytes on the disk of all that is in a store.
fn occupied(store: &Path) -> u64 {
    let usage = Store::open(store).unwrap().usage().unwrap();
    usage.blob_bytes + usage.partial_bytes + usage.loose_bytes + usage.table_bytes
}

/// A fixture with a second image, `edited`, of which ten bytes are others; what it has in its file.
fn edited() -> (Fixture, Vec<u8>) {
    let fixture = Fixture::new();
    let mut content = fixture.content.clone();
    content[400_000..400_010].copy_from_slice(b"ten bytes!");
    fs::write(fixture.tree().join("file"), &content).unwrap();
    build(&fixture.tree(), &fixture.store(), "edited", &[]);
    (fixture, content)
}

fn assert_is(fixture: &Fixture, image: &str, content: &[u8]) {
    let found = succeed(peerfs(&fixture.store(), "cat").args([image, "/file"]));
    assert!(found == content, "{image}");
    succeed(&mut peerfs(&fixture.store(), "verify"));
}

fn collect(fixture: &Fixture, options: &[&str]) -> Value {
    let mut process = peerfs(&fixture.store(), "gc");
    serde_json::from_slice(&succeed(process.arg("--json").args(options))).unwrap()
}

#[test]
fn an_edit_costs_the_chunks_that_it_changes_and_no_other_digest() {
    let fixture = Fixture::new();
    let before = occupied(&fixture.store());
    drop(fixture);
    let (fixture, content) = edited();
    let added = occupied(&fixture.store()) - before;
    // Of a million bytes at most two chunks of 128 KiB are others.
    assert!(added < 350_000, "{added}");
    let alone = fixture.folder.path().join("alone");
    let digest = build(&fixture.tree(), &alone, "alone", &[]);
    let here = succeed(peerfs(&fixture.store(), "images").arg("--json"));
    assert!(String::from_utf8(here).unwrap().contains(&digest));
    assert_is(&fixture, "edited", &content);
    assert_is(&fixture, "image", &fixture.content);
    // Nothing is written when nothing has changed.
    let before = occupied(&fixture.store());
    build(&fixture.tree(), &fixture.store(), "again", &[]);
    assert_eq!(occupied(&fixture.store()), before);
    // Compressed in another way it is another image, whatever the store has.
    let options = ["--compression", "zstd:9"];
    let other = build(&fixture.tree(), &fixture.store(), "other", &options);
    assert_eq!(build(&fixture.tree(), &alone, "other", &options), other);
}

#[test]
fn either_image_is_removed_and_the_other_keeps_what_it_needs() {
    for (removed, kept) in [("image", "edited"), ("edited", "image")] {
        let (fixture, edited) = edited();
        let content = if kept == "image" {
            &fixture.content
        } else {
            &edited
        };
        let before = occupied(&fixture.store());
        succeed(peerfs(&fixture.store(), "rm").arg(removed));
        assert_is(&fixture, kept, content);
        let would = collect(&fixture, &["--dry-run"]);
        assert!(would["blobs"].as_u64().unwrap() > 0, "{would}");
        assert_eq!(occupied(&fixture.store()), before);
        let done = collect(&fixture, &[]);
        assert!(done["bytes"].as_u64().unwrap() > 60_000, "{done}");
        assert!(occupied(&fixture.store()) < before - 60_000);
        assert_is(&fixture, kept, content);
        let (_, message) = fail(peerfs(&fixture.store(), "cat").args([removed, "/file"]));
        assert!(message.contains(kept), "{message}");
        // It comes again, and takes what is here.
        if removed == "edited" {
            fs::write(fixture.tree().join("file"), &edited).unwrap();
        } else {
            fs::write(fixture.tree().join("file"), &fixture.content).unwrap();
        }
        build(&fixture.tree(), &fixture.store(), removed, &[]);
        assert!(occupied(&fixture.store()) < before + 200_000);
        assert_is(&fixture, kept, content);
        for image in [removed, kept] {
            succeed(peerfs(&fixture.store(), "rm").arg(image));
        }
        collect(&fixture, &[]);
        assert!(Store::open(&fixture.store())
            .unwrap()
            .blobs()
            .unwrap()
            .is_empty());
    }
}

#[test]
fn a_store_of_somebody_else_does_not_decide_what_is_built() {
    // Two trees of one chunk each, of the same length.
    let fixture = Fixture::new();
    let store = fixture.folder.path().join("shared");
    let (one, other) = (&fixture.content[..40_000], &fixture.content[40_000..80_000]);
    let build_of = |content: &[u8], store: &Path| {
        let path = fixture.tree().join("file");
        fs::write(&path, content).unwrap();
        // The same tree each time.
        for path in [path, fixture.tree()] {
            File::open(path).unwrap().set_modified(UNIX_EPOCH).unwrap();
        }
        build(&fixture.tree(), store, "built", &[])
    };
    let alone = build_of(one, &fixture.folder.path().join("alone"));
    build_of(one, &store);
    build_of(other, &store);
    // What was entered for the one leads to the chunk of the other, with a checksum as it should be.
    let path = store.join("catalogue/contents");
    let records = fs::read(&path).unwrap();
    let (first, second) = records.split_at(80);
    let forged = |key: &[u8], rest: &[u8]| {
        let fields = [&key[..32], &rest[32..72]].concat();
        let sum = blake3::hash(&fields);
        [&fields[..], &sum.as_bytes()[..8]].concat()
    };
    assert_eq!((first.len(), second.len()), (80, 80));
    fs::write(
        &path,
        [forged(first, second), forged(second, first)].concat(),
    )
    .unwrap();
    assert_eq!(build_of(one, &store), alone);
    let found = succeed(peerfs(&store, "cat").args(["built", "/file"]));
    assert!(found == one);
    succeed(&mut peerfs(&store, "verify"));
}

#[test]
fn an_image_is_made_whole_for_other_tools() {
    let (fixture, content) = edited();
    let whole = |image: &str| {
        let store = Store::open(&fixture.store()).unwrap();
        let manifest = store.resolve(&image.parse().unwrap()).unwrap();
        let inventory = store.inventory(&manifest).unwrap();
        inventory
            .blobs
            .iter()
            .all(|blob| store.has_blob(&blob.digest))
    };
    assert!(whole("image") && !whole("edited"));
    succeed(peerfs(&fixture.store(), "tag").args(["edited", "copied", "--whole"]));
    assert!(whole("edited"));
    assert_is(&fixture, "copied", &content);
    assert_is(&fixture, "image", &fixture.content);

    let mut content = content;
    content[900_000] ^= 1;
    fs::write(fixture.tree().join("file"), &content).unwrap();
    build(&fixture.tree(), &fixture.store(), "third", &["--whole"]);
    assert!(whole("third"));
    assert_is(&fixture, "third", &content);
}

#[test]
fn what_is_not_to_be_removed_is_not() {
    let (fixture, content) = edited();
    let digest = fixture.manifest.to_string();
    let (_, message) = fail(peerfs(&fixture.store(), "rm").arg(&digest));
    assert!(message.contains("is called image"), "{message}");
    let (_, message) = fail(peerfs(&fixture.store(), "rm").arg("nothing"));
    assert!(message.contains("nothing"), "{message}");
    // One without a tag stays until it is removed by its digest.
    succeed(peerfs(&fixture.store(), "untag").arg("image"));
    collect(&fixture, &[]);
    assert_is(&fixture, &digest, &fixture.content);
    succeed(peerfs(&fixture.store(), "rm").arg(&digest));
    collect(&fixture, &[]);
    assert_is(&fixture, "edited", &content);

    // Nobody can say what a damaged image needs.
    let store = Store::open(&fixture.store()).unwrap();
    let manifest = store.resolve(&"edited".parse().unwrap()).unwrap();
    let table = store.read_manifest(&manifest).unwrap().blob_table;
    let blob = fixture.blob(&table);
    let right = fs::read(&blob).unwrap();
    fs::write(&blob, b"damaged").unwrap();
    let (_, message) = fail(&mut peerfs(&fixture.store(), "gc"));
    assert!(message.contains(&table.to_string()), "{message}");
    fs::write(&blob, right).unwrap();
    // Who fills the store is asked; here nobody listens.
    store.lock_for_filling().unwrap();
    let socket = fixture.folder.path().join("socket");
    let mut process = peerfs(&fixture.store(), "gc");
    let (_, message) = fail(process.arg("--socket").arg(&socket));
    assert!(message.contains("socket"), "{message}");
    assert_is(&fixture, "edited", &content);
}

#[test]
fn a_store_that_lost_its_catalogue_stores_nothing_twice() {
    let (fixture, content) = edited();
    fs::remove_dir_all(fixture.store().join("catalogue")).unwrap();
    let before = occupied(&fixture.store());
    let mut process = peerfs(&fixture.store(), "build");
    let output = process
        .arg(fixture.tree())
        .args(["--tag", "again"])
        .output();
    let output = output.unwrap();
    assert!(output.status.success());
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("is made anew"), "{told}");
    assert_eq!(occupied(&fixture.store()), before);
    // It is there from then on.
    let output = process.output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && !told.contains("anew"), "{told}");
    assert_is(&fixture, "again", &content);
}
