// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Collections: what images need stays, what they do not goes, whatever shares what.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::Source;
use crate::{Collect, Error, Store, Usage};

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
    let dry = store.collect(&[keep], Collect::DryRun).unwrap();
    assert!(
        store.has_blob(&first.record.digest) && dry.blobs == 1,
        "{dry:?}"
    );
    let done = store.collect(&[keep], Collect::Really).unwrap();
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
        store.collect(&[keep], Collect::Really).unwrap(),
        Default::default()
    );

    // The first one is fetched again: it goes on with what was left of it.
    let missing = first.adopt_and_fill(&store);
    assert!((20..30).contains(&missing.len()), "{missing:?}");
    first.assert_here(&store);
    second.assert_here(&store);

    // And nothing is left when nobody needs anything.
    store.collect(&[], Collect::Really).unwrap();
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
        .collect(&[images[0], images[2]], Collect::Really)
        .unwrap();
    assert!(fs::metadata(&loose).unwrap().blocks() < before);
    edits[0].assert_here(&store);
    edits[2].assert_here(&store);
    store.collect(&[], Collect::Really).unwrap();
    assert!(!loose.exists());
}

#[test]
fn who_fills_or_builds_keeps_collections_out_and_damage_gives_nothing_up() {
    let source = Source::new(5);
    let store = source.store();
    source.fill(&store);
    let other = Store::open(store.root_dir()).unwrap();
    assert!(matches!(
        other.collect(&[], Collect::Really),
        Err(Error::InUse(_))
    ));
    let building = other.lock_for_building().unwrap();
    assert!(matches!(
        store.collect(&[], Collect::Really),
        Err(Error::Locked(_))
    ));
    drop(building);
    let image = source.image(&store);
    fs::write(store.blob_path(&image), b"damaged").unwrap();
    assert!(matches!(
        store.collect(&[image], Collect::Really),
        Err(Error::BlobDamaged(_))
    ));
    assert!(store.has_blob(&source.record.digest));
}
