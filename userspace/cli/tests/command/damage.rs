// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Damaged and incomplete stores, through the command line.

use std::fs;
use std::sync::Arc;

use crate::fixture::{bytes_of, change, replace, Fixture};
use crate::running::{build, fail, peerfs, succeed};
use peerfs_format::{InodeRecord, Root, ShardLayout, SpanRecord};
use peerfs_store::{Image, Store};
use serde_json::Value;

#[test]
fn every_damaged_blob_is_found() {
    let fixture = Fixture::new();
    succeed(peerfs(&fixture.store(), "verify").arg("--complete"));
    let blobs = fixture.blobs();
    // Manifest, blob table, shard, index, contents, pack; an OCI index and two manifests, with their configurations and
    // a layer.
    assert_eq!(blobs.len(), 12);
    for digest in blobs {
        let path = fixture.blob(&digest);
        let flip = |bytes: &mut Vec<u8>| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        };
        for damage in [
            Box::new(flip) as Box<dyn FnOnce(&mut Vec<u8>)>,
            Box::new(|bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 1)),
            Box::new(|bytes: &mut Vec<u8>| bytes.fill(0)),
            Box::new(Vec::clear),
        ] {
            let before = change(&path, damage);
            let findings = fixture.verify_fails();
            let damages = findings["damages"].as_array().unwrap();
            assert_eq!(damages.len(), 1, "{damages:?}");
            assert_eq!(damages[0]["blob"], digest.to_string());
            let images = damages[0]["images"].as_array().unwrap();
            // Nothing names what the OCI index leads to but that.
            assert!(images.len() <= 1);
            assert!(images.iter().all(|image| image == "image"));
            fs::write(&path, before).unwrap();
        }
    }
    succeed(peerfs(&fixture.store(), "verify").arg("--complete"));
}

#[test]
fn a_damaged_pack_is_not_read_and_mended_by_building_again() {
    let fixture = Fixture::new();
    let (pack, _) = fixture.pack();
    change(&fixture.blob(&pack.digest), |bytes| bytes[500_000] ^= 1);
    assert!(fixture.cat_fails().contains("damaged"));
    let tree = fixture.folder.path().join("tree");
    build(&tree, &fixture.store(), "image", &[]);
    let content = succeed(peerfs(&fixture.store(), "cat").args(["image", "file"]));
    assert!(content == fixture.content);
}

#[test]
fn what_is_missing_is_no_damage() {
    let fixture = Fixture::new();
    let (pack, _) = fixture.pack();
    let table = fixture.blob(&fixture.read_manifest().1.blob_table);
    for missing in [&table, &fixture.blob(&pack.digest)] {
        let content = fs::read(missing).unwrap();
        fs::remove_file(missing).unwrap();
        let output = succeed(peerfs(&fixture.store(), "verify").arg("--json"));
        let findings: Value = serde_json::from_slice(&output).unwrap();
        assert_eq!(findings["incomplete"]["image"], 1);
        fs::write(missing, content).unwrap();
    }
    fs::remove_file(fixture.blob(&pack.digest)).unwrap();
    fail(peerfs(&fixture.store(), "verify").arg("--complete"));
    assert!(fixture.cat_fails().contains("not in the store"));
    // The metadata is there.
    let names = succeed(peerfs(&fixture.store(), "ls").arg("image"));
    assert_eq!(names, b"file\n");
}

#[test]
fn contents_that_are_missing_are_only_noted() {
    let fixture = Fixture::new();
    let contents = fixture.blob(&fixture.pack().0.contents_digest);
    let bytes = fs::read(&contents).unwrap();
    fs::remove_file(&contents).unwrap();
    let output = succeed(peerfs(&fixture.store(), "verify").args(["--complete", "--json"]));
    let findings: Value = serde_json::from_slice(&output).unwrap();
    assert_eq!(findings["incomplete"], serde_json::json!({}));
    assert_eq!(findings["without_contents"]["image"], 1);
    let output = succeed(&mut peerfs(&fixture.store(), "verify"));
    let output = String::from_utf8(output).unwrap();
    assert!(
        output.contains("1 packs without their contents"),
        "{output}"
    );
    let inspect = succeed(peerfs(&fixture.store(), "inspect").args(["image", "--json"]));
    let inspection: Value = serde_json::from_slice(&inspect).unwrap();
    assert_eq!(inspection["complete"], true);
    fs::write(&contents, bytes).unwrap();
    let output = succeed(peerfs(&fixture.store(), "verify").arg("--json"));
    let findings: Value = serde_json::from_slice(&output).unwrap();
    assert_eq!(findings["without_contents"], serde_json::json!({}));
}

#[test]
fn a_root_directory_that_is_not_the_one_of_its_shard_is_found() {
    let fixture = Fixture::new();
    let (mut bytes, manifest) = fixture.read_manifest();
    // Others may write.
    let Root::Plain(root) = manifest.root else {
        panic!("it is encrypted");
    };
    let record = bytes_of(&root);
    let forged = bytes_of(&InodeRecord {
        mode: root.mode ^ 0o002,
        ..root
    });
    replace(&mut bytes, &record, &forged);
    assert!(fixture.only_problem_with(&bytes).contains("root directory"));
}

#[test]
fn spans_that_do_not_follow_each_other_are_found() {
    let fixture = Fixture::new();
    let (mut bytes, manifest) = fixture.read_manifest();
    let image = Image::open(
        Arc::new(Store::open(&fixture.store()).unwrap()),
        &fixture.manifest,
    );
    let image = image.unwrap();
    let record = image.blob_table().shard(0).unwrap();
    let first_shard = record.digest;
    let mut shard = fs::read(fixture.blob(&first_shard)).unwrap();
    let span = ShardLayout::parse(&shard, &record)
        .unwrap()
        .view(&shard)
        .spans(&image.root_record().unwrap())
        .unwrap()
        .get(0)
        .unwrap();
    let moved = SpanRecord {
        entries_before: 1,
        ..span
    };
    replace(&mut shard, &bytes_of(&span), &bytes_of(&moved));
    let store = Store::create(&fixture.store()).unwrap();
    let mut table = fs::read(fixture.blob(&manifest.blob_table)).unwrap();
    let forged = store.add_blob(&shard).unwrap();
    replace(&mut table, &first_shard.0, &forged.0);
    let forged = store.add_blob(&table).unwrap();
    replace(&mut bytes, &manifest.blob_table.0, &forged.0);
    assert!(fixture.only_problem_with(&bytes).contains("span table"));
}

#[test]
fn a_partial_pack_is_checked_chunk_by_chunk() {
    let fixture = Fixture::new();
    let (record, _) = fixture.pack();
    let pack = fixture.make_partial(2);
    let chunk = pack.chunk(2).unwrap();
    succeed(peerfs(&fixture.store(), "verify").arg("--json"));
    let (content, _) = fail(peerfs(&fixture.store(), "cat").args(["image", "/file"]));
    assert!(content == fixture.content[..chunk.logical_offset as usize]);

    let other = pack.chunk(5).unwrap();
    let name = format!("partial/{}-{}", record.digest, record.index_digest);
    let path = fixture.store().join(name);
    change(&path, |bytes| bytes[other.stored_offset as usize] ^= 1);
    let findings = fixture.verify_fails();
    let damages = findings["damages"].as_array().unwrap();
    assert_eq!(damages.len(), 1, "{damages:?}");
    assert_eq!(damages[0]["blob"], record.digest.to_string());
    assert_eq!(findings["incomplete"]["image"], 1);
}

#[test]
fn what_is_mended_beside_a_damaged_pack_is_read_and_checked() {
    let fixture = Fixture::new();
    let (record, index) = fixture.pack();
    let store = Store::create(&fixture.store()).unwrap();
    let pack = store.pack(&record, index).unwrap();
    let chunk = pack.chunk(2).unwrap();
    let right = pack.read_chunk(2).unwrap().unwrap();
    change(&fixture.blob(&record.digest), |bytes| {
        bytes[chunk.stored_offset as usize] ^= 1
    });
    pack.discard(2).unwrap();
    pack.write_chunk(2, &right).unwrap();
    drop((pack, store));
    let content = succeed(peerfs(&fixture.store(), "cat").args(["image", "/file"]));
    assert!(content == fixture.content);
    let findings = fixture.verify_fails();
    assert_eq!(findings["damages"].as_array().unwrap().len(), 1);
    assert_eq!(findings["partial_chunks"], record.chunk_count);
    assert_eq!(findings["incomplete"], serde_json::json!({}));

    let name = format!("partial/{}-{}", record.digest, record.index_digest);
    change(&fixture.store().join(name), |bytes| bytes[0] ^= 1);
    let findings = fixture.verify_fails();
    assert_eq!(findings["damages"].as_array().unwrap().len(), 2);
}

#[test]
fn messages_say_what_to_do() {
    let fixture = Fixture::new();
    let (_, message) = fail(peerfs(&fixture.store(), "ls").arg("other"));
    assert!(message.contains("there are: \"image\""), "{message}");
    let (_, message) = fail(peerfs(&fixture.store(), "ls").args(["image", "/nowhere"]));
    assert!(message.contains("/nowhere: no such file"), "{message}");
    let tree = fixture.folder.path().join("tree");
    let (_, message) = fail(peerfs(&tree, "ls").arg("image"));
    assert!(message.contains("--root-dir"), "{message}");
    let (_, message) = fail(peerfs(&tree, "build").arg(&tree).args(["--tag", "x"]));
    assert!(message.contains("not empty"), "{message}");
    let inside = tree.join("store");
    let (_, message) = fail(peerfs(&inside, "build").arg(&tree).args(["--tag", "x"]));
    assert!(message.contains("inside the tree"), "{message}");
    let usage = peerfs(&fixture.store(), "ls").output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
}
