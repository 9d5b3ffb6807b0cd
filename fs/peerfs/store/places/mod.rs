// SPDX-License-Identifier: GPL-2.0

//! The places of a pack that is no file of its own: a table says which chunk is where, in which data file. See
//! `Documentation/store.md`.
//!
//! All of it is a hint, and others change it meanwhile: whoever reads a chunk verifies it.
#![forbid(unsafe_code)]

mod entries;
mod table;

use core::mem;
use core::ops::Range;

use kernel::alloc::flags::GFP_KERNEL_ACCOUNT;
use kernel::prelude::*;
use kernel::sync::Arc;
use peerfs_format::{ChunkRecord, DataFile, SLOTS_MAX};

use super::kept::{Kept, KeptValues};
use crate::rust::fs::{FileId, OpenedFile};
use entries::Entries;
pub(super) use table::PlacesTable;

/// The data files that a mount has open: each once, however many packs have chunks in it.
pub(super) type DataFiles = KeptValues<FileId, OpenedFile>;

/// Where the stored bytes of a chunk are.
pub(super) struct Place {
    /// The data file.
    pub(super) file: OpenedFile,
    /// Where they begin in it.
    pub(super) offset: u64,
    /// Whether the file is the pack itself, and whole.
    pub(super) is_of_whole: bool,
}

impl Place {
    /// The chunk's bytes in the data file.
    pub(super) fn range(&self, record: &ChunkRecord) -> Range<u64> {
        self.offset..self.offset.saturating_add(record.stored_length.into())
    }

    /// Whether both are the same place.
    pub(super) fn is_same(&self, other: &Place) -> bool {
        self.offset == other.offset && self.file == other.file
    }
}

/// A slot whose data file is open.
pub(super) struct Slot {
    /// What the slot named when the file was opened.
    name: DataFile,
    file: Kept<FileId, OpenedFile>,
}

impl Slot {
    /// A slot of this name with this file, or with the one of `files` that is the same.
    pub(super) fn new(name: DataFile, file: OpenedFile, files: &Arc<DataFiles>) -> Result<Self> {
        let file = files.keep(file.id(), &Arc::new(file, GFP_KERNEL_ACCOUNT)?)?;
        Ok(Slot { name, file })
    }
}

/// Slots by their numbers.
pub(super) type Slots = KVVec<(usize, Option<Slot>)>;

/// What is known of a pack's places.
pub(super) struct Places {
    table: PlacesTable,
    entries: Entries,
    /// By number, as many as there can be. One that is not open is as good as empty.
    slots: KVVec<Option<Slot>>,
    /// Whether all that the table named when it was opened was looked for.
    was_searched: bool,
}

impl Places {
    /// Reads all entries of a table. None of its slots is open yet.
    pub(super) fn read(table: PlacesTable) -> Result<Self> {
        let count = table.chunk_count();
        let mut slots = KVVec::with_capacity(SLOTS_MAX as usize, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..SLOTS_MAX {
            slots.push(None, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(Places {
            entries: Entries::new(count, table.entries(0..count)?)?,
            table,
            slots,
            was_searched: false,
        })
    }

    /// Notes that all that the table named when it was opened was looked for.
    pub(super) fn searched(&mut self) {
        self.was_searched = true;
    }

    /// The table.
    pub(super) fn table(&self) -> &PlacesTable {
        &self.table
    }

    /// The table, if all that it named when it was opened was looked for.
    pub(super) fn searched_table(&self) -> Option<&PlacesTable> {
        self.was_searched.then_some(&self.table)
    }

    /// Exchanges slots for others: what was there is dropped by who called, without the lock.
    pub(super) fn exchange(&mut self, others: &mut Slots) {
        for (number, other) in others.iter_mut() {
            if let Some(slot) = self.slots.get_mut(*number) {
                mem::swap(slot, other);
            }
        }
    }

    /// Where a chunk is; `None` if it is not here.
    pub(super) fn find(&self, chunk: u32, record: &ChunkRecord) -> Option<Place> {
        let place = self.entries.get(chunk)?;
        let file = file_of(&self.slots, place, record.stored_length)?;
        Some(Place {
            file: file.clone(),
            offset: place.offset,
            is_of_whole: false,
        })
    }

    /// The first chunks in a range that are not here and follow each other, this many at the most.
    pub(super) fn missing(&self, chunks: Range<u32>, most: u32) -> Range<u32> {
        let is_here = |place| file_of(&self.slots, place, 1).is_some();
        self.entries.first_missing(chunks, most, is_here)
    }

    /// Takes entries that were read again, from a chunk on. Who has a place that is open is not told of one that is not.
    pub(super) fn learn(&mut self, first: u32, entries: &[u8]) {
        let slots = &self.slots;
        let is_open = |place: Option<peerfs_format::Place>| {
            place.is_some_and(|place| file_of(slots, place, 1).is_some())
        };
        let takes = |old, new| is_open(new) || !is_open(old);
        self.entries.replace(first, entries, takes);
    }

    /// Takes the entry of a chunk that is not where the last one said, and closes the slot in which it is said to be now
    /// if that names another file. Returns what was closed.
    pub(super) fn correct(
        &mut self,
        chunk: u32,
        entry: &[u8],
        names: &[Option<DataFile>],
    ) -> Option<Slot> {
        self.entries.replace(chunk, entry, |_, _| true);
        let number = self.entries.get(chunk)?.slot as usize;
        let name = names.get(number).copied().flatten();
        let slot = self.slots.get_mut(number)?;
        slot.take_if(|slot| Some(slot.name) != name)
    }
}

/// The data file of a place, if it is open and has so many bytes there.
fn file_of(
    slots: &[Option<Slot>],
    place: peerfs_format::Place,
    length: u32,
) -> Option<&OpenedFile> {
    let file = &*slots.get(place.slot as usize)?.as_ref()?.file;
    let end = place.offset.checked_add(length.into())?;
    (end <= file.size()).then_some(file)
}
