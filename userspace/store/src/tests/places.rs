// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Packs that share chunks: what is in the store is not asked for, and lies once.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use peerfs_format::{PlacesHeader, SLOTS_MAX, SLOT_SIZE};

use super::Source;
use crate::{Error, Pack, PackFiles, Store};

fn open(store: &Store, source: &Source) -> Arc<Pack> {
    store.pack(&source.record, source.index.clone()).unwrap()
}

/// Adopts all that can be, and returns what is missing.
fn adopt(pack: &Pack) -> Vec<u32> {
    pack.adopt(0..pack.record().chunk_count).unwrap().0
}

fn assert_is(pack: &Pack, source: &Source) {
    for (number, chunk) in source.chunks.iter().enumerate() {
        let stored = pack.read_chunk(number as u32).unwrap();
        assert_eq!(stored.as_ref(), Some(chunk), "chunk {number}");
    }
}

fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[test]
fn a_second_pack_takes_what_the_first_one_has_and_stores_the_rest() {
    let first = Source::new(40);
    let second = first.edited(|chunks| chunks[20] = vec![200; 9000]);
    let store = first.store();
    first.fill(&store);
    let before = store.usage().unwrap();

    let pack = open(&store, &second);
    assert_eq!(adopt(&pack), [20]);
    assert!(!pack.is_whole());
    assert!(pack.write_chunk(20, &second.chunks[20]).unwrap());
    assert!(pack.complete().unwrap() && pack.is_whole() && !pack.is_blob());
    assert_is(&pack, &second);
    let usage = store.usage().unwrap();
    assert_eq!(
        (usage.partial_packs, usage.placed_packs, usage.loose_files),
        (0, 1, 1)
    );
    assert_eq!(usage.blob_bytes, before.blob_bytes);
    assert!(usage.loose_bytes < 20_000, "{usage:?}");

    // The same after a restart, for a reader too, and for another index of nothing known.
    drop((pack, store));
    let store = first.store();
    let reader = store
        .find_pack(&second.record, second.index.clone())
        .unwrap()
        .unwrap();
    assert_is(&reader, &second);
    let PackFiles::Places { slots, .. } = reader.files(0..40).unwrap() else {
        panic!("it is no blob");
    };
    assert_eq!(slots.len(), 2);
    // A third one takes from both.
    let third = second.edited(|chunks| chunks[3] = vec![201; 9000]);
    let pack = open(&store, &third);
    assert_eq!(adopt(&pack), [3]);
    pack.write_chunk(3, &third.chunks[3]).unwrap();
    assert!(pack.complete().unwrap());
    assert_is(&pack, &third);
}

#[test]
fn what_is_mostly_new_goes_to_a_pack_of_its_own() {
    let first = Source::new(40);
    let second = first.edited(|chunks| {
        for (number, chunk) in chunks.iter_mut().enumerate().skip(5) {
            *chunk = vec![100 + number as u8; 7000];
        }
    });
    let store = first.store();
    // It is not whole, and found all the same.
    let one = open(&store, &first);
    one.write_chunk(2, &first.chunks[2]).unwrap();
    let pack = open(&store, &second);
    assert_eq!(adopt(&pack).len(), 39);
    for number in (0..40).filter(|number| *number != 2) {
        pack.write_chunk(number, &second.chunks[number as usize])
            .unwrap();
    }
    assert!(pack.complete().unwrap() && !pack.is_blob());
    let usage = store.usage().unwrap();
    assert_eq!((usage.partial_packs, usage.loose_files), (2, 0));
    assert_is(&pack, &second);
    // The first one becomes whole, and keeps the name by which the second one knows it.
    assert_eq!(adopt(&one), (5..40).collect::<Vec<_>>());
    for number in 5..40 {
        one.write_chunk(number, &first.chunks[number as usize])
            .unwrap();
    }
    assert_is(&one, &first);
    assert_is(&pack, &second);
    drop((one, pack, store));
    let store = first.store();
    assert_is(&open(&store, &second), &second);
}

#[test]
fn a_place_that_lies_is_no_byte() {
    let first = Source::new(10);
    let second = first.edited(|chunks| chunks[9] = vec![202; 9000]);
    type Lie = (&'static str, fn(&Source, &Source, &Path));
    let lies: [Lie; 6] = [
        ("the bytes are others", |first, _, root| {
            let blob = root.join(format!("blobs/sha256/{}", first.record.digest));
            let file = File::options().write(true).open(blob).unwrap();
            file.write_all_at(b"?", 6000).unwrap();
        }),
        ("another offset", |_, second, _| {
            entry(second, 1, |entry| entry + 1)
        }),
        ("behind the end", |_, second, _| {
            entry(second, 1, |entry| entry + (1 << 39))
        }),
        ("a slot that there is not", |_, second, _| {
            entry(second, 1, |entry| entry + (9 << 40))
        }),
        ("no file", |first, _, root| {
            fs::remove_file(root.join(format!("blobs/sha256/{}", first.record.digest))).unwrap();
        }),
        ("a table cut off", |_, second, _| {
            let file = File::options().write(true).open(second.table()).unwrap();
            file.set_len(PlacesHeader::place_offset(1)).unwrap();
        }),
    ];
    for (lie, tell) in lies {
        let store = first.store();
        let root = store.root_dir().to_owned();
        // Another folder's second pack is looked for by its own paths.
        let second = Source::of(second.chunks.clone()).in_folder(root.parent().unwrap());
        first.fill(&store);
        let pack = open(&store, &second);
        assert_eq!(adopt(&pack), [9]);
        pack.write_chunk(9, &second.chunks[9]).unwrap();
        drop((pack, store));
        tell(&first, &second, &root);
        let store = first.store();
        let pack = open(&store, &second);
        for (number, chunk) in second.chunks.iter().enumerate() {
            match pack.read_chunk(number as u32) {
                Ok(Some(stored)) => assert_eq!(&stored, chunk, "{lie}: {number}"),
                Ok(None) | Err(Error::ChunkDamaged { .. }) => (),
                Err(error) => panic!("{lie}: {error}"),
            }
        }
        // And it is mended.
        pack.discard_damaged(0..10).unwrap();
        for number in adopt(&pack) {
            pack.write_chunk(number, &second.chunks[number as usize])
                .unwrap();
        }
        assert!(pack.complete().unwrap(), "{lie}");
        assert_is(&pack, &second);
        drop((pack, store));
        fs::remove_dir_all(&root).unwrap();
    }
}

/// Changes the entry of a chunk in the table of a pack.
fn entry(source: &Source, chunk: u32, change: impl Fn(u64) -> u64) {
    let table = File::options()
        .read(true)
        .write(true)
        .open(source.table())
        .unwrap();
    let offset = PlacesHeader::place_offset(chunk);
    let mut bytes = [0; 8];
    table.read_exact_at(&mut bytes, offset).unwrap();
    let changed = change(u64::from_le_bytes(bytes));
    table.write_all_at(&changed.to_le_bytes(), offset).unwrap();
}

#[test]
fn a_table_has_no_more_slots_than_there_may_be() {
    // Each chunk of the last pack is in another pack.
    let parts: Vec<Source> = (0..100_u8)
        .map(|number| Source::of(vec![vec![number; 5000]]))
        .collect();
    let whole = Source::of(parts.iter().map(|part| part.chunks[0].clone()).collect());
    let store = whole.store();
    for part in &parts {
        part.fill(&store);
    }
    let pack = open(&store, &whole);
    assert!(adopt(&pack).is_empty());
    assert!(pack.complete().unwrap());
    assert_is(&pack, &whole);
    let table = fs::metadata(whole.table()).unwrap().len();
    assert!(table <= PlacesHeader::place_offset(100) + u64::from(SLOTS_MAX) * SLOT_SIZE as u64);
    assert!(entries(&whole.folder.path().join("store/loose")) > 0);
    drop((pack, store));
    assert_is(&open(&whole.store(), &whole), &whole);
}

#[test]
fn a_pack_is_made_whole_and_nobody_loses_a_chunk() {
    let first = Source::new(40);
    let second = first.edited(|chunks| chunks[20] = vec![200; 9000]);
    let third = second.edited(|chunks| chunks[3] = vec![201; 9000]);
    let store = first.store();
    first.fill(&store);
    second.adopt_and_fill(&store);
    third.adopt_and_fill(&store);
    let (image, other) = (second.image(&store), third.image(&store));
    store.make_whole(&image).unwrap();
    let blob = fs::read(store.blob_path(&second.record.digest)).unwrap();
    assert!(blob == second.chunks.concat() && !second.table().exists());
    for source in [&first, &second, &third] {
        source.assert_here(&store);
    }
    store.make_whole(&image).unwrap();
    // Of one that is not all here nothing is made.
    entry(&third, 5, |_| 0);
    let refused = store.make_whole(&other);
    assert!(
        matches!(refused, Err(Error::ChunkMissing { chunk: 5, .. })),
        "{refused:?}"
    );
    assert!(!store.has_blob(&third.record.digest) && third.table().exists());
}

#[test]
fn chunks_that_make_another_pack_are_found_out() {
    let first = Source::new(6);
    let store = first.store();
    first.fill(&store);
    // All chunks are there, but the index is not that of this pack.
    let mut record = first.record;
    record.digest = crate::sha256(b"another pack");
    let pack = store.pack(&record, first.index.clone()).unwrap();
    assert!(adopt(&pack).is_empty());
    for _ in 0..2 {
        assert!(matches!(pack.complete(), Err(Error::WrongIndex { .. })));
    }
    assert_is(&pack, &first);
    assert!(!pack.is_pack().unwrap());
    first.adopt_and_fill(&store);
    assert!(pack.read_chunk(3).unwrap().is_some());
}

/// Who has only the index of a pack is told what of it is in others, and reads it from there.
#[test]
fn a_lent_index_leads_to_what_other_packs_have() {
    let first = Source::new(40);
    let second = first.edited(|chunks| chunks[20] = vec![200; 9000]);
    let store = first.store();
    first.fill(&store);
    let lent = store
        .lent_pack(&second.record, second.index.clone())
        .unwrap();
    let mut expected = [0xff; 5];
    expected[2] = 0xef;
    assert_eq!(lent.presence().unwrap(), expected);
    for (number, chunk) in second.chunks.iter().enumerate() {
        let read = lent.read_chunk(number as u32).unwrap();
        assert_eq!(
            read.as_ref(),
            (number != 20).then_some(chunk),
            "chunk {number}"
        );
    }
    assert!(lent.read_chunk(40).is_err());
    assert!(
        store
            .find_pack(&second.record, second.index.clone())
            .unwrap()
            .is_none(),
        "nothing was made"
    );
    // What is not that index is refused.
    let error = store.lent_pack(&second.record, first.index.clone()).err();
    assert!(matches!(error, Some(Error::BlobDamaged(_))), "{error:?}");
}
