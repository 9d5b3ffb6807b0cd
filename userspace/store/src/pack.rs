// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A pack of the store, whole or being filled.

mod state;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Arc, Mutex, MutexGuard};

use peerfs_format::{ChunkRecord, Digest, PackIndexLayout, PackRecord, PACK_MAX};
use rustix::fs::{fallocate, FallocateFlags};

use crate::chunk::{is_stored_chunk, StoredChunk};
use crate::digest::sha256_file;
use crate::directory::StoreDirectory;
use crate::findings::Findings;
use crate::lock::lock;
use crate::presence_map::{full_bits, PresenceMap};
use crate::{layout, Error, Result};
use state::{check_index, read_stored, State};

/// A pack of the store, as one index describes it: images may pair the same pack with other indexes, and neither
/// has what is filled by another. All methods may be called from many threads; they block on the disk.
pub struct Pack {
    directory: Arc<StoreDirectory>,
    record: PackRecord,
    index: Vec<u8>,
    index_layout: PackIndexLayout,
    findings: Arc<Findings>,
    is_for_filling: bool,
    /// Held by whoever makes a partial pack whole or gives a whole one up, which takes as long as the disk does;
    /// before `state`.
    turning: Mutex<()>,
    /// Held for moments: those who ask what is there wait for it.
    state: Mutex<State>,
}

impl Pack {
    /// Opens a pack to read it; None if there is nothing of it.
    pub(crate) fn find(
        directory: &Arc<StoreDirectory>,
        record: &PackRecord,
        index: Vec<u8>,
        findings: &Arc<Findings>,
    ) -> Result<Option<Self>> {
        let layout = check_index(record, &index)?;
        let state = match State::find_whole(directory, record)? {
            Some(whole) if !findings.is_damaged_file(&record.digest, &whole.file) => Some(whole),
            whole => State::find_partial(directory, record)?.or(whole),
        };
        let open = |state| Self::new(directory, record, (index, layout), findings, false, state);
        Ok(state.map(open))
    }

    /// Opens the partial pack to read it, even beside a whole one; None if there is none.
    pub(crate) fn find_partial(
        directory: &Arc<StoreDirectory>,
        record: &PackRecord,
        index: Vec<u8>,
        findings: &Arc<Findings>,
    ) -> Result<Option<Self>> {
        let layout = check_index(record, &index)?;
        let open = |state| Self::new(directory, record, (index, layout), findings, false, state);
        Ok(State::find_partial(directory, record)?.map(open))
    }

    /// Opens a pack to fill it, and makes a partial one if there is nothing of it.
    pub(crate) fn open(
        directory: &Arc<StoreDirectory>,
        record: &PackRecord,
        index: Vec<u8>,
        findings: &Arc<Findings>,
    ) -> Result<Self> {
        let layout = check_index(record, &index)?;
        let state = match State::find_whole(directory, record)? {
            Some(whole) => whole,
            None => State::open_partial(directory, record)?,
        };
        let index = (index, layout);
        Ok(Self::new(directory, record, index, findings, true, state))
    }

    fn new(
        directory: &Arc<StoreDirectory>,
        record: &PackRecord,
        (index, index_layout): (Vec<u8>, PackIndexLayout),
        findings: &Arc<Findings>,
        is_for_filling: bool,
        state: State,
    ) -> Self {
        Pack {
            directory: directory.clone(),
            record: *record,
            index,
            index_layout,
            findings: findings.clone(),
            is_for_filling,
            turning: Mutex::new(()),
            state: Mutex::new(state),
        }
    }

    /// Ends what a process before this one has left: makes a full partial pack whole; goes on with one beside a whole
    /// one, which is damaged as a rule, or removes it if that has become right in another way.
    pub(crate) fn settle(&self) -> Result<()> {
        let _turning = lock(&self.turning);
        let Some(whole) = self.whole() else {
            return self.complete_if_full().map(|_| ());
        };
        let (pack, index) = (self.record.digest, self.record.index_digest);
        let partial = layout::partial(&pack, &index);
        if !self.directory.has_file(&partial) && !self.is_known_damaged(&whole) {
            return Ok(());
        }
        if !self.is_intact(&whole) {
            return self.go_on_with_partial(&[&whole]);
        }
        for name in [partial, layout::map(&pack, &index)] {
            self.directory
                .remove(&name)
                .map_err(self.directory.failed("remove", &name))?;
        }
        Ok(())
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

    /// The open file: the same one while the pack is filled and when it is whole, unless somebody puts another one
    /// in its place or takes it away.
    pub fn file(&self) -> Arc<File> {
        self.lock().file.clone()
    }

    /// Whether it is a blob of the store: all chunks are there, and at some time they were right.
    pub fn is_blob(&self) -> bool {
        self.lock().map.is_none()
    }

    /// Whether all chunks are there.
    pub fn is_whole(&self) -> bool {
        self.lock().map.as_ref().is_none_or(PresenceMap::is_full)
    }

    /// Whether a chunk is there.
    pub fn has(&self, chunk: u32) -> bool {
        let state = self.lock();
        match &state.map {
            Some(map) => map.has(chunk),
            None => chunk < self.record.chunk_count,
        }
    }

    /// The chunks that are there, as bits: chunk `n` is bit `n % 8` of byte `n / 8`.
    pub fn presence(&self) -> Vec<u8> {
        match &self.lock().map {
            Some(map) => map.bits().to_vec(),
            None => full_bits(&self.record),
        }
    }

    /// Stored bytes of the chunks that are there.
    pub fn present_bytes(&self) -> u64 {
        let bits = match &self.lock().map {
            Some(map) if !map.is_full() => map.bits().to_vec(),
            _ => return self.record.stored_length,
        };
        let index = self.index_layout.view(&self.index);
        let chunks = index.chunks.iter().enumerate();
        chunks
            .filter(|(chunk, _)| {
                bits.get(chunk / 8)
                    .is_some_and(|byte| byte & (1 << (chunk % 8)) != 0)
            })
            .map(|(_, record)| u64::from(record.stored_length))
            .sum()
    }

    /// A chunk's stored bytes, verified; None if it is not there. Whoever only reads gets a chunk that is damaged in the
    /// whole pack from the partial one beside it, if that has it: there a damaged pack is mended.
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
        let file = self.lock().file.clone();
        match read_stored(&file, &record) {
            Ok(Some(stored)) => Ok(Some(found(stored))),
            // Discarded in between.
            _ if !self.has(chunk) => Ok(None),
            failed => match (self.read_beside(&record), failed) {
                (Some(stored), _) => Ok(Some(found(stored))),
                (None, Ok(_)) => Err(Error::ChunkDamaged {
                    pack: *self.digest(),
                    chunk,
                }),
                (None, Err(error)) => Err(Error::io("read", &self.path())(error)),
            },
        }
    }

    /// A chunk from the partial pack beside a whole one. Whoever fills packs has to know that the whole one is damaged:
    /// its file is what readers get.
    fn read_beside(&self, record: &ChunkRecord) -> Option<Vec<u8>> {
        if self.is_for_filling() || self.whole().is_none() {
            return None;
        }
        let partial = layout::partial(&self.record.digest, &self.record.index_digest);
        let file = self.directory.read(&partial).ok()??;
        read_stored(&file, record).ok()?
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
        let file = self.lock().file.clone();
        file.write_all_at(stored, u64::from(record.stored_offset))
            .map_err(Error::io("write to", &self.path()))?;
        let mut state = self.lock();
        let Some(map) = &mut state.map else {
            return Ok(false);
        };
        map.set(chunk, true)?;
        Ok(map.is_full())
    }

    /// Reads chunks and forgets those that are damaged, as [`Pack::discard`] does; returns whether any was.
    ///
    /// # Errors
    /// Those of [`Pack::discard`]; [`Error::Format`] if there is no such chunk.
    pub fn discard_damaged(&self, chunks: Range<u32>) -> Result<bool> {
        let mut is_damaged = false;
        for chunk in chunks {
            if self.read_chunk(chunk).is_err() {
                self.discard(chunk)?;
                is_damaged = true;
            }
        }
        Ok(is_damaged)
    }

    /// Forgets a chunk that is damaged. A whole pack that is damaged is given up: what is right of it goes on as a
    /// partial one, which replaces it when it is whole again. Until then it stays, for it is not for the index of
    /// one image to say what others have. It is judged by the file that has its name: if somebody has put a right one
    /// there, that is the pack from then on.
    ///
    /// # Errors
    /// [`Error::WrongIndex`] if the pack is what its digest says, so that it is the index that says something else;
    /// [`Error::Io`] if the store can't be changed.
    pub fn discard(&self, chunk: u32) -> Result<()> {
        let record = self.chunk(chunk)?;
        self.check_filling()?;
        let _turning = lock(&self.turning);
        if let Some(whole) = self.whole() {
            return self.give_up(whole, &record);
        }
        let mut state = self.lock();
        // Another one who found it damaged may have fetched it anew meanwhile, and somebody reads it now.
        if matches!(read_stored(&state.file, &record), Ok(Some(_))) {
            return Ok(());
        }
        if let Some(map) = &mut state.map {
            map.set(chunk, false)?;
        }
        // Only returns room to the file system, which may not support it: no reason to fail.
        let _ = fallocate(
            &state.file,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            u64::from(record.stored_offset),
            u64::from(record.stored_length),
        );
        Ok(())
    }

    /// Gives a whole pack up because of a chunk that is not what the index says.
    fn give_up(&self, whole: Arc<File>, chunk: &ChunkRecord) -> Result<()> {
        self.refuse_wrong_index()?;
        let Some(found) = State::find_whole(&self.directory, &self.record)? else {
            return self.go_on_with_partial(&[&whole]);
        };
        if !self.is_intact(&found.file) {
            return self.go_on_with_partial(&[&found.file, &whole]);
        }
        let is_right = matches!(read_stored(&found.file, chunk), Ok(Some(_)));
        *self.lock() = found;
        if is_right {
            return Ok(());
        }
        Err(self.found_wrong_index())
    }

    /// The file of a whole pack.
    fn whole(&self) -> Option<Arc<File>> {
        let state = self.lock();
        state.map.is_none().then(|| state.file.clone())
    }

    /// Whether a file is the pack, which takes reading all of it; what is found out is remembered. One that can't be
    /// read is damaged.
    fn is_intact(&self, whole: &File) -> bool {
        if self.is_known_damaged(whole) {
            return false;
        }
        // What it is before it is read: should it be mended meanwhile, the finding is of what it was.
        let metadata = whole.metadata();
        let read = sha256_file(whole, PACK_MAX, |_| ());
        let is_intact = matches!(read, Ok(Some(digest)) if digest == self.record.digest);
        if let (false, Ok(metadata)) = (is_intact, metadata) {
            self.findings.add_damaged(&self.record.digest, &metadata);
        }
        is_intact
    }

    fn is_known_damaged(&self, whole: &File) -> bool {
        self.findings.is_damaged_file(&self.record.digest, whole)
    }

    /// From a damaged whole pack to a partial one, for whoever holds `turning`.
    fn go_on_with_partial(&self, files: &[&File]) -> Result<()> {
        self.copy_to_partial(files)?;
        self.complete_if_full().map(|_| ())
    }

    /// Goes on with the partial pack that has its name, after what is right of files was copied to it.
    fn copy_to_partial(&self, files: &[&File]) -> Result<()> {
        let mut partial = State::open_partial(&self.directory, &self.record)?;
        for file in files {
            self.copy_right_chunks(file, &mut partial)?;
        }
        *self.lock() = partial;
        Ok(())
    }

    fn copy_right_chunks(&self, whole: &File, partial: &mut State) -> Result<()> {
        let Some(map) = &mut partial.map else {
            return Ok(());
        };
        for number in 0..self.record.chunk_count {
            let record = self.chunk(number)?;
            if map.has(number) {
                continue;
            }
            if let Ok(Some(stored)) = read_stored(whole, &record) {
                partial
                    .file
                    .write_all_at(&stored, u64::from(record.stored_offset))
                    .map_err(Error::io("write to", &self.path()))?;
                map.set(number, true)?;
            }
        }
        Ok(())
    }

    /// Makes a partial pack of which all chunks are there a blob of the store, and says whether it is one now.
    /// If its digest is wrong, forgets the chunks that are. Reads all of it, and waits until it is on the disk.
    ///
    /// # Errors
    /// [`Error::WrongIndex`] if all chunks are what the index says, and yet not the pack: they can be read, and it
    /// never becomes a blob by this index. [`Error::Io`] if the store can't be read or changed: to be tried again when
    /// the pack is opened.
    pub fn complete(&self) -> Result<bool> {
        let _turning = lock(&self.turning);
        self.complete_if_full()
    }

    /// As [`Pack::complete`], for whoever holds `turning`.
    fn complete_if_full(&self) -> Result<bool> {
        let (pack, index) = (self.record.digest, self.record.index_digest);
        let (blob, partial) = (layout::blob(&pack), layout::partial(&pack, &index));
        let Some(file) = self.full_file() else {
            return Ok(self.whole().is_some());
        };
        self.check_filling()?;
        self.refuse_wrong_index()?;
        let digest = sha256_file(&file, self.record.stored_length, |_| ())
            .map_err(self.directory.failed("read", &partial))?;
        if digest != Some(pack) {
            // If all chunks are right, the image's index is not that of the pack: the chunks can be
            // read all the same, and the pack stays where it is.
            return match self.forget_damaged(&file)? {
                0 => Err(self.found_wrong_index()),
                _ => Ok(false),
            };
        }
        let Some(file) = self.with_its_name(file, &partial)? else {
            return Ok(false);
        };
        file.sync_data()
            .map_err(self.directory.failed("write to", &partial))?;
        let create = || self.directory.failed("create", &blob);
        self.directory.rename(&partial, &blob).map_err(create())?;
        self.lock().map = None;
        // Not without the map before the pack has its new name for good.
        self.directory.sync(layout::BLOBS).map_err(create())?;
        let map = layout::map(&pack, &index);
        self.directory
            .remove(&map)
            .map_err(self.directory.failed("remove", &map))?;
        Ok(true)
    }

    /// The file of a partial pack of which all chunks are there.
    fn full_file(&self) -> Option<Arc<File>> {
        let state = self.lock();
        let is_full = state.map.as_ref().is_some_and(PresenceMap::is_full);
        is_full.then(|| state.file.clone())
    }

    /// The file of a partial pack that is right, under its name: it is copied there if somebody has taken the name away
    /// or given it to another file.
    fn with_its_name(&self, file: Arc<File>, partial: &str) -> Result<Option<Arc<File>>> {
        let failed = || self.directory.failed("read", partial);
        let own = file.metadata().map_err(failed())?;
        let named = self.directory.metadata(partial).map_err(failed())?;
        if named.is_some_and(|named| (named.dev(), named.ino()) == (own.dev(), own.ino())) {
            return Ok(Some(file));
        }
        let (pack, index) = (self.record.digest, self.record.index_digest);
        tracing::warn!(%pack, %index, "the file of a pack that is being filled was removed or replaced: it is made anew");
        self.directory
            .remove(partial)
            .map_err(self.directory.failed("remove", partial))?;
        self.copy_to_partial(&[&file])?;
        Ok(self.full_file())
    }

    /// Forgets the chunks of a partial pack that are not what they should be, and says how many.
    fn forget_damaged(&self, file: &File) -> Result<u32> {
        let mut damaged = 0;
        for chunk in 0..self.record.chunk_count {
            if matches!(read_stored(file, &self.chunk(chunk)?), Ok(Some(_))) {
                continue;
            }
            damaged += 1;
            if let Some(map) = &mut self.lock().map {
                map.set(chunk, false)?;
            }
        }
        Ok(damaged)
    }

    /// Refuses to change a pack that was opened to be read only.
    fn check_filling(&self) -> Result<()> {
        if self.is_for_filling {
            return Ok(());
        }
        let read_only = io::ErrorKind::ReadOnlyFilesystem.into();
        Err(Error::io("write to", &self.path())(read_only))
    }

    /// Refuses an index that is known to be wrong.
    fn refuse_wrong_index(&self) -> Result<()> {
        let (pack, index) = (self.record.digest, self.record.index_digest);
        if self.findings.is_wrong_index(&pack, &index) {
            return Err(Error::WrongIndex { pack, index });
        }
        Ok(())
    }

    /// Remembers that the index is wrong.
    fn found_wrong_index(&self) -> Error {
        let (pack, index) = (self.record.digest, self.record.index_digest);
        self.findings.add_wrong_index(&pack, &index);
        Error::WrongIndex { pack, index }
    }

    /// The file, to be shown to people.
    fn path(&self) -> std::path::PathBuf {
        self.directory.path(&match self.lock().map {
            Some(_) => layout::partial(&self.record.digest, &self.record.index_digest),
            None => layout::blob(&self.record.digest),
        })
    }

    /// Writes to another file from now on, for tests.
    #[cfg(test)]
    pub(crate) fn replace_file(&self, file: File) {
        self.lock().file = Arc::new(file);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}
