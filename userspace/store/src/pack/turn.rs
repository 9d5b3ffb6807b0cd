// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How a pack becomes whole, and how a whole one that is damaged is given up.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::Ordering;
use std::sync::Arc;

use peerfs_format::{ChunkRecord, PACK_MAX};
use rustix::fs::{fallocate, FallocateFlags};

use super::state::{open_own, own_name, read_stored, Places, State};
use super::Pack;
use crate::digest::sha256_file;
use crate::lock::lock;
use crate::places::PlaceTable;
use crate::{layout, Error, Result, Sha256Writer};

impl Pack {
    /// Ends what a process before this one has left: makes a full pack whole; goes on with the places beside a whole
    /// one, which is damaged as a rule, or removes them if that has become right in another way.
    pub(crate) fn settle(&self) -> Result<()> {
        let _turning = lock(&self.turning);
        let Some(whole) = self.whole_file() else {
            return self.complete_if_full().map(|_| ());
        };
        let (pack, index) = (self.record.digest, self.record.index_digest);
        let beside = [
            layout::places(&pack, &index),
            layout::partial(&pack, &index),
        ];
        let directory = self.store.data_files.directory();
        let is_alone = !beside.iter().any(|name| directory.has_file(name));
        if is_alone && !self.is_known_damaged(&whole) {
            return Ok(());
        }
        if !self.is_intact(&whole) {
            return self.go_on_with_places(&[&whole]);
        }
        for name in beside {
            let removed = directory.remove(&name);
            removed.map_err(directory.failed("remove", &name))?;
        }
        self.store.data_files.forget(&own_name(&self.record));
        Ok(())
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
        if let Some(whole) = self.whole_file() {
            return self.give_up(whole, &record);
        }
        // Another one who found it damaged may have fetched it anew meanwhile, and somebody reads it now.
        if matches!(self.read_place(chunk, &record), Ok(Some(_))) {
            return Ok(());
        }
        self.is_proven.store(false, Ordering::Relaxed);
        let changes = self.store.data_files.lock_changes()?;
        let mut state = self.lock();
        let State::Places(places) = &mut *state else {
            return Ok(());
        };
        let name = places.table.place(chunk).map(|(name, _)| name);
        places.table.clear(&changes, chunk)?;
        if let (Some(own), true) = (&places.own, name == Some(own_name(&self.record))) {
            // Only returns room to the file system, which may not support it: no reason to fail.
            let _ = fallocate(
                own,
                FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                u64::from(record.stored_offset),
                u64::from(record.stored_length),
            );
        }
        drop(state);
        self.tell_went();
        Ok(())
    }

    /// Gives a whole pack up because of a chunk that is not what the index says.
    fn give_up(&self, whole: Arc<File>, chunk: &ChunkRecord) -> Result<()> {
        self.refuse_wrong_index()?;
        let found = State::find_whole(self.store.data_files.directory(), &self.record)?;
        let Some(State::Whole(found)) = found else {
            return self.go_on_with_places(&[&whole]);
        };
        if !self.is_intact(&found) {
            return self.go_on_with_places(&[&found, &whole]);
        }
        let is_right = matches!(read_stored(&found, chunk), Ok(Some(_)));
        *self.lock() = State::Whole(found);
        if is_right {
            return Ok(());
        }
        Err(self.found_wrong_index())
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
            self.store
                .findings
                .add_damaged(&self.record.digest, &metadata);
        }
        is_intact
    }

    fn is_known_damaged(&self, whole: &File) -> bool {
        self.store
            .findings
            .is_damaged_file(&self.record.digest, whole)
    }

    /// From a damaged whole pack to places, for whoever holds `turning`.
    fn go_on_with_places(&self, files: &[&File]) -> Result<()> {
        let State::Places(mut places) = State::open_places(&self.store.data_files, &self.record)?
        else {
            return Ok(());
        };
        // The damaged one can't be one of its places: what is right of it is copied.
        self.copy_to_own(files, &mut places)?;
        *self.lock() = State::Places(places);
        self.tell_went();
        self.complete_if_full().map(|_| ())
    }

    /// Copies what is right of files, and not in the pack's own partial file yet, to that.
    fn copy_to_own(&self, files: &[&File], places: &mut Places) -> Result<()> {
        let (record, name) = (&self.record, own_name(&self.record));
        let data_files = &self.store.data_files;
        let mut own = open_own(data_files.directory(), record)?;
        data_files.forget(&name);
        let (mut number, mut collections) = (0, data_files.own_collections());
        while number < record.chunk_count {
            let chunk = self.chunk(number)?;
            let offset = u64::from(chunk.stored_offset);
            let is_in_own = matches!(read_stored(&own, &chunk), Ok(Some(_)));
            let is_here = places
                .table
                .place(number)
                .is_some_and(|(file, _)| file != name);
            let mut found = files
                .iter()
                .filter_map(|file| read_stored(file, &chunk).ok()?);
            let stored = if is_in_own || is_here {
                None
            } else {
                found.next()
            };
            let changes = data_files.lock_changes()?;
            if data_files.own_collections() != collections {
                // What is in the file and in no table may have been given up, and the file with it.
                collections = data_files.own_collections();
                own = open_own(data_files.directory(), record)?;
                continue;
            }
            if let Some(stored) = &stored {
                own.write_all_at(stored, offset)
                    .map_err(Error::io("write to", &self.path()))?;
            }
            if is_in_own || stored.is_some() {
                self.enter(&changes, places, number, &name, offset)?;
            } else if !is_here {
                places.table.clear(&changes, number)?;
            }
            number += 1;
        }
        places.own = Some(own);
        Ok(())
    }

    /// Makes a pack of which all chunks are there a blob of the store if they are all in its own file, and says whether
    /// all of it is here and right now. If its digest is wrong, forgets the chunks that are. Reads all of it, and
    /// waits until it is on the disk if it becomes a blob.
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
        match self.full() {
            Full::Whole => Ok(true),
            Full::No => Ok(false),
            Full::Own(own) => self.make_blob(own),
            Full::Scattered if self.is_proven.load(Ordering::Relaxed) => Ok(true),
            Full::Scattered => {
                self.refuse_wrong_index()?;
                if !self.is_pack()? {
                    return self.forget_damaged_or_refuse();
                }
                self.is_proven.store(true, Ordering::Relaxed);
                Ok(true)
            }
        }
    }

    fn make_blob(&self, file: Arc<File>) -> Result<bool> {
        let (pack, index) = (self.record.digest, self.record.index_digest);
        let (blob, partial) = (layout::blob(&pack), layout::partial(&pack, &index));
        let directory = self.store.data_files.directory();
        self.check_filling()?;
        self.refuse_wrong_index()?;
        let digest = sha256_file(&file, self.record.stored_length, |_| ())
            .map_err(directory.failed("read", &partial))?;
        if digest != Some(pack) {
            return self.forget_damaged_or_refuse();
        }
        let Some(file) = self.with_its_name(file, &partial)? else {
            return Ok(false);
        };
        file.sync_data()
            .map_err(directory.failed("write to", &partial))?;
        let create = || directory.failed("create", &blob);
        let changes = self.store.data_files.lock_changes()?;
        let table = PlaceTable::find(&self.store.data_files, &self.record)?;
        if table.is_some_and(|table| !table.is_full()) {
            // Some of it was given up since it was read: that is said before it is done.
            return Ok(false);
        }
        directory.rename(&partial, &blob).map_err(create())?;
        drop(changes);
        *self.lock() = State::Whole(file);
        self.store.data_files.forget(&own_name(&self.record));
        // Not without the table before the pack has its new name for good.
        directory.sync(layout::BLOBS).map_err(create())?;
        let table = layout::places(&pack, &index);
        directory
            .remove(&table)
            .map_err(directory.failed("remove", &table))?;
        Ok(true)
    }

    /// What there is of the pack, if that is all of it.
    fn full(&self) -> Full {
        let name = own_name(&self.record);
        let mut state = self.lock();
        let State::Places(places) = &mut *state else {
            return Full::Whole;
        };
        if !places.table.is_full() {
            return Full::No;
        }
        let mut chunks = 0..self.record.chunk_count;
        if !chunks.all(|chunk| {
            places
                .table
                .place(chunk)
                .is_some_and(|(file, _)| file == name)
        }) {
            return Full::Scattered;
        }
        if let (None, true) = (&places.own, self.is_for_filling) {
            // Filled by a process before this one. What can't be opened can be read all the same.
            places.own = open_own(self.store.data_files.directory(), &self.record).ok();
        }
        match &places.own {
            Some(own) => Full::Own(own.clone()),
            None => Full::Scattered,
        }
    }

    /// Whether the chunks, one behind the other, are the pack.
    pub(crate) fn is_pack(&self) -> Result<bool> {
        let mut hash = Sha256Writer::default();
        for chunk in 0..self.record.chunk_count {
            match self.read_place(chunk, &self.chunk(chunk)?)? {
                Some(stored) => hash.update(&stored),
                None => return Ok(false),
            }
        }
        Ok(hash.finish() == self.record.digest)
    }

    /// The file of a partial pack that is right, under its name: it is copied there if somebody has taken the name away
    /// or given it to another file.
    fn with_its_name(&self, file: Arc<File>, partial: &str) -> Result<Option<Arc<File>>> {
        let directory = self.store.data_files.directory();
        let failed = || directory.failed("read", partial);
        let own = file.metadata().map_err(failed())?;
        let named = directory.metadata(partial).map_err(failed())?;
        if named.is_some_and(|named| (named.dev(), named.ino()) == (own.dev(), own.ino())) {
            return Ok(Some(file));
        }
        let (pack, index) = (self.record.digest, self.record.index_digest);
        tracing::warn!(%pack, %index, "the file of a pack that is being filled was removed or replaced: it is made anew");
        directory
            .remove(partial)
            .map_err(directory.failed("remove", partial))?;
        let State::Places(mut places) = State::open_places(&self.store.data_files, &self.record)?
        else {
            return Ok(None);
        };
        self.copy_to_own(&[&file], &mut places)?;
        *self.lock() = State::Places(places);
        match self.full() {
            Full::Own(own) => Ok(Some(own)),
            _ => Ok(None),
        }
    }

    /// Forgets the chunks that are not what they should be. If all are, the image's index is not that of the pack: they can
    /// be read all the same, and the pack stays where it is.
    fn forget_damaged_or_refuse(&self) -> Result<bool> {
        let mut is_damaged = false;
        for chunk in 0..self.record.chunk_count {
            if matches!(self.read_place(chunk, &self.chunk(chunk)?), Ok(Some(_))) {
                continue;
            }
            is_damaged = true;
            let changes = self.store.data_files.lock_changes()?;
            if let State::Places(places) = &mut *self.lock() {
                places.table.clear(&changes, chunk)?;
            }
        }
        if is_damaged {
            self.tell_went();
            return Ok(false);
        }
        Err(self.found_wrong_index())
    }

    /// Refuses an index that is known to be wrong.
    fn refuse_wrong_index(&self) -> Result<()> {
        let (pack, index) = (self.record.digest, self.record.index_digest);
        if self.store.findings.is_wrong_index(&pack, &index) {
            return Err(Error::WrongIndex { pack, index });
        }
        Ok(())
    }

    /// Remembers that the index is wrong.
    fn found_wrong_index(&self) -> Error {
        let (pack, index) = (self.record.digest, self.record.index_digest);
        self.store.findings.add_wrong_index(&pack, &index);
        Error::WrongIndex { pack, index }
    }
}

/// Whether all of a pack is here.
enum Full {
    /// It is a blob.
    Whole,
    /// All chunks are in its own file.
    Own(Arc<File>),
    /// All chunks are here, in several files.
    Scattered,
    /// Some are not here.
    No,
}
