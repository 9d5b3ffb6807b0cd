// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A pack of the store, whole or being filled.

mod adopt;
mod lent;
mod places;
mod state;
mod turn;
mod whole;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use peerfs_format::{Bitmap, ChunkRecord, DataFile, Digest, Iv, PackIndexLayout, PackRecord};

use crate::catalogue::Catalogue;
use crate::chunk::{is_stored_chunk, StoredChunk};
use crate::directory::StoreDirectory;
use crate::findings::Findings;
use crate::lock::lock;
use crate::places::{ChangeLock, DataFiles};
use crate::{layout, Error, Result};
pub use lent::LentPack;
use peerfs_text::Causes;
use state::{check_index, open_own, own_name, read_stored_at, Places, State};

/// Whoever wants to know how the packs of a store are filled, by this process. Must not block.
pub trait Watcher: Send + Sync {
    /// A chunk of a pack is there.
    fn came(&self, pack: &PackRecord, chunk: u32);

    /// Something of a pack is not there any more.
    fn went(&self, pack: &Digest);
}

/// What the packs of a store have in common.
pub(crate) struct PackStore {
    pub(crate) watcher: OnceLock<Arc<dyn Watcher>>,
    pub(crate) data_files: DataFiles,
    pub(crate) catalogue: Catalogue,
    pub(crate) findings: Findings,
}

impl PackStore {
    pub(crate) fn new(directory: &Arc<StoreDirectory>) -> Self {
        PackStore {
            watcher: OnceLock::new(),
            data_files: DataFiles::new(directory),
            catalogue: Catalogue::new(directory),
            findings: Findings::default(),
        }
    }
}

/// A pack of the store, as one index describes it: images may pair the same pack with other indexes, and neither
/// has what is filled by another. All methods may be called from many threads; they block on the disk.
pub struct Pack {
    store: Arc<PackStore>,
    record: PackRecord,
    index: Vec<u8>,
    index_layout: PackIndexLayout,
    is_for_filling: bool,
    /// Whether the chunks that are here in several files were found to be the pack together.
    is_proven: AtomicBool,
    /// Held by whoever makes a pack whole or gives a whole one up, which takes as long as the disk does; before
    /// the lock for changes of tables, and that before `state`.
    turning: Mutex<()>,
    /// Held for moments: those who ask what is there wait for it.
    state: Mutex<State>,
}

/// The files that a run of a pack's chunks is in.
pub enum PackFiles {
    /// All of the pack.
    Whole(Arc<File>),
    /// Where a table of places says.
    Places {
        /// The table.
        table: Arc<File>,
        /// The data files that chunks of the run are in, by the number of their slot.
        slots: Vec<(u32, Arc<File>)>,
    },
}

/// Where a chunk is.
enum Place {
    /// Where it is in the whole pack.
    Whole(Arc<File>),
    /// In a data file, at this offset. With it comes the pack's own file, if it is open.
    In(DataFile, u64, Option<Arc<File>>),
}

impl Pack {
    /// Opens a pack to read it; None if there is nothing of it.
    pub(crate) fn find(
        store: &Arc<PackStore>,
        record: &PackRecord,
        index: Vec<u8>,
    ) -> Result<Option<Self>> {
        let layout = check_index(record, &index)?;
        let state = match State::find_whole(store.data_files.directory(), record)? {
            Some(State::Whole(file)) if store.findings.is_damaged_file(&record.digest, &file) => {
                let places = State::find_places(&store.data_files, record)?;
                Some(places.unwrap_or(State::Whole(file)))
            }
            Some(whole) => Some(whole),
            None => State::find_places(&store.data_files, record)?,
        };
        let open = |state| Self::new(store, record, (index, layout), false, state);
        Ok(state.map(open))
    }

    /// Opens what a table of places has of a pack to read it, even beside a whole one; None if there is none.
    pub(crate) fn find_places(
        store: &Arc<PackStore>,
        record: &PackRecord,
        index: Vec<u8>,
    ) -> Result<Option<Self>> {
        let layout = check_index(record, &index)?;
        let open = |state| Self::new(store, record, (index, layout), false, state);
        Ok(State::find_places(&store.data_files, record)?.map(open))
    }

    /// Opens a pack to fill it, and makes a table of places if there is nothing of it.
    pub(crate) fn open(
        store: &Arc<PackStore>,
        record: &PackRecord,
        index: Vec<u8>,
    ) -> Result<Self> {
        let layout = check_index(record, &index)?;
        let state = match State::find_whole(store.data_files.directory(), record)? {
            Some(whole) => whole,
            None => State::open_places(&store.data_files, record)?,
        };
        let index = (index, layout);
        Ok(Self::new(store, record, index, true, state))
    }

    fn new(
        store: &Arc<PackStore>,
        record: &PackRecord,
        (index, index_layout): (Vec<u8>, PackIndexLayout),
        is_for_filling: bool,
        state: State,
    ) -> Self {
        Pack {
            store: store.clone(),
            record: *record,
            index,
            index_layout,
            is_for_filling,
            is_proven: AtomicBool::new(false),
            turning: Mutex::new(()),
            state: Mutex::new(state),
        }
    }

    /// Whether it was opened to be filled, and not only to be read.
    pub fn is_for_filling(&self) -> bool {
        self.is_for_filling
    }

    /// The pack's digest.
    pub fn digest(&self) -> &Digest {
        &self.record.digest
    }

    /// The pack's record in the blob table.
    pub fn record(&self) -> &PackRecord {
        &self.record
    }

    /// The pack's index blob.
    pub fn index(&self) -> &[u8] {
        &self.index
    }

    /// A chunk's checked record in the pack's index.
    ///
    /// # Errors
    /// [`Error::Format`] if there is no such chunk or the record is not valid.
    pub fn chunk(&self, chunk: u32) -> Result<ChunkRecord> {
        self.index_layout
            .view(&self.index)
            .chunk(chunk)
            .map_err(Error::format(self.record.index_digest))
    }

    /// The number and record of the chunk that covers an offset of the uncompressed address space.
    ///
    /// # Errors
    /// [`Error::Format`] if no valid chunk covers it.
    pub fn chunk_at(&self, logical_offset: u32) -> Result<(u32, ChunkRecord)> {
        self.index_layout
            .view(&self.index)
            .chunk_at(logical_offset)
            .map_err(Error::format(self.record.index_digest))
    }

    /// The initialization vector of a chunk, if those of the pack are encrypted.
    pub fn iv(&self, chunk: u32) -> Option<Iv> {
        self.index_layout.view(&self.index).iv(chunk)
    }

    /// Whether the pack's chunks are encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.index_layout.view(&self.index).is_encrypted()
    }

    /// The blob that the pack is; None if it is not whole.
    pub fn whole_file(&self) -> Option<Arc<File>> {
        match &*self.lock() {
            State::Whole(file) => Some(file.clone()),
            State::Places(_) => None,
        }
    }

    /// The files that a run of chunks is in, as far as they are here.
    ///
    /// # Errors
    /// [`Error::Io`] if one that is there can't be opened.
    pub fn files(&self, chunks: Range<u32>) -> Result<PackFiles> {
        let (table, slots, own) = match &*self.lock() {
            State::Whole(file) => return Ok(PackFiles::Whole(file.clone())),
            State::Places(places) => {
                let slots = places.table.slots_of(chunks);
                (places.table.file(), slots, places.own.clone())
            }
        };
        let mut files = Vec::with_capacity(slots.len());
        for (slot, name) in slots {
            if let Some(file) = self.open_data_file(&name, own.as_ref())? {
                files.push((slot, file));
            }
        }
        Ok(PackFiles::Places {
            table,
            slots: files,
        })
    }

    /// Whether it is a blob of the store: all chunks are there, and at some time they were right.
    pub fn is_blob(&self) -> bool {
        matches!(*self.lock(), State::Whole(_))
    }

    /// Whether all chunks are there.
    pub fn is_whole(&self) -> bool {
        match &*self.lock() {
            State::Whole(_) => true,
            State::Places(places) => places.table.is_full(),
        }
    }

    /// Whether a chunk is there.
    pub fn has(&self, chunk: u32) -> bool {
        match &*self.lock() {
            State::Whole(_) => chunk < self.record.chunk_count,
            State::Places(places) => places.table.has(chunk),
        }
    }

    /// The chunks that are there, as bits: chunk `n` is bit `n % 8` of byte `n / 8`.
    pub fn presence(&self) -> Vec<u8> {
        match &*self.lock() {
            State::Whole(_) => full_bits(&self.record),
            State::Places(places) => places.table.bits(),
        }
    }

    /// Stored bytes of the chunks that are there.
    pub fn present_bytes(&self) -> u64 {
        let bits = match &*self.lock() {
            State::Places(places) if !places.table.is_full() => Bitmap(places.table.bits()),
            _ => return self.record.stored_length,
        };
        let index = self.index_layout.view(&self.index);
        let chunks = (0..).zip(index.chunks.iter());
        chunks
            .filter(|(chunk, _)| bits.has(*chunk))
            .map(|(_, record)| u64::from(record.stored_length))
            .sum()
    }

    /// A chunk's stored bytes, verified; None if it is not there. Whoever only reads gets a chunk that is damaged in the
    /// whole pack from the places beside it, if they have it: there a damaged pack is mended.
    ///
    /// # Errors
    /// [`Error::ChunkDamaged`]: [`Pack::discard`] it and fetch it anew.
    pub fn read_chunk(&self, chunk: u32) -> Result<Option<Vec<u8>>> {
        let stored = self.stored_chunk(chunk)?;
        Ok(stored.map(StoredChunk::into_bytes))
    }

    /// As [`Pack::read_chunk`], for who wants its content: it is not verified again.
    ///
    /// # Errors
    /// As for [`Pack::read_chunk`].
    pub fn stored_chunk(&self, chunk: u32) -> Result<Option<StoredChunk>> {
        let record = self.chunk(chunk)?;
        if !self.has(chunk) {
            return Ok(None);
        }
        let found = |stored| StoredChunk::of_verified(self.digest(), chunk, &record, stored);
        match self.read_place(chunk, &record) {
            Ok(Some(stored)) => Ok(Some(found(stored))),
            // Discarded in between.
            _ if !self.has(chunk) => Ok(None),
            failed => match (self.read_beside(chunk), failed?) {
                (Some(stored), _) => Ok(Some(found(stored))),
                (None, _) => Err(Error::ChunkDamaged {
                    pack: *self.digest(),
                    chunk,
                }),
            },
        }
    }

    /// A chunk's stored bytes from where it is said to be; None if they are not there.
    fn read_place(&self, chunk: u32, record: &ChunkRecord) -> Result<Option<Vec<u8>>> {
        let read = |file: &File, offset| {
            let read = read_stored_at(file, record, offset);
            read.map_err(|error| Error::io("read", &self.path())(error))
        };
        let (name, offset, own) = match self.place(chunk) {
            Some(Place::Whole(file)) => return read(&file, record.stored_offset.into()),
            Some(Place::In(name, offset, own)) => (name, offset, own),
            None => return Ok(None),
        };
        for is_known in [true, false] {
            let Some(file) = self.open_data_file(&name, own.as_ref())? else {
                return Ok(None);
            };
            if let Some(stored) = read(&file, offset)? {
                return Ok(Some(stored));
            }
            // Another file may have its name since it was opened.
            if is_known {
                self.store.data_files.forget(&name);
            }
        }
        Ok(None)
    }

    /// Where a chunk is said to be.
    fn place(&self, chunk: u32) -> Option<Place> {
        match &*self.lock() {
            State::Whole(file) => Some(Place::Whole(file.clone())),
            State::Places(places) => {
                let (name, offset) = places.table.place(chunk)?;
                Some(Place::In(name, offset, places.own.clone()))
            }
        }
    }

    fn open_data_file(
        &self,
        name: &DataFile,
        own: Option<&Arc<File>>,
    ) -> Result<Option<Arc<File>>> {
        match own {
            Some(own) if *name == own_name(&self.record) => Ok(Some(own.clone())),
            _ => self.store.data_files.open(name),
        }
    }

    /// A chunk from the places beside a whole pack. Whoever fills packs has to know that the whole one is damaged:
    /// its file is what readers get.
    fn read_beside(&self, chunk: u32) -> Option<Vec<u8>> {
        if self.is_for_filling() || !self.is_blob() {
            return None;
        }
        let (record, index) = (&self.record, self.index.clone());
        let beside = Self::find_places(&self.store, record, index);
        beside.ok()??.read_chunk(chunk).ok()?
    }

    /// Stores a chunk after verifying its stored bytes, and says whether it is time to [`Pack::complete`] the
    /// pack.
    ///
    /// # Errors
    /// [`Error::ChunkDamaged`] if these are not the chunk's bytes; [`Error::Io`] if the disk is
    /// full, after which the chunk counts as absent and the pack is as it was.
    pub fn write_chunk(&self, chunk: u32, stored: &[u8]) -> Result<bool> {
        self.check_filling()?;
        let record = self.chunk(chunk)?;
        if !is_stored_chunk(&record, stored) {
            return Err(Error::ChunkDamaged {
                pack: *self.digest(),
                chunk,
            });
        }
        if self.has(chunk) {
            return Ok(false);
        }
        let (name, offset, changes) = loop {
            let collections = self.store.data_files.own_collections();
            let own = self.own_file()?;
            let (name, offset) = self.write(own.as_deref(), stored, record.stored_offset.into())?;
            let changes = self.store.data_files.lock_changes()?;
            if self.store.data_files.own_collections() == collections {
                break (name, offset, changes);
            }
            // Nobody had said that these bytes are needed: they may be given up, and the file with them.
            if let State::Places(places) = &mut *self.lock() {
                places.own = None;
            }
        };
        let mut state = self.lock();
        let State::Places(places) = &mut *state else {
            return Ok(false);
        };
        self.enter(&changes, places, chunk, &name, offset)?;
        let is_full = places.table.is_full();
        drop(state);
        self.tell_came(chunk);
        let chunk = (record.digest, offset);
        let entered = self.store.catalogue.enter(&changes, &name, [chunk]);
        // It is here all the same, only not found for other packs.
        if let Err(error) = entered {
            tracing::debug!(error = %Causes(&error), "cannot enter a chunk into the catalogue");
        }
        Ok(is_full)
    }

    fn tell_came(&self, chunk: u32) {
        if let Some(watcher) = self.store.watcher.get() {
            watcher.came(&self.record, chunk);
        }
    }

    fn tell_went(&self) {
        if let Some(watcher) = self.store.watcher.get() {
            watcher.went(self.digest());
        }
    }

    /// The pack's own file, to which what comes is written; None if it goes to a loose one, since the pack has half of
    /// its bytes in other files.
    fn own_file(&self) -> Result<Option<Arc<File>>> {
        let mut state = self.lock();
        let State::Places(places) = &mut *state else {
            return Ok(None);
        };
        // Looked at once: a pack may have hundreds of thousands of chunks.
        if places.own.is_none() && places.goes_loose.is_none() {
            places.goes_loose = Some(self.is_mostly_elsewhere(places));
        }
        if places.own.is_none() && places.goes_loose == Some(true) {
            return Ok(None);
        }
        let own = match places.own.take() {
            Some(own) => own,
            None => open_own(self.store.data_files.directory(), &self.record)?,
        };
        Ok(Some(places.own.insert(own).clone()))
    }

    fn is_mostly_elsewhere(&self, places: &Places) -> bool {
        let own = own_name(&self.record);
        let index = self.index_layout.view(&self.index);
        let elsewhere: u64 = (0..)
            .zip(index.chunks.iter())
            .filter(|(chunk, _)| {
                places
                    .table
                    .place(*chunk)
                    .is_some_and(|(name, _)| name != own)
            })
            .map(|(_, record)| u64::from(record.stored_length))
            .sum();
        elsewhere > 0 && elsewhere >= self.record.stored_length / 2
    }

    /// Enters a place. If there is no slot for its file, the chunks of the file with the fewest are copied to a loose one.
    fn enter(
        &self,
        changes: &ChangeLock<'_>,
        places: &mut Places,
        chunk: u32,
        name: &DataFile,
        offset: u64,
    ) -> Result<()> {
        changes.note(name, offset, self.chunk(chunk)?.stored_length);
        let mut loose = None;
        while !places.table.set(changes, chunk, name, offset)? {
            let moved = places.table.least(loose.as_ref());
            let mut copies = Vec::with_capacity(moved.len());
            for chunk in &moved {
                let Some((name, offset)) = places.table.place(*chunk) else {
                    continue;
                };
                let file = self.open_data_file(&name, places.own.as_ref())?;
                let record = self.chunk(*chunk)?;
                let stored = file.and_then(|file| read_stored_at(&file, &record, offset).ok());
                if let Some(stored) = stored.flatten() {
                    copies.push((*chunk, self.store.data_files.append(&stored)?));
                }
            }
            places.table.clear_all(changes, &moved)?;
            for (chunk, (name, offset)) in copies {
                changes.note(&name, offset, self.chunk(chunk)?.stored_length);
                places.table.set(changes, chunk, &name, offset)?;
                loose = Some(name);
            }
        }
        Ok(())
    }

    /// Refuses to change a pack that was opened to be read only.
    fn check_filling(&self) -> Result<()> {
        if self.is_for_filling {
            return Ok(());
        }
        let read_only = io::ErrorKind::ReadOnlyFilesystem.into();
        Err(Error::io("write to", &self.path())(read_only))
    }

    /// The file, to be shown to people.
    fn path(&self) -> std::path::PathBuf {
        let (pack, index) = (&self.record.digest, &self.record.index_digest);
        let name = match *self.lock() {
            State::Places(_) => layout::partial(pack, index),
            State::Whole(_) => layout::blob(pack),
        };
        self.store.data_files.directory().path(&name)
    }

    /// Writes to another file from now on, for tests.
    #[cfg(test)]
    pub(crate) fn replace_file(&self, file: File) {
        if let State::Places(places) = &mut *self.lock() {
            places.own = Some(Arc::new(file));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// The bits of a pack that is all there.
fn full_bits(record: &PackRecord) -> Vec<u8> {
    let mut bits = Bitmap(vec![0xff; Bitmap::size(record.chunk_count)]);
    bits.clear_padding(record.chunk_count);
    bits.0
}
