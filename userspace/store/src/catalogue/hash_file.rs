// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A hash table in a file: from 64 bits of a digest to 64 bits of where to look.
//!
//! Entries are in the order of their keys, as far as collisions let them (linear probing from `key * slots / 2^64` on):
//! so what is asked for in the order of the keys is read in that of the file, and a table grows by being read once.
//! An entry has 16 bytes, key and value, and is empty if its value is 0. Nothing of it is trusted: a wrong value leads
//! to a chunk whose digest is another one.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;

use rustix::fs::{fadvise, Advice};

/// Bytes before the entries.
const HEADER_SIZE: u64 = 4096;
const ENTRY_SIZE: usize = 16;
const MAGIC: [u8; 8] = *b"peerfsca";
const VERSION: u64 = 1;
/// Slots of a new table, and of the largest: 2 GiB of them, whatever a file says.
const SLOTS_MIN: u64 = 4096;
const SLOTS_MAX: u64 = 1 << 27;
/// Entries that are read at once where few are asked for, and where many are.
const NARROW: u64 = 16;
const WIDE: u64 = 64 * 1024;
/// Keys that the kernel is told of before they are looked for.
const ASKED_FOR: usize = 1024;
/// Keys that are many.
const MANY: usize = 256;
/// The most entries in a row that are looked at for one key: far more than there are by chance.
const PROBES_MAX: u64 = 4096;

/// A table, open.
pub(super) struct HashFile {
    file: File,
    slots: u64,
    count: u64,
}

/// What a key has been found to lead to.
pub(super) type Found = Option<u64>;

impl HashFile {
    /// The table in a file; None if it is none, or if it was replaced by a larger one.
    pub(super) fn open(file: File) -> io::Result<Option<Self>> {
        let Some((slots, count)) = read_header(&file)? else {
            return Ok(None);
        };
        Ok(Some(HashFile { file, slots, count }))
    }

    /// Makes an empty file a table for about so many entries.
    pub(super) fn create(file: File, entries: u64) -> io::Result<Self> {
        let slots = entries.saturating_mul(2).clamp(SLOTS_MIN, SLOTS_MAX);
        file.set_len(HEADER_SIZE + slots * ENTRY_SIZE as u64)?;
        let table = HashFile {
            file,
            slots,
            count: 0,
        };
        table.write_header()?;
        Ok(table)
    }

    /// Whether another process has replaced it by a larger table, which has the name by now; takes in what they have
    /// added to the count.
    pub(super) fn is_replaced(&mut self) -> io::Result<bool> {
        match read_header(&self.file)? {
            Some((slots, count)) if slots == self.slots => {
                self.count = count;
                Ok(false)
            }
            _ => Ok(true),
        }
    }

    /// Says that another file is the table from now on.
    pub(super) fn give_up(&self) -> io::Result<()> {
        self.file.write_all_at(&[0; MAGIC.len()], 0)
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> u64 {
        self.count
    }

    /// Whether it should grow before so many entries are added.
    pub(super) fn is_too_small_for(&self, more: u64) -> bool {
        self.slots < SLOTS_MAX && self.count.saturating_add(more) > self.slots / 10 * 7
    }

    /// The values of keys, which are in ascending order.
    pub(super) fn get_all(&self, keys: &[u64]) -> io::Result<Vec<Found>> {
        let mut window = Window::new(self, keys.first(), keys.last(), keys.len());
        let mut found = Vec::with_capacity(keys.len());
        for keys in keys.chunks(ASKED_FOR) {
            if !window.is_dense() {
                self.ask_for(keys);
            }
            for key in keys {
                let entry = window.find(*key)?;
                found.push(entry.and_then(|(_, value)| (value != 0).then_some(value)));
            }
        }
        Ok(found)
    }

    /// Has the kernel read what keys need, all at once: a disk is much faster than if it is asked for one after the other.
    fn ask_for(&self, keys: &[u64]) {
        let length = NonZeroU64::new(NARROW * ENTRY_SIZE as u64);
        for key in keys {
            // What it does not do is waited for.
            let _ = fadvise(
                &self.file,
                offset_of(self.home(*key)),
                length,
                Advice::WillNeed,
            );
        }
    }

    /// Enters values, which are not 0, in ascending order of their keys; what a key had before is replaced.
    pub(super) fn put_all(&mut self, entries: &[(u64, u64)]) -> io::Result<()> {
        let mut added = 0;
        let [first, last] =
            [entries.first(), entries.last()].map(|entry| entry.map(|(key, _)| key));
        let mut window = Window::new(self, first, last, entries.len());
        for (key, value) in entries {
            // Where there is no room within reach the entry is left out: it costs a copy of a chunk.
            if let Some((slot, old)) = window.find(*key)? {
                added += u64::from(old == 0);
                window.put(slot, *key, *value)?;
            }
        }
        window.flush()?;
        self.count += added;
        self.write_header()
    }

    /// Copies all entries to a larger table.
    pub(super) fn copy_to(&self, larger: &mut HashFile) -> io::Result<()> {
        let mut from = 0;
        while from < self.slots {
            let length = WIDE.min(self.slots - from);
            let mut entries: Vec<(u64, u64)> = self
                .read(from, length)?
                .chunks_exact(ENTRY_SIZE)
                .filter_map(parse)
                .filter(|(_, value)| *value != 0)
                .collect();
            entries.sort_unstable();
            larger.put_all(&entries)?;
            from += length;
        }
        Ok(())
    }

    fn home(&self, key: u64) -> u64 {
        ((u128::from(key) * u128::from(self.slots)) >> 64) as u64
    }

    fn read(&self, slot: u64, length: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length as usize * ENTRY_SIZE];
        self.file.read_exact_at(&mut bytes, offset_of(slot))?;
        Ok(bytes)
    }

    fn write_header(&self) -> io::Result<()> {
        let fields = [VERSION, self.slots, self.count];
        let fields = fields.iter().flat_map(|field| field.to_le_bytes());
        let header: Vec<u8> = MAGIC.into_iter().chain(fields).collect();
        self.file.write_all_at(&header, 0)
    }
}

/// A part of a table that is in memory: keys in ascending order move it on.
struct Window<'a> {
    table: &'a HashFile,
    width: u64,
    start: u64,
    bytes: Vec<u8>,
    is_changed: bool,
}

impl<'a> Window<'a> {
    fn new(table: &'a HashFile, first: Option<&u64>, last: Option<&u64>, keys: usize) -> Self {
        // One read for each of few keys, one for many of many.
        let [first, last] = [first, last].map(|key| key.map_or(0, |key| table.home(*key)));
        let span = last.saturating_sub(first);
        let is_dense = keys >= MANY && span / (keys as u64).max(1) < NARROW * 4;
        Window {
            table,
            width: if is_dense { WIDE } else { NARROW },
            start: 0,
            bytes: Vec::new(),
            is_changed: false,
        }
    }

    /// Whether it has many of the keys.
    fn is_dense(&self) -> bool {
        self.width == WIDE
    }

    /// The slot of a key and its value, or the empty slot where it would be, with 0; None if neither is within reach.
    fn find(&mut self, key: u64) -> io::Result<Option<(u64, u64)>> {
        let home = self.table.home(key);
        for step in 0..PROBES_MAX.min(self.table.slots) {
            // A row of entries goes on at the table's beginning.
            let slot = (home + step) % self.table.slots;
            match self.entry(slot)? {
                (_, 0) => return Ok(Some((slot, 0))),
                (found, value) if found == key => return Ok(Some((slot, value))),
                _ => (),
            }
        }
        Ok(None)
    }

    fn entry(&mut self, slot: u64) -> io::Result<(u64, u64)> {
        let place = self.place(slot)?;
        let entry = self.bytes.get(place..).and_then(parse);
        entry.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn put(&mut self, slot: u64, key: u64, value: u64) -> io::Result<()> {
        let place = self.place(slot)?;
        let entry = key.to_le_bytes().into_iter().chain(value.to_le_bytes());
        let bytes = self.bytes.get_mut(place..).unwrap_or_default();
        for (byte, new) in bytes.iter_mut().zip(entry) {
            *byte = new;
        }
        self.is_changed = true;
        Ok(())
    }

    /// Where a slot is in the window, which is moved to it if need be.
    fn place(&mut self, slot: u64) -> io::Result<usize> {
        let slots = (self.bytes.len() / ENTRY_SIZE) as u64;
        if !(self.start..self.start + slots).contains(&slot) {
            self.flush()?;
            let length = self.width.min(self.table.slots - slot);
            self.bytes = self.table.read(slot, length)?;
            self.start = slot;
        }
        Ok((slot - self.start) as usize * ENTRY_SIZE)
    }

    fn flush(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.is_changed) {
            let offset = offset_of(self.start);
            self.table.file.write_all_at(&self.bytes, offset)?;
        }
        Ok(())
    }
}

fn offset_of(slot: u64) -> u64 {
    HEADER_SIZE + slot * ENTRY_SIZE as u64
}

fn parse(bytes: &[u8]) -> Option<(u64, u64)> {
    let (key, rest) = bytes.split_first_chunk()?;
    let value = rest.first_chunk()?;
    Some((u64::from_le_bytes(*key), u64::from_le_bytes(*value)))
}

/// The slots and the count that a header says, if the file is as long as it says.
fn read_header(file: &File) -> io::Result<Option<(u64, u64)>> {
    let mut header = [0; 32];
    match file.read_exact_at(&mut header, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let fields = header.strip_prefix(&MAGIC).unwrap_or_default();
    let mut fields = fields
        .chunks_exact(8)
        .filter_map(|field| Some(u64::from_le_bytes(*field.first_chunk()?)));
    let (Some(VERSION), Some(slots), Some(count)) = (fields.next(), fields.next(), fields.next())
    else {
        return Ok(None);
    };
    let length = slots
        .checked_mul(ENTRY_SIZE as u64)
        .and_then(|length| length.checked_add(HEADER_SIZE));
    let is_whole = (SLOTS_MIN..=SLOTS_MAX).contains(&slots)
        && length.is_some_and(|length| is_as_long(file, length));
    Ok(is_whole.then_some((slots, count.min(slots))))
}

fn is_as_long(file: &File, length: u64) -> bool {
    file.metadata()
        .is_ok_and(|metadata| metadata.len() == length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that are as good as digests.
    fn keys(count: u64) -> Vec<u64> {
        let mut keys: Vec<u64> = (1..=count)
            .map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
            .collect();
        keys.sort_unstable();
        keys
    }

    fn table() -> HashFile {
        HashFile::create(tempfile::tempfile().unwrap(), 0).unwrap()
    }

    #[test]
    fn what_was_entered_is_found_in_few_and_in_many_and_after_growing() {
        let keys = keys(2500);
        let mut table = table();
        for part in keys.chunks(7) {
            let entries: Vec<_> = part.iter().map(|key| (*key, key | 1)).collect();
            table.put_all(&entries).unwrap();
        }
        assert_eq!(table.len(), 2500);
        assert!(table.is_too_small_for(1000) && !table.is_too_small_for(100));
        let expected: Vec<_> = keys.iter().map(|key| Some(key | 1)).collect();
        assert_eq!(table.get_all(&keys).unwrap(), expected);
        assert_eq!(table.get_all(&keys[9..10]).unwrap(), expected[9..10]);
        assert_eq!(table.get_all(&[3, 5, u64::MAX]).unwrap(), [None; 3]);

        let mut larger = HashFile::create(tempfile::tempfile().unwrap(), 10_000).unwrap();
        table.copy_to(&mut larger).unwrap();
        assert_eq!(larger.len(), 2500);
        assert_eq!(larger.get_all(&keys).unwrap(), expected);
        larger.put_all(&[(keys[5], 77)]).unwrap();
        assert_eq!(larger.get_all(&keys[5..6]).unwrap(), [Some(77)]);
        assert_eq!(larger.len(), 2500);
    }

    #[test]
    fn equal_beginnings_go_on_at_the_table_s_beginning() {
        let mut table = table();
        let keys: Vec<u64> = (u64::MAX - 99..=u64::MAX).collect();
        let entries: Vec<_> = keys.iter().map(|key| (*key, 1 + key % 100)).collect();
        table.put_all(&entries).unwrap();
        let found = table.get_all(&keys).unwrap();
        assert!(entries
            .iter()
            .zip(found)
            .all(|((_, value), found)| found == Some(*value)));
    }

    #[test]
    fn what_is_no_table_is_refused_and_a_full_one_ends() {
        assert!(HashFile::open(tempfile::tempfile().unwrap())
            .unwrap()
            .is_none());
        let file = tempfile::tempfile().unwrap();
        let copy = file.try_clone().unwrap();
        let mut table = HashFile::create(file, 0).unwrap();
        let entries: Vec<_> = keys(SLOTS_MIN + 10)
            .into_iter()
            .map(|key| (key, 1))
            .collect();
        table.put_all(&entries).unwrap();
        assert_eq!(table.len(), SLOTS_MIN);
        assert!(table.get_all(&[12345]).unwrap().iter().all(Option::is_none));
        assert!(!table.is_replaced().unwrap());
        copy.set_len(5000).unwrap();
        assert!(HashFile::open(copy.try_clone().unwrap()).unwrap().is_none());
        assert!(table.get_all(&[u64::MAX]).is_err());
        table.give_up().unwrap();
        assert!(table.is_replaced().unwrap());
    }
}
