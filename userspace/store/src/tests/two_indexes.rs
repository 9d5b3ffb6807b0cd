// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Two images that pair one pack with different indexes, of which one may lie.

use std::fs;

use peerfs_format::PackRecord;

use super::{describe, Source};
use crate::Error;

/// Another index for the pack of a source, by which it is shorter and other bytes.
fn lie_about(source: &Source) -> (PackRecord, Vec<u8>, Vec<Vec<u8>>) {
    let chunks = vec![vec![200; 3000], vec![201; 4000]];
    let (record, index) = describe(&source.chunks.concat(), &chunks);
    (record, index, chunks)
}

#[test]
fn what_one_index_fills_another_neither_cuts_nor_counts() {
    let source = Source::new(9);
    let (record, index, chunks) = lie_about(&source);
    let store = source.store();
    let pack = store.pack(&source.record, source.index.clone()).unwrap();
    pack.write_chunk(0, &source.chunks[0]).unwrap();
    pack.write_chunk(8, &source.chunks[8]).unwrap();

    let other = store.pack(&record, index.clone()).unwrap();
    assert_eq!(other.presence(), [0]);
    other.write_chunk(0, &chunks[0]).unwrap();
    // All that the other index wants is there, and yet it is not the pack.
    assert!(other.write_chunk(1, &chunks[1]).unwrap());
    for _ in 0..2 {
        assert!(matches!(other.complete(), Err(Error::WrongIndex { .. })));
    }
    assert!(other.read_chunk(1).unwrap().is_some());
    assert!(!store.has_blob(pack.digest()));

    assert_eq!(pack.presence(), [1, 1]);
    for number in [0, 8] {
        let stored = pack.read_chunk(number).unwrap();
        assert_eq!(stored, Some(source.chunks[number as usize].clone()));
    }
    drop((pack, other));
    let pack = store.pack(&source.record, source.index.clone()).unwrap();
    assert_eq!(pack.presence(), [1, 1]);
    assert!(pack.read_chunk(8).unwrap().is_some());
}

#[test]
fn a_whole_pack_is_not_given_up_because_an_index_lies() {
    let source = Source::new(9);
    let (record, index, _) = lie_about(&source);
    let store = source.store();
    source.fill(&store);
    let content = source.chunks.concat();

    let other = store.pack(&record, index.clone()).unwrap();
    assert!(other.read_chunk(0).is_err());
    for _ in 0..2 {
        let refused = other.discard(0);
        assert!(
            matches!(refused, Err(Error::WrongIndex { .. })),
            "{refused:?}"
        );
    }
    assert!(fs::read(store.blob_path(&record.digest)).unwrap() == content);
    assert_eq!(store.placed_packs().unwrap(), []);

    // Even a damaged one is only replaced by one that is right.
    source.damage(&store, 5);
    let damaged = fs::read(store.blob_path(&record.digest)).unwrap();
    drop((other, store));
    let store = source.store();
    let (record, index, chunks) = lie_about(&source);
    let other = store.pack(&record, index).unwrap();
    other.discard(0).unwrap();
    for (number, chunk) in chunks.iter().enumerate() {
        other.write_chunk(number as u32, chunk).unwrap();
    }
    assert!(matches!(other.complete(), Err(Error::WrongIndex { .. })));
    assert!(fs::read(store.blob_path(&record.digest)).unwrap() == damaged);
    // The right index makes it whole.
    let pack = store.pack(&source.record, source.index.clone()).unwrap();
    pack.discard(5).unwrap();
    assert!(pack.write_chunk(5, &source.chunks[5]).unwrap());
    assert!(pack.complete().unwrap());
    assert!(fs::read(store.blob_path(&record.digest)).unwrap() == content);
}

#[test]
fn whoever_only_reads_makes_nothing() {
    let source = Source::new(3);
    let store = source.store();
    assert!(store
        .find_pack(&source.record, source.index.clone())
        .unwrap()
        .is_none());
    assert_eq!(store.placed_packs().unwrap(), []);
    source.fill(&store);
    let reader = store
        .find_pack(&source.record, source.index.clone())
        .unwrap()
        .unwrap();
    source.damage(&store, 1);
    assert!(reader.discard(1).is_err() && reader.write_chunk(1, &source.chunks[1]).is_err());
    assert!(store.has_blob(&source.record.digest));
    assert_eq!(store.placed_packs().unwrap(), []);
}
