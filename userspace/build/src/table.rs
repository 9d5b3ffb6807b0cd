// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Tables that grow with the tree: they keep some megabytes in memory, and the rest in the store's `tmp`.
//!
//! What cannot be written there stays in memory, so that adding never fails. What cannot be read back is as if it were not
//! there, and is told by [`Segments::check`].

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use peerfs_store::{Store, TemporaryFile};

use crate::{Error, Result};

/// Bytes of a segment, which is written and read back as a whole.
const SEGMENT: usize = 256 * 1024;
/// Segments of a table that stay in memory: all of them, of a tree of some ten thousand files.
const IN_MEMORY: usize = 32;
/// Segments of a table that were read back and are kept, for those who come to what is beside it.
const READ_BACK: usize = 16;

/// Where tables go that are too large for memory.
#[derive(Clone, Default)]
pub(crate) struct Scratch(Option<Arc<Store>>);

impl Scratch {
    /// In the `tmp` of a store.
    pub(crate) fn new(store: &Arc<Store>) -> Self {
        Scratch(Some(store.clone()))
    }

    fn file(&self) -> Option<TemporaryFile> {
        self.0.as_ref()?.temporary_file().ok()
    }
}

/// Bytes that were added one after another.
pub(crate) struct Segments {
    scratch: Scratch,
    /// Of those that were written, each at its number times [`SEGMENT`]; all before the first one in memory are.
    file: Option<TemporaryFile>,
    segments: Vec<Segment>,
    first_in_memory: usize,
    /// The last ones that were read back, the latest first.
    read_back: Mutex<Vec<(usize, Arc<Vec<u8>>)>>,
    failed: OnceLock<io::Error>,
}

enum Segment {
    Memory(Vec<u8>),
    /// With so many bytes.
    Written(usize),
}

impl Segments {
    pub(crate) fn new(scratch: &Scratch) -> Self {
        Segments {
            scratch: scratch.clone(),
            file: None,
            segments: Vec::new(),
            first_in_memory: 0,
            read_back: Mutex::default(),
            failed: OnceLock::new(),
        }
    }

    /// Adds bytes, of which there are not more than a segment has, and returns their place.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> u64 {
        match self.segments.last() {
            Some(Segment::Memory(last)) if last.len() + bytes.len() <= SEGMENT => (),
            _ => {
                self.segments.push(Segment::Memory(Vec::new()));
                self.write_first();
            }
        }
        let number = self.segments.len() - 1;
        match self.segments.last_mut() {
            Some(Segment::Memory(last)) => {
                let offset = last.len();
                last.extend_from_slice(bytes);
                (number * SEGMENT + offset) as u64
            }
            // The last one is never written.
            _ => 0,
        }
    }

    /// Writes the first segment that is in memory, if there are too many.
    fn write_first(&mut self) {
        let number = self.first_in_memory;
        if self.segments.len() - number <= IN_MEMORY {
            return;
        }
        if self.file.is_none() {
            self.file = self.scratch.file();
        }
        let (Some(file), Some(segment)) = (&self.file, self.segments.get_mut(number)) else {
            return;
        };
        if let Segment::Memory(bytes) = segment {
            // On a full disk it stays, and is tried again with the next one.
            if file.file().write_all_at(bytes, place(number)).is_ok() {
                *segment = Segment::Written(bytes.len());
                self.first_in_memory += 1;
            }
        }
    }

    /// The bytes at a place; none if there are not so many, or if they can't be read back.
    pub(crate) fn get(&self, place: u64, length: usize) -> Option<Cow<'_, [u8]>> {
        let (number, range) = parts(place, length);
        match self.segments.get(number)? {
            Segment::Memory(bytes) => bytes.get(range).map(Cow::Borrowed),
            Segment::Written(size) => {
                let bytes = self.read_back(number, *size)?;
                bytes.get(range).map(|bytes| Cow::Owned(bytes.to_vec()))
            }
        }
    }

    /// Writes over bytes that are there.
    fn put(&mut self, place: u64, bytes: &[u8]) {
        let (number, range) = parts(place, bytes.len());
        match self.segments.get_mut(number) {
            Some(Segment::Memory(segment)) => {
                if let Some(old) = segment.get_mut(range) {
                    old.copy_from_slice(bytes);
                }
            }
            Some(Segment::Written(_)) => {
                self.cache().retain(|(kept, _)| *kept != number);
                let written = self
                    .file
                    .as_ref()
                    .map_or(Ok(()), |file| file.file().write_all_at(bytes, place));
                self.note(written);
            }
            None => (),
        }
    }

    /// Fails if something could not be read back, or written over.
    ///
    /// # Errors
    /// [`Error::Scratch`].
    pub(crate) fn check(&self) -> Result<()> {
        match self.failed.get() {
            None => Ok(()),
            // The kind and the text say all that there is.
            Some(error) => Err(Error::Scratch(io::Error::new(
                error.kind(),
                error.to_string(),
            ))),
        }
    }

    fn read_back(&self, number: usize, size: usize) -> Option<Arc<Vec<u8>>> {
        let mut cache = self.cache();
        if let Some(found) = cache.iter().position(|(kept, _)| *kept == number) {
            cache.get_mut(..=found)?.rotate_right(1);
            return cache.first().map(|(_, bytes)| bytes.clone());
        }
        let mut bytes = vec![0; size];
        let file: &File = self.file.as_ref()?.file();
        self.note(file.read_exact_at(&mut bytes, self::place(number)))?;
        let bytes = Arc::new(bytes);
        cache.truncate(READ_BACK - 1);
        cache.insert(0, (number, bytes.clone()));
        Some(bytes)
    }

    fn cache(&self) -> MutexGuard<'_, Vec<(usize, Arc<Vec<u8>>)>> {
        self.read_back
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, outcome: io::Result<()>) -> Option<()> {
        outcome
            .map_err(|error| {
                // The first one says most.
                let _ = self.failed.set(error);
            })
            .ok()
    }
}

fn place(number: usize) -> u64 {
    (number * SEGMENT) as u64
}

/// The segment of a place, and where in it so many bytes are.
fn parts(place: u64, length: usize) -> (usize, Range<usize>) {
    let place = place as usize;
    let offset = place % SEGMENT;
    (place / SEGMENT, offset..offset + length)
}

/// A row of a table: always the same number of bytes.
pub(crate) trait Row: Sized {
    /// Its bytes.
    const SIZE: usize;

    /// Appends its bytes.
    fn encode(&self, bytes: &mut Vec<u8>);

    /// The row with these bytes, of which there are [`Row::SIZE`].
    fn decode(bytes: &[u8]) -> Self;
}

/// Rows, by their numbers.
pub(crate) struct Table<R> {
    segments: Segments,
    count: usize,
    /// The bytes of the row that is being written.
    encoded: Vec<u8>,
    row: PhantomData<fn() -> R>,
}

impl<R: Row> Table<R> {
    /// Rows of a segment.
    const ROWS: usize = SEGMENT / R::SIZE;

    /// An empty table.
    pub(crate) fn new(scratch: &Scratch) -> Self {
        Table {
            segments: Segments::new(scratch),
            count: 0,
            encoded: Vec::with_capacity(R::SIZE),
            row: PhantomData,
        }
    }

    /// The number of rows.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Adds a row.
    pub(crate) fn push(&mut self, row: &R) {
        self.encoded.clear();
        row.encode(&mut self.encoded);
        self.segments.add(&self.encoded);
        self.count += 1;
    }

    /// A row.
    pub(crate) fn get(&self, number: usize) -> Option<R> {
        let bytes = self.segments.get(Self::place(number), R::SIZE)?;
        Some(R::decode(&bytes))
    }

    /// Changes a row, if there is one of this number.
    pub(crate) fn update(&mut self, number: usize, change: impl FnOnce(&mut R)) {
        if let Some(mut row) = self.get(number) {
            change(&mut row);
            self.encoded.clear();
            row.encode(&mut self.encoded);
            self.segments.put(Self::place(number), &self.encoded);
        }
    }

    /// Some rows, as far as there are such.
    pub(crate) fn range(&self, numbers: Range<usize>) -> impl Iterator<Item = R> + '_ {
        numbers.map_while(|number| self.get(number))
    }

    /// All rows.
    pub(crate) fn iter(&self) -> impl Iterator<Item = R> + '_ {
        self.range(0..self.count)
    }

    /// Fails as [`Segments::check`] does.
    ///
    /// # Errors
    /// [`Error::Scratch`].
    pub(crate) fn check(&self) -> Result<()> {
        self.segments.check()
    }

    fn place(number: usize) -> u64 {
        (number / Self::ROWS * SEGMENT + number % Self::ROWS * R::SIZE) as u64
    }
}

/// The numbers of rows, found by a hash of what is in them. Whoever looks there compares, for others may have the same.
#[derive(Default)]
pub(crate) struct RowIndex {
    /// By the hash times the number of slots, or in the next free one: the hash, and the row's number plus 1, or 0.
    slots: Vec<(u32, u32)>,
    count: usize,
}

/// Slots of the smallest index.
const SLOTS_MIN: usize = 1024;

impl RowIndex {
    /// The row with this hash of which `is_right` is true.
    pub(crate) fn find(&self, hash: u32, is_right: impl Fn(u32) -> bool) -> Option<u32> {
        let slots = self.slots_of(hash).filter_map(|slot| self.slots.get(slot));
        slots
            .take_while(|(_, row)| *row != 0)
            .filter(|(other, _)| *other == hash)
            .map(|(_, row)| row - 1)
            .find(|row| is_right(*row))
    }

    /// Adds a row.
    pub(crate) fn insert(&mut self, hash: u32, row: u32) {
        // A quarter is free, so that it is not far to what is looked for.
        if (self.count + 1) * 4 > self.slots.len() * 3 {
            let size = (self.slots.len() * 2).max(SLOTS_MIN);
            let old = std::mem::replace(&mut self.slots, vec![(0, 0); size]);
            for slot in old.into_iter().filter(|(_, row)| *row != 0) {
                self.enter(slot);
            }
        }
        self.enter((hash, row + 1));
        self.count += 1;
    }

    fn enter(&mut self, entry: (u32, u32)) {
        let is_free = |slot: &usize| self.slots.get(*slot).is_some_and(|(_, row)| *row == 0);
        let free = self.slots_of(entry.0).find(is_free);
        if let Some(slot) = free.and_then(|slot| self.slots.get_mut(slot)) {
            *slot = entry;
        }
    }

    /// The slots that a hash may be in, in order.
    fn slots_of(&self, hash: u32) -> impl Iterator<Item = usize> {
        let count = self.slots.len();
        let first = ((u64::from(hash) * count as u64) >> 32) as usize;
        (first..count).chain(0..first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Number(u64);

    impl Row for Number {
        // Does not divide a segment.
        const SIZE: usize = 24;

        fn encode(&self, bytes: &mut Vec<u8>) {
            for field in [self.0, !self.0, 7] {
                bytes.extend(field.to_le_bytes());
            }
        }

        fn decode(bytes: &[u8]) -> Self {
            Number(u64::from_le_bytes(*bytes.first_chunk().unwrap()))
        }
    }

    const ROWS: usize = 3 * IN_MEMORY * SEGMENT / Number::SIZE;

    fn filled(scratch: &Scratch) -> Table<Number> {
        let mut table = Table::new(scratch);
        (0..ROWS as u64).for_each(|number| table.push(&Number(number)));
        table
    }

    #[test]
    fn what_went_to_the_disk_comes_back_and_can_be_changed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::create(folder.path()).unwrap());
        let mut table = filled(&Scratch::new(&store));
        assert!(table.segments.first_in_memory >= IN_MEMORY);
        assert_eq!(table.len(), ROWS);
        assert!((0..).zip(table.iter()).all(|(number, row)| row.0 == number));
        assert_eq!(table.iter().count(), ROWS);
        for number in [0, 1, ROWS / 2, ROWS - 1] {
            // Once what was read back, once what was not.
            for change in [1, 2] {
                table.update(number, |row| row.0 = change);
                assert_eq!(table.get(number).unwrap().0, change);
            }
        }
        assert_eq!(table.get(2).unwrap().0, 2);
        assert!(table.get(ROWS).is_none());
        table.check().unwrap();
        // The file shrinks behind it: an error, and no panic.
        table
            .segments
            .file
            .as_ref()
            .unwrap()
            .file()
            .set_len(0)
            .unwrap();
        assert!((0..ROWS).any(|number| table.get(number).is_none()));
        assert!(table.check().is_err());
    }

    #[test]
    fn without_a_place_on_a_disk_all_stays_in_memory() {
        let table = filled(&Scratch::default());
        assert_eq!(table.segments.first_in_memory, 0);
        assert_eq!(table.get(ROWS - 1).unwrap().0, ROWS as u64 - 1);
    }

    #[test]
    fn rows_are_found_by_their_hashes() {
        let hash = |row: u32| (row / 3).wrapping_mul(0x9e37_79b9);
        let mut index = RowIndex::default();
        assert_eq!(index.find(0, |_| true), None);
        for row in 0..10_000 {
            index.insert(hash(row), row);
        }
        for row in 0..10_000 {
            assert_eq!(index.find(hash(row), |found| found == row), Some(row));
        }
        assert_eq!(index.find(hash(5), |_| false), None);
        // The last slots go on at the first ones.
        let mut last = RowIndex::default();
        (0..5).for_each(|row| last.insert(u32::MAX, row));
        assert!((0..5).all(|row| last.find(u32::MAX, |found| found == row) == Some(row)));
        assert_eq!(last.find(u32::MAX - 1, |_| true), None);
    }
}
