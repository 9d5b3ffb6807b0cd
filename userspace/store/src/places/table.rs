// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The table of places of a pack: the file, and a copy of it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use peerfs_format::{
    Bitmap, DataFile, PackRecord, Place, PlacesHeader, PLACES_HEADER_SIZE, PLACE_SIZE, SLOTS_MAX,
    SLOT_SIZE,
};

use super::changes::ChangeLock;
use super::DataFiles;
use crate::{layout, whole_file, Error, Result};

/// The places of a pack's chunks. What changes is in the file before it is here.
pub(crate) struct PlaceTable {
    path: PathBuf,
    file: Arc<File>,
    is_writable: bool,
    content: Content,
}

/// What a table says.
struct Content {
    header: PlacesHeader,
    entries: Vec<u64>,
    /// None is an empty slot, or one whose file is not there.
    slots: Vec<Option<DataFile>>,
    present: u32,
}

impl PlaceTable {
    /// Opens the table of a pack to read it; None if there is no valid one.
    pub(crate) fn find(data_files: &DataFiles, record: &PackRecord) -> Result<Option<Self>> {
        Self::find_as(data_files, record, false)
    }

    fn find_as(
        data_files: &DataFiles,
        record: &PackRecord,
        is_writable: bool,
    ) -> Result<Option<Self>> {
        let (directory, name) = (data_files.directory(), name_of(record));
        let opened = match is_writable {
            true => directory.write(&name),
            false => directory.read(&name),
        };
        let file = match opened {
            Ok(Some(file)) => file,
            Ok(None) | Err(Error::NotARegularFile(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let content = Content::read(&file, record).map_err(directory.failed("read", &name))?;
        let Some(mut content) = content else {
            return Ok(None);
        };
        content.forget_vanished(data_files);
        Ok(Some(PlaceTable {
            path: directory.path(&name),
            file: Arc::new(file),
            is_writable,
            content,
        }))
    }

    /// Opens the table of a pack for changes, and makes one by which nothing is here if there is no valid one.
    pub(crate) fn open(data_files: &DataFiles, record: &PackRecord) -> Result<Self> {
        if let Some(table) = Self::find_as(data_files, record, true)? {
            return Ok(table);
        }
        let name = name_of(record);
        let content = Content::empty(record);
        let directory = data_files.directory();
        whole_file::replace(directory, &name, &content.to_bytes())?;
        Self::find_as(data_files, record, true)?.ok_or_else(|| {
            let vanished = io::ErrorKind::NotFound.into();
            directory.failed("open", &name)(vanished)
        })
    }

    /// The open file, for whoever is to read it.
    pub(crate) fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    /// The file in which a chunk is, and where; None if it is not here.
    pub(crate) fn place(&self, chunk: u32) -> Option<(DataFile, u64)> {
        let place = self.content.place(chunk)?;
        let name = (*self.content.slots.get(place.slot as usize)?)?;
        Some((name, place.offset))
    }

    /// Whether a chunk is here.
    pub(crate) fn has(&self, chunk: u32) -> bool {
        self.content.place(chunk).is_some()
    }

    /// Whether all chunks are here.
    pub(crate) fn is_full(&self) -> bool {
        self.content.present >= self.content.header.chunk_count
    }

    /// The chunks that are here, as bits.
    pub(crate) fn bits(&self) -> Vec<u8> {
        let chunks = self.content.header.chunk_count;
        let mut bits = Bitmap(vec![0; Bitmap::size(chunks)]);
        for chunk in (0..chunks).filter(|chunk| self.has(*chunk)) {
            bits.set(chunk, true);
        }
        bits.0
    }

    /// The slots in which a run's chunks are, each once, with its file.
    pub(crate) fn slots_of(&self, chunks: Range<u32>) -> Vec<(u32, DataFile)> {
        let mut found: Vec<(u32, DataFile)> = Vec::new();
        for place in chunks.filter_map(|chunk| self.content.place(chunk)) {
            let name = self
                .content
                .slots
                .get(place.slot as usize)
                .copied()
                .flatten();
            if let (Some(name), false) = (name, found.iter().any(|(slot, _)| *slot == place.slot)) {
                found.push((place.slot, name));
            }
        }
        found
    }

    /// Enters where a chunk is. False if it would take a slot, and all are used: see [`PlaceTable::least`].
    ///
    /// # Errors
    /// [`Error::Io`]; the chunk is where it was then.
    pub(crate) fn set(
        &mut self,
        changes: &ChangeLock<'_>,
        chunk: u32,
        name: &DataFile,
        offset: u64,
    ) -> Result<bool> {
        self.take_in(changes)?;
        let slots = &self.content.slots;
        let known = slots.iter().position(|slot| slot.as_ref() == Some(name));
        let slot = known.or_else(|| slots.iter().position(Option::is_none));
        let slot = slot.unwrap_or(slots.len()) as u32;
        if slot >= SLOTS_MAX {
            return Ok(false);
        }
        if known.is_none() {
            // What still names the slot means the file that was in it.
            self.empty_slot(slot)?;
            self.write_slot(slot, Some(*name))?;
        }
        self.write_entry(chunk, Place { slot, offset }.to_entry())?;
        Ok(true)
    }

    /// Forgets where a chunk is.
    ///
    /// # Errors
    /// [`Error::Io`]; the chunk is where it was then.
    pub(crate) fn clear(&mut self, changes: &ChangeLock<'_>, chunk: u32) -> Result<()> {
        self.take_in(changes)?;
        if self.has(chunk) {
            self.write_entry(chunk, 0)?;
        }
        Ok(())
    }

    /// The chunks in the slot that has the fewest of them, of all slots but that of one file.
    pub(crate) fn least(&self, but: Option<&DataFile>) -> Vec<u32> {
        let mut chunks = vec![Vec::new(); self.content.slots.len()];
        for chunk in 0..self.content.header.chunk_count {
            if let Some(place) = self.content.place(chunk) {
                if let Some(chunks) = chunks.get_mut(place.slot as usize) {
                    chunks.push(chunk);
                }
            }
        }
        let slots = chunks.into_iter().zip(&self.content.slots);
        let others = slots.filter(|(_, name)| but.is_none() || name.as_ref() != but);
        let least = others.map(|(chunks, _)| chunks).min_by_key(Vec::len);
        least.unwrap_or_default()
    }

    /// Forgets chunks, and empties the slots that no chunk needs any more.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn clear_all(&mut self, changes: &ChangeLock<'_>, chunks: &[u32]) -> Result<()> {
        for chunk in chunks {
            self.clear(changes, *chunk)?;
        }
        for slot in 0..self.content.slots.len() as u32 {
            let is_needed = (0..self.content.header.chunk_count).any(|chunk| {
                self.content
                    .place(chunk)
                    .is_some_and(|place| place.slot == slot)
            });
            if !is_needed
                && self
                    .content
                    .slots
                    .get(slot as usize)
                    .is_some_and(Option::is_some)
            {
                self.write_slot(slot, None)?;
            }
        }
        Ok(())
    }

    /// Brings the table to the disk; its name is not.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(self.failed())
    }

    /// Takes in what another process has changed, which a slot's change shows.
    fn take_in(&mut self, _changes: &ChangeLock<'_>) -> Result<()> {
        let mut header = [0; PLACES_HEADER_SIZE];
        let read = self.file.read_exact_at(&mut header, 0);
        let found = read.ok().and_then(|()| PlacesHeader::parse(&header).ok());
        let own = self.content.header;
        if found == Some(own) {
            return Ok(());
        }
        let is_ours =
            found.is_some_and(|found| found.is_of(&own.pack, &own.index, own.chunk_count));
        if is_ours {
            let read = Content::read_of(&self.file, &own).map_err(self.failed())?;
            if let Some(content) = read {
                self.content = content;
                return Ok(());
            }
        }
        // Somebody has written something else there.
        let bytes = self.content.to_bytes();
        self.file.write_all_at(&bytes, 0).map_err(self.failed())
    }

    fn write_entry(&mut self, chunk: u32, entry: u64) -> Result<()> {
        let was = self.has(chunk);
        let Some(place) = self.content.entries.get_mut(chunk as usize) else {
            return Ok(());
        };
        if !self.is_writable {
            let read_only = io::ErrorKind::ReadOnlyFilesystem.into();
            return Err(Error::io("write to", &self.path)(read_only));
        }
        self.file
            .write_all_at(&entry.to_le_bytes(), PlacesHeader::place_offset(chunk))
            .map_err(Error::io("write to", &self.path))?;
        *place = entry;
        match (was, self.has(chunk)) {
            (false, true) => self.content.present += 1,
            (true, false) => self.content.present -= 1,
            _ => (),
        }
        Ok(())
    }

    /// Clears the entries that name a slot that counts as empty, which say nothing.
    fn empty_slot(&mut self, slot: u32) -> Result<()> {
        for chunk in 0..self.content.header.chunk_count {
            let entry = self.content.entries.get(chunk as usize).copied();
            let place = entry.and_then(Place::of_entry);
            if place.is_some_and(|place| place.slot == slot) {
                self.write_entry(chunk, 0)?;
            }
        }
        Ok(())
    }

    /// Puts a file into a slot, and says by the generation that it did.
    fn write_slot(&mut self, slot: u32, name: Option<DataFile>) -> Result<()> {
        let offset = self.content.header.slot_offset(slot);
        let bytes = slot_bytes(name);
        self.file
            .write_all_at(&bytes, offset)
            .map_err(self.failed())?;
        let mut header = self.content.header;
        header.generation = header.generation.wrapping_add(1);
        let bytes = header_bytes(&header);
        self.file.write_all_at(&bytes, 0).map_err(self.failed())?;
        self.content.header = header;
        match self.content.slots.get_mut(slot as usize) {
            Some(place) => *place = name,
            None => self.content.slots.push(name),
        }
        Ok(())
    }

    fn failed(&self) -> impl FnOnce(io::Error) -> Error + use<'_> {
        Error::io("write to", &self.path)
    }
}

impl Content {
    /// The content by which nothing of a pack is here.
    fn empty(record: &PackRecord) -> Self {
        Content {
            header: header_of(record),
            entries: vec![0; record.chunk_count as usize],
            slots: Vec::new(),
            present: 0,
        }
    }

    /// The content of a pack's table; None if it is not one.
    fn read(file: &File, record: &PackRecord) -> io::Result<Option<Self>> {
        Self::read_of(file, &header_of(record))
    }

    fn read_of(file: &File, expected: &PlacesHeader) -> io::Result<Option<Self>> {
        let chunks = expected.chunk_count as usize;
        let entries_end = PLACES_HEADER_SIZE + chunks * PLACE_SIZE;
        let mut bytes = vec![0; entries_end + SLOTS_MAX as usize * SLOT_SIZE];
        let count = whole_file::read_at(file, &mut bytes, 0)?;
        bytes.truncate(count);
        let header = match PlacesHeader::parse(&bytes) {
            Ok(header) if header.is_of(&expected.pack, &expected.index, expected.chunk_count) => {
                header
            }
            _ => return Ok(None),
        };
        // A table that ends early says nothing about the rest.
        let entries = bytes.get(PLACES_HEADER_SIZE..).unwrap_or_default();
        let entries = entries.chunks_exact(PLACE_SIZE).take(chunks);
        let mut entries: Vec<u64> = entries
            .filter_map(|entry| Some(u64::from_le_bytes(*entry.first_chunk()?)))
            .collect();
        entries.resize(chunks, 0);
        let slots = bytes.get(entries_end..).unwrap_or_default();
        let slots = slots.chunks_exact(SLOT_SIZE).map(DataFile::parse).collect();
        let mut content = Content {
            header,
            entries,
            slots,
            present: 0,
        };
        content.count();
        Ok(Some(content))
    }

    /// Counts the slots as empty whose files are not there.
    fn forget_vanished(&mut self, data_files: &DataFiles) {
        for slot in &mut self.slots {
            *slot = slot.filter(|name| data_files.exists(name));
        }
        self.count();
    }

    fn count(&mut self) {
        let chunks = 0..self.header.chunk_count;
        self.present = chunks.filter(|chunk| self.place(*chunk).is_some()).count() as u32;
    }

    /// The place of a chunk whose slot has a file.
    fn place(&self, chunk: u32) -> Option<Place> {
        let place = Place::of_entry(*self.entries.get(chunk as usize)?)?;
        let slot = self.slots.get(place.slot as usize)?;
        slot.is_some().then_some(place)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = header_bytes(&self.header);
        for entry in &self.entries {
            bytes.extend_from_slice(&entry.to_le_bytes());
        }
        for slot in &self.slots {
            bytes.extend_from_slice(&slot_bytes(*slot));
        }
        bytes
    }
}

fn header_bytes(header: &PlacesHeader) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PLACES_HEADER_SIZE);
    header.write_to(|piece| bytes.extend_from_slice(piece));
    bytes
}

fn slot_bytes(name: Option<DataFile>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SLOT_SIZE);
    match name {
        Some(name) => name.write_to(|piece| bytes.extend_from_slice(piece)),
        None => bytes.resize(SLOT_SIZE, 0),
    }
    bytes
}

fn name_of(record: &PackRecord) -> String {
    layout::places(&record.digest, &record.index_digest)
}

fn header_of(record: &PackRecord) -> PlacesHeader {
    PlacesHeader {
        chunk_count: record.chunk_count,
        generation: 0,
        pack: record.digest,
        index: record.index_digest,
    }
}
