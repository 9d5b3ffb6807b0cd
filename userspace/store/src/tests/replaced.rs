// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Packs whose files somebody removes, replaces or damages while they are open.

use std::fs;
use std::sync::Arc;

use super::{only_file, Source};
use crate::{Error, Store};

#[test]
fn a_pack_being_filled_survives_that_its_file_is_removed_or_replaced() {
    for others in [None, Some(Vec::new()), Some(vec![7; 50_000])] {
        let source = Source::new(9);
        let store = source.store();
        let pack = source.full(&store);
        let partial = source.partial();
        fs::remove_file(&partial).unwrap();
        if let Some(others) = others {
            fs::write(&partial, others).unwrap();
        }
        assert!(pack.complete().unwrap());
        let blob = fs::read(store.blob_path(pack.digest())).unwrap();
        assert!(blob == source.chunks.concat());
        assert!(!partial.exists() && !source.table().exists());
        assert!(pack.read_chunk(3).unwrap().is_some());
    }
}

#[test]
fn what_is_in_the_way_of_a_pack_being_filled_stays_and_is_told() {
    let source = Source::new(3);
    let store = source.store();
    let pack = source.full(&store);
    let partial = source.partial();
    fs::remove_file(&partial).unwrap();
    fs::create_dir(&partial).unwrap();
    assert!(matches!(pack.complete(), Err(Error::NotARegularFile(path)) if path == partial));
    fs::remove_dir(&partial).unwrap();
    assert!(pack.complete().unwrap());
}

#[test]
fn a_whole_pack_is_judged_by_what_has_its_name() {
    let source = Source::new(9);
    let store = source.store();
    let pack = source.fill(&store);
    source.damage(&store, 5);
    let held = only_file(&pack);
    // Another process replaces it by a right one.
    store.add_blob(&source.chunks.concat()).unwrap();
    assert!(pack.read_chunk(5).is_err());
    pack.discard(5).unwrap();
    assert!(pack.is_whole() && !Arc::ptr_eq(&only_file(&pack), &held));
    assert_eq!(pack.read_chunk(5).unwrap(), Some(source.chunks[5].clone()));
    assert_eq!(store.placed_packs().unwrap(), []);

    // The file that is open is right, and what has the name is not.
    let blob = store.blob_path(pack.digest());
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, b"short").unwrap();
    pack.discard(5).unwrap();
    assert!(fs::read(&blob).unwrap() == source.chunks.concat());

    // Nothing has the name, and the file that is open is damaged.
    source.damage(&store, 5);
    fs::remove_file(&blob).unwrap();
    pack.discard(5).unwrap();
    assert_eq!(pack.presence(), [0b1101_1111, 1]);
}

#[test]
fn a_reader_finds_a_chunk_beside_the_whole_pack_that_is_damaged() {
    let source = Source::new(9);
    let store = source.store();
    drop(source.fill_and_mend_half(&store));

    let find = |store: &Store| {
        let found = store.find_pack(&source.record, source.index.clone());
        found.unwrap().unwrap()
    };
    // Who has found out that the whole pack is damaged goes by the partial one.
    assert_eq!(find(&store).read_chunk(6).unwrap(), None);
    drop(store);
    let store = source.store();
    let find = || find(&store);
    for right in [4, 5] {
        let chunk = &source.chunks[right as usize];
        assert_eq!(find().read_chunk(right).unwrap().as_ref(), Some(chunk));
    }
    assert!(matches!(
        find().read_chunk(6),
        Err(Error::ChunkDamaged { chunk: 6, .. })
    ));
    // Who fills packs sees that the whole one is damaged.
    drop(store);
    let store = source.store();
    let whole = store.blob_path(&source.record.digest);
    let damaged = fs::read(&whole).unwrap();
    let pack = source.full(&store);
    assert!(pack.complete().unwrap());
    fs::write(&whole, damaged).unwrap();
    assert!(pack.read_chunk(5).is_err());
}

#[test]
fn an_index_has_one_record() {
    let source = Source::new(9);
    let store = source.store();
    let pack = store.pack(&source.record, source.index.clone()).unwrap();
    let mut records = [source.record; 4];
    records[0].index_length += 1;
    records[1].stored_length += 1;
    records[2].logical_length += 1;
    records[3].chunk_count += 1;
    for record in records {
        let refused = store.pack(&record, source.index.clone());
        assert!(matches!(refused, Err(Error::Format { .. })));
    }
    let same = store.pack(&source.record, source.index.clone()).unwrap();
    assert!(Arc::ptr_eq(&pack, &same));
}
