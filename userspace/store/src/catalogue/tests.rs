// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Two processes that share a catalogue, and what hostile or damaged files do to it.

use std::fs;

use super::*;
use crate::places::DataFiles;
use crate::{sha256, Store};

/// A store's directory, opened as by a process of its own.
struct Process {
    data_files: DataFiles,
    catalogue: Catalogue,
}

impl Process {
    fn new(store: &Store) -> Self {
        Process {
            data_files: DataFiles::new(store.directory()),
            catalogue: Catalogue::new(store.directory()),
        }
    }

    fn enter(&self, name: &DataFile, chunks: &[(Digest, u64)]) -> Result<()> {
        let changes = self.data_files.lock_changes()?;
        self.catalogue.enter(&changes, name, chunks.iter().copied())
    }

    fn find(&self, digests: &[Digest]) -> Vec<Option<Location>> {
        self.catalogue.find(digests).unwrap()
    }
}

fn digests(count: u64) -> Vec<Digest> {
    (0..count)
        .map(|number| sha256(&number.to_le_bytes()))
        .collect()
}

#[test]
fn what_one_process_enters_another_finds_also_when_the_table_has_grown() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path()).unwrap();
    let (one, other) = (Process::new(&store), Process::new(&store));
    let pack = DataFile::Pack(sha256(b"pack"), sha256(b"index"));
    let keys = digests(20_000);
    assert_eq!(other.find(&keys[..3]), [None; 3]);
    one.enter(&DataFile::Loose(7), &[(keys[0], 1 << 39)])
        .unwrap();
    other.enter(&pack, &[(keys[1], 5)]).unwrap();
    let both = [Some((DataFile::Loose(7), 1 << 39)), Some((pack, 5)), None];
    assert_eq!(one.find(&keys[..3]), both);
    for (number, part) in keys[2..].chunks(500).enumerate() {
        let process = if number % 2 == 0 { &one } else { &other };
        let chunks: Vec<_> = part.iter().map(|key| (*key, key_of(key) % 1000)).collect();
        process
            .enter(&DataFile::Loose(number as u64), &chunks)
            .unwrap();
    }
    for process in [&one, &other, &Process::new(&store)] {
        let found = process.find(&keys);
        assert_eq!(found[..2], both[..2]);
        for (place, key) in keys.iter().enumerate().skip(2) {
            let name = DataFile::Loose((place as u64 - 2) / 500);
            assert_eq!(found[place], Some((name, key_of(key) % 1000)));
        }
    }
}

#[test]
fn a_chunk_is_found_by_its_whole_key() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path()).unwrap();
    let (one, other) = (Process::new(&store), Process::new(&store));
    let keys = digests(3);
    let built = |chunk: u32| BuiltChunk {
        pack: sha256(b"pack"),
        index: sha256(b"index"),
        chunk,
        content: sha256(&[chunk as u8]),
    };
    let enter = |process: &Process, chunk: u32| {
        let changes = process.data_files.lock_changes().unwrap();
        let chunks = [(keys[chunk as usize], built(chunk))];
        process.catalogue.enter_built(&changes, chunks).unwrap();
    };
    enter(&one, 0);
    enter(&other, 1);
    for process in [&one, &other] {
        let find = |key| process.catalogue.find_built(key).unwrap();
        assert_eq!(find(&keys[0]), Some(built(0)));
        assert_eq!(find(&keys[1]), Some(built(1)));
        assert_eq!(find(&keys[2]), None);
        // The part that the table has is the same.
        let mut alike = keys[1];
        alike.0[31] ^= 1;
        assert_eq!(find(&alike), None);
    }
    // Stored bytes are another table.
    assert_eq!(one.find(&keys[..1]), [None]);
}

#[test]
fn a_damaged_or_missing_catalogue_is_begun_anew() {
    for damage in ["remove", "truncate", "garbage", "names"] {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path()).unwrap();
        let process = Process::new(&store);
        let key = digests(1);
        process.enter(&DataFile::Loose(1), &[(key[0], 1)]).unwrap();
        let path = folder.path().join(layout::CATALOGUE_STORED);
        match damage {
            "remove" => fs::remove_dir_all(folder.path().join("catalogue")).unwrap(),
            "truncate" => fs::write(&path, b"peerfsca").unwrap(),
            "garbage" => fs::write(&path, [0xff; 70_000]).unwrap(),
            _ => fs::write(folder.path().join(layout::CATALOGUE_NAMES), [9; 100]).unwrap(),
        }
        let process = Process::new(&store);
        assert_eq!(process.find(&key), [None], "{damage}");
        process.enter(&DataFile::Loose(2), &[(key[0], 3)]).unwrap();
        assert_eq!(
            process.find(&key),
            [Some((DataFile::Loose(2), 3))],
            "{damage}"
        );
    }
}
