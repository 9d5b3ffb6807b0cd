// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A catalogue that is lost is made anew; how long that takes of a large one.

use std::fs::{self, File};
use std::time::Instant;

use peerfs_format::{DataFile, Digest};

use super::source::{describe_named, image_of, Source};
use crate::{layout, sha256, Store};

/// Removes the catalogue, and opens the store again.
fn lose(store: Store) -> Store {
    let path = store.root_dir().to_owned();
    fs::remove_dir_all(path.join("catalogue")).unwrap();
    drop(store);
    Store::create(&path).unwrap()
}

/// Images of which the second one has all chunks but one in the first one's pack, in a store without a catalogue.
fn lost() -> (Source, Source, Store) {
    let first = Source::new(40);
    let second = first.edited(|chunks| chunks[20] = vec![200; 9000]);
    let store = first.store();
    first.fill(&store);
    second.adopt_and_fill(&store);
    for source in [&first, &second] {
        let manifest = source.image(&store);
        store.remember_image(&manifest, 1).unwrap();
    }
    let store = lose(store);
    (first, second, store)
}

fn is_found(store: &Store, source: &Source) -> bool {
    let digests: Vec<Digest> = source.chunks.iter().map(|chunk| sha256(chunk)).collect();
    let found = store.shared().catalogue.find(&digests).unwrap();
    found.iter().all(Option::is_some)
}

#[test]
fn a_lost_catalogue_is_made_anew_from_packs_and_places() {
    let (first, second, store) = lost();
    assert!(!is_found(&store, &first));
    store.rebuild_catalogue(|| false);
    assert!(is_found(&store, &first) && is_found(&store, &second));
    assert!(!store.directory().has_file(layout::CATALOGUE_REBUILT));
    // What a third one shares with either is not stored again.
    let third = second.edited(|chunks| chunks[1] = vec![201; 9000]);
    assert_eq!(third.adopt_and_fill(&store), [1]);
    third.assert_here(&store);
}

#[test]
fn one_that_was_not_ended_is_begun_again() {
    let (first, second, store) = lost();
    store.rebuild_catalogue(|| true);
    assert!(!is_found(&store, &first));
    // A chunk that is entered meanwhile makes a table, and does not end it.
    let other = Source::with(3, 6000).in_folder(&first.path);
    other.fill(&store);
    store.rebuild_catalogue(|| false);
    for source in [&first, &second, &other] {
        assert!(is_found(&store, source));
    }
}

#[test]
fn nobody_makes_one_beside_another() {
    let (first, _, store) = lost();
    let lock = store.lock_if_lost().unwrap().unwrap();
    let other = first.store();
    other.rebuild_catalogue(|| false);
    assert!(!is_found(&other, &first));
    drop(lock);
    other.rebuild_catalogue(|| false);
    assert!(is_found(&other, &first));
}

/// The bar: 10 minutes, and 100,000 look-ups a second, in a memory cgroup of 256 MiB. `scripts/catalogue-scale` runs it.
#[test]
#[ignore = "takes minutes and 2 GiB of the disk"]
fn ten_million_chunks() {
    const PACKS: u64 = 5000;
    const CHUNKS: u64 = 2000;
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(&folder.path().join("store")).unwrap();
    let digest = |pack: u64, chunk: u64| {
        let number = pack * CHUNKS + chunk;
        Digest(*blake3::hash(&number.to_le_bytes()).as_bytes())
    };
    let mut records = Vec::new();
    for pack in 0..PACKS {
        let chunks = (0..CHUNKS).map(|chunk| (digest(pack, chunk), 8000));
        let (record, index) = describe_named(digest(PACKS, pack), chunks);
        store.add_blob(&index).unwrap();
        // As long as it should be, and without content: nobody reads it here.
        let blob = File::create(store.blob_path(&record.digest)).unwrap();
        blob.set_len(record.stored_length).unwrap();
        records.push(record);
    }
    let manifest = image_of(&store, &records);
    store.remember_image(&manifest, 1).unwrap();

    let store = lose(store);
    let begun = Instant::now();
    store.rebuild_catalogue(|| false);
    let rebuilt = begun.elapsed();
    println!("{} chunks: rebuilt in {rebuilt:.1?}", PACKS * CHUNKS);

    let store = Store::open(store.root_dir()).unwrap();
    let (mut asked, begun) = (0, Instant::now());
    let mut first = None;
    for turn in 0..1000 {
        // No order that the disk would like.
        let pack = turn * 2741 % PACKS;
        let digests: Vec<Digest> = (0..CHUNKS).map(|chunk| digest(pack, chunk)).collect();
        let found = store.shared().catalogue.find(&digests).unwrap();
        first.get_or_insert_with(|| begun.elapsed());
        let record = &records[pack as usize];
        let name = DataFile::Pack(record.digest, record.index_digest);
        for (chunk, place) in (0..).zip(found) {
            assert_eq!(place, Some((name, chunk * 8000)));
        }
        asked += CHUNKS;
    }
    let rate = asked as f64 / begun.elapsed().as_secs_f64();
    println!(
        "opened and asked for a first pack in {:.1?}; {rate:.0} look-ups a second",
        first.unwrap()
    );
    assert!(rebuilt.as_secs() < 600 && rate > 100_000.0);
}
