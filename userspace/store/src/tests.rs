// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Stores: filling packs in any order, twice, from many threads, over restarts, on a full disk; blobs
//! and tags; what others have put there.

mod collect;
mod evicted;
mod hostile;
mod places;
mod rebuilt;
mod replaced;
mod source;
mod stub;
mod tags;
mod traces;
mod two_indexes;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use peerfs_format::{Digest, PackRecord};

use crate::{sha256, Error, Store};
use source::{describe, Source};

/// The one file that all chunks of a pack are in which are here.
fn only_file(pack: &crate::Pack) -> Arc<File> {
    match pack.files(0..pack.record().chunk_count).unwrap() {
        crate::PackFiles::Whole(file) => file,
        crate::PackFiles::Places { slots, .. } => {
            assert_eq!(slots.len(), 1);
            slots[0].1.clone()
        }
    }
}

#[test]
fn a_pack_is_one_object_whatever_is_said_of_its_contents() {
    let source = Source::new(3);
    let store = source.store();
    let pack = store.pack(&source.record, source.index.clone()).unwrap();
    let other = PackRecord {
        contents_digest: Digest([7; Digest::SIZE]),
        ..source.record
    };
    let again = store.pack(&other, source.index.clone()).unwrap();
    assert!(Arc::ptr_eq(&pack, &again));
}

#[test]
fn a_pack_of_which_all_is_there_becomes_a_blob() {
    let source = Source::new(9);
    let store = source.store();
    let pack = store.pack(&source.record, source.index.clone()).unwrap();
    for number in [8, 0, 4, 4, 1, 2, 3, 5, 7] {
        assert!(!pack
            .write_chunk(number, &source.chunks[number as usize])
            .unwrap());
    }
    assert_eq!(pack.presence(), [0b1011_1111, 1]);
    assert!(pack.has(8) && !pack.has(6) && !pack.has(9));
    assert_eq!(pack.read_chunk(6).unwrap(), None);
    assert_eq!(
        pack.present_bytes(),
        source.record.stored_length - source.chunks[6].len() as u64
    );
    assert!(!store.has_blob(pack.digest()));
    let file = only_file(&pack);
    // Who waits for the last chunk does not wait until all of the pack was read again.
    assert!(pack.write_chunk(6, &source.chunks[6]).unwrap());
    assert!(pack.is_whole() && !store.has_blob(pack.digest()));
    assert!(!pack.write_chunk(6, &source.chunks[6]).unwrap());
    assert!(pack.complete().unwrap() && pack.complete().unwrap());
    assert!(store.has_blob(pack.digest()) && pack.is_whole());
    assert_eq!(pack.presence(), [0xff, 1]);
    assert!(!source.table().exists());
    // Who got the file before still has it.
    let mut first = vec![1; source.chunks[0].len()];
    file.read_exact_at(&mut first, 0).unwrap();
    assert_eq!(first, source.chunks[0]);
    assert_eq!(pack.read_chunk(6).unwrap(), Some(source.chunks[6].clone()));
}

#[test]
fn wrong_chunks_are_refused() {
    let source = Source::new(3);
    let store = source.store();
    let pack = store.pack(&source.record, source.index.clone()).unwrap();
    let chunks = &source.chunks;
    for (number, wrong) in [
        (0, &chunks[1]),
        (1, &chunks[1][1..].to_vec()),
        (2, &Vec::new()),
    ] {
        let refused = pack.write_chunk(number, wrong);
        assert!(matches!(refused, Err(Error::ChunkDamaged { .. })));
        assert!(!pack.has(number));
    }
    assert!(matches!(
        pack.write_chunk(3, &chunks[0]),
        Err(Error::Format { .. })
    ));
    let mut index = source.index.clone();
    index[100] ^= 1;
    let refused = store.find_pack(&source.record, index);
    assert!(matches!(refused, Err(Error::BlobDamaged(_))));
}

#[test]
fn what_was_filled_is_there_after_a_restart() {
    let source = Source::new(9);
    {
        let store = source.store();
        let pack = store.pack(&source.record, source.index.clone()).unwrap();
        pack.write_chunk(3, &source.chunks[3]).unwrap();
        // Only one process fills packs.
        let other = source.store().pack(&source.record, source.index.clone());
        assert!(matches!(other, Err(Error::InUse(_))));
        let same = store.pack(&source.record, source.index.clone()).unwrap();
        assert!(Arc::ptr_eq(&pack, &same));
    }
    let store = source.store();
    let reader = store.find_pack(&source.record, source.index.clone());
    let reader = reader.unwrap().unwrap();
    assert_eq!(
        reader.read_chunk(3).unwrap(),
        Some(source.chunks[3].clone())
    );
    assert_eq!(reader.read_chunk(4).unwrap(), None);
    let names = (source.record.digest, source.record.index_digest);
    assert_eq!(store.placed_packs().unwrap(), [names]);
    // A table that is not this pack's says nothing, and is made anew.
    fs::write(source.table(), b"nonsense").unwrap();
    let pack = store.pack(&source.record, source.index.clone()).unwrap();
    assert_eq!(pack.presence(), [0, 0]);
}

#[test]
fn a_full_table_over_damaged_chunks_is_corrected() {
    let source = Source::new(9);
    {
        let store = source.store();
        let pack = store.pack(&source.record, source.index.clone()).unwrap();
        for number in 0..8 {
            pack.write_chunk(number, &source.chunks[usize::from(number as u8)])
                .unwrap();
        }
        let partial = source.partial();
        let file = File::options().write(true).open(partial).unwrap();
        file.write_all_at(b"?", 0).unwrap();
        assert!(matches!(
            pack.read_chunk(0),
            Err(Error::ChunkDamaged { chunk: 0, .. })
        ));
        // The last chunk completes nothing, since the whole has not the pack's digest.
        assert!(pack.write_chunk(8, &source.chunks[8]).unwrap());
        assert!(!pack.complete().unwrap());
        assert_eq!(pack.presence(), [0b1111_1110, 1]);
        assert!(pack.write_chunk(0, &source.chunks[0]).unwrap());
        assert!(!source.store().has_blob(&source.record.digest));
    }
    // The process ended before it was completed: whoever opens it next does that.
    drop(source.store().pack(&source.record, source.index.clone()));
    assert!(source.store().has_blob(&source.record.digest));
}

#[test]
fn a_damaged_chunk_is_fetched_anew() {
    let source = Source::new(9);
    let store = source.store();
    let pack = source.fill(&store);
    source.damage(&store, 5);
    assert!(matches!(
        pack.read_chunk(5),
        Err(Error::ChunkDamaged { chunk: 5, .. })
    ));
    pack.discard(5).unwrap();
    assert!(!pack.has(5) && pack.has(4));
    assert_eq!(pack.read_chunk(5).unwrap(), None);
    assert_eq!(pack.read_chunk(4).unwrap(), Some(source.chunks[4].clone()));
    // Whoever opens it from now on has what was right too.
    assert!(pack.write_chunk(5, &source.chunks[5]).unwrap());
    let file = only_file(&pack);
    assert!(pack.complete().unwrap());
    let content = fs::read(store.blob_path(pack.digest())).unwrap();
    assert!(content == source.chunks.concat());
    assert!(!source.table().exists());
    // It is still the same file.
    let record = pack.chunk(5).unwrap();
    let mut stored = vec![0; record.stored_length as usize];
    file.read_exact_at(&mut stored, record.stored_offset.into())
        .unwrap();
    assert_eq!(stored, source.chunks[5]);
}

#[test]
fn a_pack_that_was_found_damaged_is_no_blob_until_it_is_mended() {
    let source = Source::new(9);
    let store = source.store();
    let pack = source.fill(&store);
    source.damage(&store, 5);
    source.damage(&store, 6);
    assert!(store.has_blob(pack.digest()), "nobody has looked");
    assert!(pack.discard_damaged(0..9).unwrap());
    assert!(!store.has_blob(pack.digest()));
    assert_eq!(pack.presence(), [0b1001_1111, 1]);
    // Whoever opens it, to read or to fill it, by this index or another, gets what is right of it.
    let open = |store: &Store| store.pack(&source.record, source.index.clone());
    let reader = store.find_pack(&source.record, source.index.clone());
    assert_eq!(reader.unwrap().unwrap().presence(), [0b1001_1111, 1]);
    drop(pack);
    let pack = open(&store).unwrap();
    assert_eq!(pack.presence(), [0b1001_1111, 1]);
    assert!(!pack.discard_damaged(0..9).unwrap());
    pack.write_chunk(5, &source.chunks[5]).unwrap();
    assert!(pack.write_chunk(6, &source.chunks[6]).unwrap());
    assert!(pack.complete().unwrap() && store.has_blob(pack.digest()));
    // Or until somebody else has mended it.
    source.damage(&store, 5);
    assert!(pack.discard_damaged(0..9).unwrap() && !store.has_blob(pack.digest()));
    store.add_blob(&source.chunks.concat()).unwrap();
    assert!(store.has_blob(pack.digest()));
    drop(pack);
    assert!(open(&store).unwrap().is_whole());
}

#[test]
fn a_damaged_pack_is_mended_over_a_restart() {
    let source = Source::new(9);
    {
        let store = source.store();
        let pack = source.fill_and_mend_half(&store);
        assert_eq!(pack.presence(), [0b1011_1111, 1]);
    }
    // The damaged one is still called whole; what was mended is remembered, and goes on without being asked.
    let store = source.store();
    let pack = store.pack(&source.record, source.index.clone()).unwrap();
    assert!(!pack.is_whole());
    assert_eq!(pack.presence(), [0b1011_1111, 1]);
    assert_eq!(pack.read_chunk(6).unwrap(), None);
    assert!(pack.write_chunk(6, &source.chunks[6]).unwrap());
    assert!(pack.complete().unwrap());
    assert!(pack.read_chunk(5).unwrap().is_some());
}

#[test]
fn nothing_is_left_of_a_partial_pack_when_the_whole_one_came_in_another_way() {
    let source = Source::new(9);
    let store = source.store();
    let pack = store.pack(&source.record, source.index.clone()).unwrap();
    pack.write_chunk(5, &source.chunks[5]).unwrap();
    drop((pack, store));
    let store = source.store();
    store.add_blob(&source.chunks.concat()).unwrap();
    let pack = store.pack(&source.record, source.index.clone()).unwrap();
    assert!(pack.is_whole() && !source.table().exists());
    assert_eq!(store.placed_packs().unwrap(), []);
}

#[test]
fn a_full_pack_that_can_not_get_its_name_can_be_read() {
    let source = Source::new(3);
    let store = source.store();
    let blob = store.blob_path(&source.record.digest);
    fs::create_dir(&blob).unwrap();
    let pack = store.pack(&source.record, source.index.clone()).unwrap();
    for (number, chunk) in source.chunks.iter().enumerate() {
        pack.write_chunk(number as u32, chunk).unwrap();
    }
    assert!(pack.complete().is_err());
    drop((pack, store));
    let store = source.store();
    let pack = store.pack(&source.record, source.index.clone()).unwrap();
    assert!(pack.read_chunk(2).unwrap().is_some());
    drop(pack);
    fs::remove_dir(&blob).unwrap();
    store.pack(&source.record, source.index.clone()).unwrap();
    assert!(store.has_blob(&source.record.digest));
}

#[test]
fn many_threads_fill_one_pack() {
    let source = Source::new(100);
    let store = source.store();
    let pack = store.pack(&source.record, source.index.clone()).unwrap();
    thread::scope(|scope| {
        for thread in 0..4 {
            let (pack, chunks) = (&pack, &source.chunks);
            scope.spawn(move || {
                for step in 0..100 {
                    // Each thread in another order.
                    let number = (step * 7 + thread * 25) % 100;
                    if pack.write_chunk(number as u32, &chunks[number]).unwrap() {
                        assert!(pack.complete().unwrap());
                    }
                    assert!(pack.read_chunk(number as u32).unwrap().is_some());
                }
            });
        }
    });
    assert!(store.has_blob(pack.digest()));
}

#[test]
fn a_full_disk_leaves_the_pack_as_it_was() {
    // /dev/full stands for the pack's file.
    let source = Source::new(9);
    let store = source.store();
    let pack = store.pack(&source.record, source.index.clone()).unwrap();
    pack.write_chunk(0, &source.chunks[0]).unwrap();
    pack.replace_file(
        File::options()
            .read(true)
            .write(true)
            .open("/dev/full")
            .unwrap(),
    );
    let failed = pack.write_chunk(1, &source.chunks[1]).unwrap_err();
    assert!(failed.is_disk_full(), "{failed}");
    assert!(!pack.has(1) && pack.has(0));
    drop(pack);
    let pack = store.pack(&source.record, source.index.clone()).unwrap();
    assert_eq!(pack.presence(), [1, 0]);
    assert_eq!(pack.read_chunk(0).unwrap(), Some(source.chunks[0].clone()));
}

#[test]
fn a_store_is_only_made_where_nothing_is() {
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &Path| Store::open(path).map(|_| ());
    assert!(matches!(open(folder.path()), Err(Error::NotAStore(_))));
    fs::write(folder.path().join("precious"), b"data").unwrap();
    let refused = Store::create(folder.path()).map(|_| ());
    assert!(matches!(refused, Err(Error::NotEmpty(_))));
    let store = Store::create(&folder.path().join("new")).unwrap();
    assert!(open(store.root_dir()).is_ok());
    let digest = store.add_blob(b"metadata").unwrap();
    assert_eq!(store.read_metadata(&digest, 8).unwrap(), b"metadata");
    let refused = store.read_metadata(&digest, 7);
    assert!(matches!(
        refused,
        Err(Error::BlobTooLarge {
            length: 8,
            limit: 7,
            ..
        })
    ));
    let refused = store.put_blob(&digest, b"other");
    assert!(matches!(refused, Err(Error::Mismatch { .. })));
    // A damaged blob is refused, and replaced by a right one.
    fs::write(store.blob_path(&digest), b"metadat!").unwrap();
    let refused = store.read_metadata(&digest, 8);
    assert!(matches!(refused, Err(Error::BlobDamaged(_))));
    store.put_blob(&digest, b"metadata").unwrap();
    assert_eq!(store.read_metadata(&digest, 8).unwrap(), b"metadata");
    // Writing leaves nothing behind, and nothing appears before its end.
    let mut writer = store.blob_writer().unwrap();
    writer.append(b"half").unwrap();
    drop(writer);
    assert_eq!(store.blobs().unwrap(), [digest]);
    assert_eq!(
        fs::read_dir(store.root_dir().join("tmp")).unwrap().count(),
        0
    );
}

#[test]
fn directories_that_are_missing_are_empty_and_made_when_needed() {
    let source = Source::new(3);
    let store = source.store();
    let digest = source.fill(&store).record().digest;
    drop(store);
    let root_dir = source.folder.path().join("store");
    for name in ["partial", "places", "loose", "tmp", "blobs"] {
        fs::remove_dir_all(root_dir.join(name)).unwrap();
    }
    let store = Store::open(&root_dir).unwrap();
    assert_eq!(store.blobs().unwrap(), []);
    assert_eq!(store.placed_packs().unwrap(), []);
    assert_eq!(store.usage().unwrap(), crate::Usage::default());
    assert!(!store.has_blob(&digest));
    crate::verify(
        &Arc::new(Store::open(&root_dir).unwrap()),
        &[],
        &Default::default(),
    )
    .unwrap();
    assert!(!root_dir.join("tmp").exists());
    source.fill(&store);
    assert!(store.has_blob(&digest));
}

#[test]
fn tags_name_images() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path()).unwrap();
    let image = |manifest: &'static [u8]| crate::ImageBlobs {
        manifest,
        blob_table: store.add_blob(b"packs and shards").unwrap(),
        blob_table_length: 16,
        shards: &[],
        packs: &[],
    };
    let [first, second] =
        [b"first".as_slice(), b"second"].map(|blob| store.add_blob(blob).unwrap());
    let tag = |name: &str| -> crate::Tag { name.parse().unwrap() };
    let write = |manifest: &'static [u8], name: &str| {
        let unknown = crate::Architecture::unknown();
        let config = crate::RuntimeConfig::default();
        crate::write_image(&store, &image(manifest), &unknown, &config, &tag(name)).unwrap()
    };
    let oci = write(b"first", "stable");
    write(b"first", "old");
    write(b"second", "stable");
    let third = store.add_blob(b"third").unwrap();
    for _ in 0..2 {
        store.remember_image(&third, 5).unwrap();
    }
    let resolve = |name: &str| store.resolve(&name.parse().unwrap());
    assert_eq!(resolve("stable").unwrap(), second);
    assert_eq!(resolve("old").unwrap(), first);
    assert_eq!(resolve(&oci.to_string()).unwrap(), first);
    assert_eq!(resolve(&third.to_string()).unwrap(), third);
    match resolve("new") {
        Err(Error::UnknownImage { known, .. }) => assert_eq!(known, ["old", "stable"]),
        other => panic!("{other:?}"),
    }
    // Of places that nothing is fetched from by itself: what is here is found, by its digest or by what it is called.
    let elsewhere = ["registry.example/a:new", "registry.example/a"];
    for name in elsewhere {
        let refused = resolve(name);
        assert!(matches!(refused, Err(Error::NotPulled(_))), "{refused:?}");
    }
    let pinned = format!("registry.example/a:new@sha256:{oci}");
    assert_eq!(resolve(&pinned).unwrap(), first);
    let pinned = format!("registry.example/a@sha256:{}", sha256(b"missing"));
    assert!(matches!(resolve(&pinned), Err(Error::NotPulled(_))));
    let published = format!("{}/base", "a".repeat(52));
    assert!(matches!(resolve(&published), Err(Error::OfPublisher(_))));
    write(b"first", "registry.example/a:new");
    assert_eq!(resolve("registry.example/a:new").unwrap(), first);
    let images = store.images().unwrap();
    let found: Vec<_> = images
        .iter()
        .map(|image| (image.manifest, image.tags.len()))
        .collect();
    assert_eq!(found, [(first, 2), (second, 1), (third, 0)]);
}
