// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Collections: what images need stays, what they do not goes, whatever shares what.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::{Duration, Instant};

use peerfs_format::{DataFile, Digest, PackRecord, Place, PlacesHeader};

use super::source::{describe_named, image_of};
use super::Source;
use crate::{layout, sha256, Collect, Error, Keep, Store, Usage};

/// Bytes of all files of a store on the disk.
fn bytes(usage: &Usage) -> u64 {
    usage.blob_bytes + usage.partial_bytes + usage.loose_bytes
}

#[test]
fn a_pack_that_others_need_a_part_of_is_thinned_and_still_read() {
    let first = Source::with(60, 8000);
    let second = first.edited(|chunks| {
        chunks.truncate(40);
        chunks[20] = vec![200; 9000];
    });
    let store = first.store();
    first.fill(&store);
    let before = bytes(&store.usage().unwrap());
    second.adopt_and_fill(&store);
    // Nothing names an image: only what is kept by hand stays.
    let keep = second.image(&store);
    let dry = store
        .collect(&Keep::images([keep]), Collect::DryRun)
        .unwrap();
    assert!(
        store.has_blob(&first.record.digest) && dry.blobs == 1,
        "{dry:?}"
    );
    let done = store
        .collect(&Keep::images([keep]), Collect::Really)
        .unwrap();
    assert_eq!(
        (done.blobs, done.tables, done.thinned),
        (1, 0, 1),
        "{done:?}"
    );
    assert_eq!(dry, done, "what would be given up is what was");
    assert!(!store.has_blob(&first.record.digest), "blobs/ never lies");
    assert!(bytes(&store.usage().unwrap()) < before - 100_000);
    second.assert_here(&store);
    drop(store);
    let store = first.store();
    second.assert_here(&store);
    // Again it has nothing to do.
    assert_eq!(
        store
            .collect(&Keep::images([keep]), Collect::Really)
            .unwrap(),
        Default::default()
    );

    // The first one is fetched again: it goes on with what was left of it.
    let missing = first.adopt_and_fill(&store);
    assert!((20..30).contains(&missing.len()), "{missing:?}");
    first.assert_here(&store);
    second.assert_here(&store);

    // And nothing is left when nobody needs anything.
    store.collect(&Keep::default(), Collect::Really).unwrap();
    let usage = store.usage().unwrap();
    assert_eq!(
        (
            usage.blobs,
            usage.partial_packs,
            usage.loose_files,
            usage.placed_packs
        ),
        (0, 0, 0, 0)
    );
}

#[test]
fn loose_files_keep_what_is_needed_and_vanish_when_nothing_is() {
    let first = Source::with(50, 8000);
    let store = first.store();
    first.fill(&store);
    let edits: Vec<Source> = (0..3_u8)
        .map(|edit| {
            first.edited(|chunks| {
                for number in 0..12 {
                    chunks[usize::from(edit) * 12 + number] =
                        vec![100 + edit * 12 + number as u8; 9000];
                }
            })
        })
        .collect();
    for edit in &edits {
        edit.adopt_and_fill(&store);
    }
    let images: Vec<_> = edits.iter().map(|edit| edit.image(&store)).collect();
    drop(store);
    let store = first.store();
    let loose = fs::read_dir(store.root_dir().join("loose")).unwrap();
    let loose = loose.last().unwrap().unwrap().path();
    let before = fs::metadata(&loose).unwrap().blocks();
    store
        .collect(&Keep::images([images[0], images[2]]), Collect::Really)
        .unwrap();
    assert!(fs::metadata(&loose).unwrap().blocks() < before);
    edits[0].assert_here(&store);
    edits[2].assert_here(&store);
    store.collect(&Keep::default(), Collect::Really).unwrap();
    assert!(!loose.exists());
}

#[test]
fn who_fills_or_builds_keeps_collections_out_and_damage_gives_nothing_up() {
    let source = Source::new(5);
    let store = source.store();
    source.fill(&store);
    let other = Store::open(store.root_dir()).unwrap();
    assert!(matches!(
        other.collect(&Keep::default(), Collect::Really),
        Err(Error::InUse(_))
    ));
    let building = other.lock_for_building().unwrap();
    assert!(matches!(
        store.collect(&Keep::default(), Collect::Really),
        Err(Error::Locked(_))
    ));
    drop(building);
    let image = source.image(&store);
    fs::write(store.blob_path(&image), b"damaged").unwrap();
    assert!(matches!(
        store.collect(&Keep::images([image]), Collect::Really),
        Err(Error::BlobDamaged(_))
    ));
    assert!(store.has_blob(&source.record.digest));
}

/// Packs of which all chunks are in one loose file, as tables of places say; their image is named.
fn scattered_packs(store: &Store, packs: u32, chunks: u32) {
    let loose = store.root_dir().join(layout::loose(1));
    fs::File::create(loose).unwrap().set_len(1 << 28).unwrap();
    let digest =
        |pack: u32, chunk: u32| sha256(&[pack.to_le_bytes(), chunk.to_le_bytes()].concat());
    let records: Vec<PackRecord> = (0..packs)
        .map(|pack| {
            let named = (0..chunks).map(|chunk| (digest(pack, chunk), 4096));
            let (record, index) = describe_named(digest(pack, chunks), named);
            store.add_blob(&index).unwrap();
            let header = PlacesHeader {
                chunk_count: chunks,
                generation: 1,
                pack: record.digest,
                index: record.index_digest,
            };
            let mut table = Vec::new();
            header.write_to(|piece| table.extend_from_slice(piece));
            for chunk in 0..chunks {
                let offset = u64::from(chunk) * 8192;
                table.extend(Place { slot: 0, offset }.to_entry().to_le_bytes());
            }
            DataFile::Loose(1).write_to(|piece| table.extend_from_slice(piece));
            let path = layout::places(&record.digest, &record.index_digest);
            fs::write(store.root_dir().join(path), table).unwrap();
            record
        })
        .collect();
    let manifest: Digest = image_of(store, &records);
    store.remember_image(&manifest, 1).unwrap();
}

#[test]
fn who_fills_packs_does_not_wait_until_all_is_read() {
    let filled = Source::with(250, 100);
    let store = filled.store();
    scattered_packs(&store, 150, 2000);
    let manifest = filled.image(&store);
    store.remember_image(&manifest, 1).unwrap();
    let mut tries = Vec::new();
    for _ in 0..3 {
        let pack = store.pack(&filled.record, filled.index.clone()).unwrap();
        let (mut longest, mut written) = (Duration::ZERO, 0);
        let took = thread::scope(|scope| {
            let collection = scope.spawn(|| {
                let begun = Instant::now();
                store.collect(&Keep::default(), Collect::Really).unwrap();
                begun.elapsed()
            });
            for (number, chunk) in (0..).zip(&filled.chunks) {
                let begun = Instant::now();
                pack.discard(number).unwrap();
                pack.write_chunk(number, chunk).unwrap();
                if !collection.is_finished() {
                    longest = longest.max(begun.elapsed());
                    written += 1;
                }
                thread::sleep(Duration::from_millis(2));
            }
            collection.join().unwrap()
        });
        filled.assert_here(&store);
        tries.push((took, longest, written));
        // The machine may have other things to do.
        if longest < Duration::from_millis(100).min(took / 2) && written > 10 {
            return;
        }
    }
    panic!("collections took, writes waited, and were: {tries:?}");
}
