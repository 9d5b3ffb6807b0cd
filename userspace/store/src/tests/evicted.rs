// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Evictions: what can be fetched again goes, the least recently used first, and nothing else does.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, SystemTime};

use peerfs_oci::{Architecture, ImageBlobs, RuntimeConfig};

use super::Source;
use crate::{sha256, write_image, Keep, Recency, Store};

/// Says that all that there is of a pack was used so many hours ago.
fn used(source: &Source, hours: u64) {
    let time = SystemTime::now() - Duration::from_secs(hours * 3600);
    let times = FileTimes::new().set_accessed(time).set_modified(time);
    let blob = source
        .path
        .join("store/blobs/sha256")
        .join(source.record.digest.to_string());
    for path in [source.table(), source.partial(), blob] {
        if let Ok(file) = File::options().write(true).open(path) {
            file.set_times(times).unwrap();
        }
    }
}

fn fetched(source: &Source, store: &Store) -> peerfs_format::Digest {
    let manifest = source.image(store);
    store.remember_image(&manifest, 100).unwrap();
    manifest
}

/// The chunks that are here.
fn present(source: &Source, store: &Store) -> Vec<u32> {
    let pack = store.find_pack(&source.record, source.index.clone());
    let Some(pack) = pack.unwrap() else {
        return Vec::new();
    };
    let is_right = |chunk: &u32| match pack.read_chunk(*chunk).unwrap() {
        Some(stored) => stored == source.chunks[*chunk as usize],
        None => false,
    };
    (0..source.record.chunk_count).filter(is_right).collect()
}

fn sizes() -> [Source; 4] {
    let first = Source::with(20, 9000);
    let others = [1_u8, 2, 3].map(|number| {
        first.edited(|chunks| {
            for (place, chunk) in chunks.iter_mut().enumerate() {
                *chunk = vec![20 + number * 20 + place as u8; 9000];
            }
        })
    });
    let [second, third, fourth] = others;
    [first, second, third, fourth]
}

#[test]
fn the_least_recently_used_goes_and_what_was_built_or_is_kept_stays() {
    let sources = sizes();
    let [built, kept, old, new] = &sources;
    let store = built.store();
    for source in &sources {
        source.fill(&store);
    }
    let manifest = built.image(&store);
    let blobs = ImageBlobs {
        manifest: &fs::read(store.blob_path(&manifest)).unwrap(),
        blob_table: sha256(b""),
        blob_table_length: 1,
        shards: &[],
        packs: &[built.record],
    };
    let (config, tag) = (RuntimeConfig::default(), "built".parse().unwrap());
    write_image(&store, &blobs, &Architecture::unknown(), &config, &tag).unwrap();
    let keep = Keep::images([fetched(kept, &store)]);
    fetched(old, &store);
    fetched(new, &store);
    let age = || {
        for (source, hours) in sources.iter().zip([50, 40, 30, 20]) {
            used(source, hours);
        }
    };
    age();
    let pack = old.record.stored_length;
    let nothing = store.evict(&keep, 3 * pack, &Recency::default()).unwrap();
    assert_eq!((nothing.packs, nothing.bytes), (0, 0));
    assert!((2 * pack..2 * pack + 20_000).contains(&nothing.cached_bytes));
    for source in &sources {
        source.assert_here(&store);
    }
    // They were used just now.
    age();
    let one = store
        .evict(&keep, pack * 3 / 2, &Recency::default())
        .unwrap();
    assert_eq!(one.packs, 1);
    // 13 chunks of 9000 bytes are too much, and a block of which something stays stays.
    assert_eq!(one.bytes, 28 * 4096);
    for source in [built, kept, new] {
        source.assert_here(&store);
    }
    assert!(!store.has_blob(&old.record.digest));
    assert_eq!(present(old, &store), (13..20).collect::<Vec<u32>>());
    // What leads to the pack stays, and so does the image.
    assert!(store.has_blob(&old.record.index_digest));
    assert_eq!(store.images().unwrap().len(), 4);
    store.evict(&keep, 0, &Recency::default()).unwrap();
    for source in [built, kept] {
        source.assert_here(&store);
    }
    assert!(!store.has_blob(&new.record.digest));
    // And it can be fetched again.
    assert_eq!(old.adopt_and_fill(&store).len(), 20);
    old.assert_here(&store);
}

#[test]
fn the_chunks_that_were_used_stay_and_the_others_of_their_packs_go() {
    let [first, second, third, _] = sizes();
    let store = first.store();
    let sources = [&first, &second, &third];
    for source in sources {
        source.fill(&store);
        fetched(source, &store);
    }
    // The oldest by its files is the only one of which all was used.
    used(&first, 50);
    let mut recency = Recency::default();
    let mut used = |source: &Source, chunks: &[u32], now| {
        for chunk in chunks {
            recency.used(
                &source.record.digest,
                &source.record.index_digest,
                *chunk,
                now,
            );
        }
    };
    used(&first, &(0..20).collect::<Vec<u32>>(), 2);
    used(&second, &[3, 4, 19], 2);
    used(&second, &[9], 1);
    let open = File::open(store.blob_path(&second.record.digest)).unwrap();
    // Room for 25 chunks, of which nine tenths are used: 23 chunks have just been.
    let evicted = store
        .evict(&Keep::default(), 9000 * 23 * 10 / 9 + 9, &recency)
        .unwrap();
    assert_eq!((evicted.packs, evicted.cached_bytes), (2, 60 * 9000));
    first.assert_here(&store);
    assert!(store.has_blob(&first.record.digest));
    assert_eq!(present(&second, &store), [3, 4, 19]);
    assert!(!store.has_blob(&second.record.digest) && second.partial().exists());
    assert!(present(&third, &store).is_empty());
    assert!(!third.partial().exists());
    // Who has the pack open reads on what stays, and finds something else in place of what has gone.
    let mut bytes = vec![1; 9000];
    for chunk in [3_u32, 4, 9, 19] {
        open.read_exact_at(&mut bytes, u64::from(chunk) * 9000)
            .unwrap();
        assert_eq!(bytes == second.chunks[chunk as usize], chunk != 9);
    }
    // It becomes whole again, and nothing is left over.
    let missing = second.adopt_and_fill(&store);
    assert_eq!(missing.len(), 17);
    assert!(store.has_blob(&second.record.digest));
    assert!(!second.partial().exists() && !second.table().exists());
    second.assert_here(&store);
}

#[test]
fn a_chunk_that_two_packs_have_in_one_place_is_one() {
    let first = Source::with(20, 9000);
    let second = first.edited(|chunks| {
        chunks.truncate(10);
        chunks[0] = vec![200; 9000];
    });
    let store = first.store();
    first.fill(&store);
    fetched(&first, &store);
    assert_eq!(second.adopt_and_fill(&store), [0]);
    fetched(&second, &store);
    let mut recency = Recency::default();
    let (pack, index) = (second.record.digest, second.record.index_digest);
    for chunk in [0, 5] {
        recency.used(&pack, &index, chunk, 1);
    }
    let evicted = store.evict(&Keep::default(), 20_000, &recency).unwrap();
    assert_eq!((evicted.packs, evicted.cached_bytes), (2, 21 * 9000));
    assert_eq!(present(&first, &store), [5]);
    assert_eq!(present(&second, &store), [0, 5]);
    let pack = store
        .find_pack(&second.record, second.index.clone())
        .unwrap();
    assert_eq!(
        pack.unwrap().read_chunk(5).unwrap(),
        Some(second.chunks[5].clone())
    );
}

#[test]
fn a_pack_that_loses_chunks_while_it_is_read_to_become_whole_does_not() {
    let [source, other, ..] = sizes();
    let store = source.store();
    let pack = source.full(&store);
    fetched(&source, &store);
    let mut recency = Recency::default();
    recency.used(&source.record.digest, &source.record.index_digest, 7, 1);
    other.fill(&store);
    // As if it was read before its bytes were given back.
    fs::hard_link(source.partial(), source.path.join("theirs")).unwrap();
    store.evict(&Keep::default(), 10_000, &recency).unwrap();
    // Whoever has it open does not know.
    assert!(!pack.complete().unwrap());
    assert!(!store.has_blob(&source.record.digest));
    drop(pack);
    assert_eq!(present(&source, &store), [7]);
}

#[test]
fn what_is_shared_with_what_stays_stays_and_a_reader_finds_the_rest_missing() {
    let cached = Source::with(20, 9000);
    let kept = cached.edited(|chunks| {
        chunks.truncate(8);
        chunks[7] = vec![200; 9000];
    });
    let store = cached.store();
    cached.fill(&store);
    // A whole pack, and chunks of another one in it.
    assert_eq!(kept.adopt_and_fill(&store).len(), 1);
    let keep = Keep::images([kept.image(&store)]);
    fetched(&cached, &store);
    let open = File::open(store.blob_path(&cached.record.digest)).unwrap();
    let before = open.metadata().unwrap().blocks();
    let done = store.evict(&keep, 0, &Recency::default()).unwrap();
    assert_eq!(done.packs, 1);
    assert!(!store.has_blob(&cached.record.digest), "blobs/ never lies");
    kept.assert_here(&store);
    // Its room is given back though somebody has it open, who finds something else there.
    assert!(open.metadata().unwrap().blocks() < before);
    let mut byte = [1];
    open.read_exact_at(&mut byte, 15 * 9000).unwrap();
    assert_eq!(byte, [0]);
    let missing = cached.adopt_and_fill(&store);
    assert!(missing.len() >= 12 && missing.len() < 20, "{missing:?}");
    cached.assert_here(&store);
    kept.assert_here(&store);

    // With a table: its entries go in place, since a kernel may have it open.
    store.evict(&keep, 0, &Recency::default()).unwrap();
    let pack = store.pack(&cached.record, cached.index.clone()).unwrap();
    for number in 12..18 {
        let chunk = &cached.chunks[number as usize];
        pack.write_chunk(number, chunk).unwrap();
    }
    drop(pack);
    let table = File::open(cached.table()).unwrap();
    let entry = || {
        let mut entry = [0; 8];
        table.read_exact_at(&mut entry, 128 + 8 * 15).unwrap();
        u64::from_le_bytes(entry)
    };
    assert!(entry() != 0);
    store.evict(&keep, 0, &Recency::default()).unwrap();
    assert_eq!(entry(), 0);
    assert_eq!(table.metadata().unwrap().nlink(), 1);
    kept.assert_here(&store);
    drop(store);
    kept.assert_here(&kept.store());
}

#[test]
fn what_has_a_name_in_another_store_too_is_not_emptied_there() {
    let cached = Source::with(20, 9000);
    let kept = cached.edited(|chunks| chunks.truncate(8));
    let store = cached.store();
    cached.fill(&store);
    fetched(&cached, &store);
    let path = store.blob_path(&cached.record.digest);
    let theirs = cached.path.join("theirs");
    fs::hard_link(&path, &theirs).unwrap();
    let content = fs::read(&theirs).unwrap();
    assert_eq!(
        store
            .evict(&Keep::default(), 0, &Recency::default())
            .unwrap()
            .packs,
        1
    );
    assert!(!path.exists() && fs::read(&theirs).unwrap() == content);
    // And if a part of it stays.
    fs::hard_link(&theirs, &path).unwrap();
    kept.adopt_and_fill(&store);
    let keep = Keep::images([kept.image(&store)]);
    assert_eq!(store.evict(&keep, 0, &Recency::default()).unwrap().packs, 1);
    assert!(!path.exists() && fs::read(&theirs).unwrap() == content);
    kept.assert_here(&store);
}
