// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Building upon an image that is not what it should be.

use std::fs;

use crate::fixture::{change, replace, Fixture};
use crate::running::{build, peerfs, succeed};
use peerfs_format::{Digest, PackRecord};
use peerfs_store::{sha256, Store};
use serde_json::Value;

/// Builds upon an image; returns the summary.
fn build_upon(fixture: &Fixture, base: &str) -> Value {
    build_upon_all(fixture, &[base])
}

/// Builds upon several images; returns the summary.
fn build_upon_all(fixture: &Fixture, bases: &[&str]) -> Value {
    fs::write(fixture.tree().join("new"), "new").unwrap();
    let mut process = peerfs(&fixture.store(), "build");
    process
        .arg(fixture.tree())
        .args(["--tag", "upon", "--json"])
        .args(bases.iter().flat_map(|base| ["--base", base]));
    serde_json::from_slice(&succeed(&mut process)).unwrap()
}

fn check(fixture: &Fixture) {
    let content = succeed(peerfs(&fixture.store(), "cat").args(["upon", "/file", "/new"]));
    assert!(content == [&fixture.content, &b"new"[..]].concat());
}

#[test]
fn a_whole_base_is_used() {
    let fixture = Fixture::new();
    let summary = build_upon(&fixture, "image");
    assert_eq!(summary["packs"], 2);
    assert_eq!(summary["unusable_base_chunks"], 0);
    check(&fixture);
}

#[test]
fn a_damaged_chunk_of_a_base_is_stored_anew() {
    let fixture = Fixture::new();
    change(&fixture.blob(&fixture.pack().0.digest), |bytes| {
        bytes[500_000] ^= 1
    });
    let summary = build_upon(&fixture, "image");
    check(&fixture);
    assert_eq!(summary["unusable_base_chunks"], 1);
    assert!(summary["stored_bytes"].as_u64().unwrap() < 1_200_000);
}

#[test]
fn what_is_damaged_in_one_base_is_taken_from_another() {
    let fixture = Fixture::new();
    // In another pack, since there is more in it, and built where nothing of it was.
    fs::write(fixture.tree().join("more"), "more").unwrap();
    let elsewhere = fixture.store().with_extension("elsewhere");
    let other = build(&fixture.tree(), &elsewhere, "other", &[]);
    for digest in Store::open(&elsewhere).unwrap().blobs().unwrap() {
        let name = format!("blobs/sha256/{digest}");
        fs::copy(elsewhere.join(name), fixture.blob(&digest)).unwrap();
    }
    fs::remove_file(fixture.tree().join("more")).unwrap();
    change(&fixture.blob(&fixture.pack().0.digest), |bytes| {
        bytes[500_000] ^= 1
    });
    let summary = build_upon_all(&fixture, &["image", &other]);
    check(&fixture);
    assert_eq!(summary["unusable_base_chunks"], 0);
    // Nothing was stored but the new file.
    assert_eq!(summary["packs"], 3);
}

#[test]
fn what_is_missing_of_a_base_is_stored_anew() {
    for blob_of in [
        |record: PackRecord| record.digest,
        |record: PackRecord| record.index_digest,
        |record: PackRecord| record.contents_digest,
    ] {
        for is_damaged in [false, true] {
            let fixture = Fixture::new();
            let record = fixture.pack().0;
            let blob = blob_of(record);
            if is_damaged {
                change(&fixture.blob(&blob), |bytes| bytes.truncate(100));
            } else {
                fs::remove_file(fixture.blob(&blob)).unwrap();
            }
            let summary = build_upon(&fixture, "image");
            check(&fixture);
            assert_eq!(
                summary["unusable_base_chunks"],
                u64::from(record.chunk_count)
            );
        }
    }
}

#[test]
fn a_part_of_a_pack_is_no_base() {
    let fixture = Fixture::new();
    drop(fixture.make_partial(2));
    build_upon(&fixture, "image");
    check(&fixture);
    let mut verify = peerfs(&fixture.store(), "verify");
    let findings: Value = serde_json::from_slice(&succeed(verify.arg("--json"))).unwrap();
    assert_eq!(findings["incomplete"]["upon"], Value::Null);
}

#[test]
fn contents_that_lie_change_nothing() {
    let fixture = Fixture::new();
    let record = fixture.pack().0;
    let store = Store::create(&fixture.store()).unwrap();
    let mut contents = fs::read(fixture.blob(&record.contents_digest)).unwrap();
    contents[..Digest::SIZE].copy_from_slice(&sha256(b"new").0);
    let (mut manifest, parsed) = fixture.read_manifest();
    let mut table = fs::read(fixture.blob(&parsed.blob_table)).unwrap();
    let add = |bytes: &[u8]| -> Digest { store.add_blob(bytes).unwrap() };
    replace(&mut table, &record.contents_digest.0, &add(&contents).0);
    replace(&mut manifest, &parsed.blob_table.0, &add(&table).0);
    let forged = add(&manifest).to_string();
    drop(store);
    let summary = build_upon(&fixture, &forged);
    check(&fixture);
    assert_eq!(summary["unusable_base_chunks"], 1);
    // What is right in it was used.
    assert!(summary["stored_bytes"].as_u64().unwrap() < 1_200_000);
    let alone = build(&fixture.tree(), &fixture.store(), "alone", &[]);
    assert_ne!(summary["manifest"], alone);
    // The pack is the other base's too, with other contents: an image names a pack once.
    let summary = build_upon_all(&fixture, &[&forged, "image"]);
    check(&fixture);
    assert_eq!(summary["packs"], 2);
}
