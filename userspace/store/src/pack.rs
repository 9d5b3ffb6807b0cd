// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A pack of the store, whole or being filled.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Arc, Mutex, MutexGuard};

use peerfs_format::{ChunkRecord, Digest, PackIndexLayout, PackRecord, METADATA_MAX};
use rustix::fs::{fallocate, FallocateFlags};

use crate::chunk::is_stored_chunk;
use crate::digest::sha256_file;
use crate::layout::Layout;
use crate::lock::lock;
use crate::presence_map::{full_bits, PresenceMap};
use crate::whole_file::sync_directory;
use crate::{sha256, Error, Result};

/// A pack of the store. All methods may be called from many threads; they block on the disk.
pub struct Pack {
    layout: Layout,
    record: PackRecord,
    index: Vec<u8>,
    index_layout: PackIndexLayout,
    /// Held by whoever makes a partial pack whole or a whole one partial, which takes as long as the disk does;
    /// before `state`.
    turning: Mutex<()>,
    /// Held for moments: those who ask what is there wait for it.
    state: Mutex<State>,
}

struct State {
    /// Stays the same file when the pack becomes whole.
    file: Arc<File>,
    /// None for a whole pack.
    map: Option<PresenceMap>,
}

impl Pack {
    /// Opens a pack to read it; None if there is nothing of it.
    pub(crate) fn find(
        layout: &Layout,
        record: &PackRecord,
        index: Vec<u8>,
    ) -> Result<Option<Self>> {
        let index_layout = check_index(record, &index)?;
        let state = match open_existing(&layout.blob(&record.digest))? {
            Some(file) => State {
                file: Arc::new(file),
                map: None,
            },
            None => {
                let file = open_existing(&layout.partial(&record.digest))?;
                let map = PresenceMap::read(layout, &record.digest, record.chunk_count)?;
                match (file, map) {
                    (Some(file), Some(map)) => State {
                        file: Arc::new(file),
                        map: Some(map),
                    },
                    _ => return Ok(None),
                }
            }
        };
        Ok(Some(Pack {
            layout: layout.clone(),
            record: *record,
            index,
            index_layout,
            turning: Mutex::new(()),
            state: Mutex::new(state),
        }))
    }

    /// Opens a pack to fill it, and makes a partial one if there is nothing of it.
    pub(crate) fn open(layout: &Layout, record: &PackRecord, index: Vec<u8>) -> Result<Self> {
        let index_layout = check_index(record, &index)?;
        let state = match open_existing(&layout.blob(&record.digest))? {
            Some(file) => State {
                file: Arc::new(file),
                map: None,
            },
            None => State::open_partial(layout, record)?,
        };
        let pack = Pack {
            layout: layout.clone(),
            record: *record,
            index,
            index_layout,
            turning: Mutex::new(()),
            state: Mutex::new(state),
        };
        // A process may have died between writing the last chunk and renaming the pack.
        pack.complete()?;
        Ok(pack)
    }

    /// The pack's digest.
    pub fn digest(&self) -> &Digest {
        &self.record.digest
    }

    /// What the manifest says about the pack.
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
            .chunk(&self.record, chunk)
            .map_err(Error::format(self.record.index_digest))
    }

    /// The number and record of the chunk that covers an offset of the uncompressed address space.
    ///
    /// # Errors
    /// [`Error::Format`] if no valid chunk covers it.
    pub fn chunk_at(&self, logical_offset: u32) -> Result<(u32, ChunkRecord)> {
        self.index_layout
            .view(&self.index)
            .chunk_at(&self.record, logical_offset)
            .map_err(Error::format(self.record.index_digest))
    }

    /// The open file: the same one while the pack is filled and when it is whole.
    pub fn file(&self) -> Arc<File> {
        self.lock().file.clone()
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

    /// Which chunks are there now: chunk `n` is bit `n % 8` of byte `n / 8`.
    pub fn presence(&self) -> Vec<u8> {
        match &self.lock().map {
            Some(map) => map.bits().to_vec(),
            None => full_bits(self.record.chunk_count),
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

    /// A chunk's stored bytes, verified; None if it is not there.
    ///
    /// # Errors
    /// [`Error::ChunkDamaged`]: [`Pack::discard`] it and fetch it anew.
    pub fn read_chunk(&self, chunk: u32) -> Result<Option<Vec<u8>>> {
        let record = self.chunk(chunk)?;
        if !self.has(chunk) {
            return Ok(None);
        }
        let file = self.lock().file.clone();
        let mut stored = vec![0; record.stored_length as usize];
        match file.read_exact_at(&mut stored, u64::from(record.stored_offset)) {
            Ok(()) if is_stored_chunk(&record, &stored) => Ok(Some(stored)),
            // Discarded in between.
            _ if !self.has(chunk) => Ok(None),
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(Error::io(
                "read",
                &self.layout.partial(self.digest()),
            )(error)),
            _ => Err(Error::ChunkDamaged {
                pack: *self.digest(),
                chunk,
            }),
        }
    }

    /// Stores a chunk after verifying its stored bytes, and says whether it is time to [`Pack::complete`] the
    /// pack.
    ///
    /// # Errors
    /// [`Error::ChunkDamaged`] if these are not the chunk's bytes; [`Error::Io`] if the disk is
    /// full, after which the chunk counts as absent and the pack is as it was.
    pub fn write_chunk(&self, chunk: u32, stored: &[u8]) -> Result<bool> {
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
            .map_err(|error| Error::io("write to", &self.layout.partial(self.digest()))(error))?;
        let mut state = self.lock();
        let Some(map) = &mut state.map else {
            return Ok(false);
        };
        map.set(chunk, true)?;
        Ok(map.is_full())
    }

    /// Forgets a chunk: because it is damaged, or to make room. A whole pack becomes a partial one.
    ///
    /// # Errors
    /// [`Error::Io`] if the store can't be changed.
    pub fn discard(&self, chunk: u32) -> Result<()> {
        let record = self.chunk(chunk)?;
        let _turning = lock(&self.turning);
        let mut state = self.lock();
        if state.map.is_none() {
            *state = State::reopen_whole(&self.layout, &self.record)?;
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

    /// Makes a partial pack of which all chunks are there a blob of the store, and says whether it is one now.
    /// If its digest is wrong, forgets the chunks that are. Reads all of it, and waits until it is on the disk.
    ///
    /// # Errors
    /// [`Error::Io`] if the store can't be read or changed: to be tried again when the pack is opened.
    pub fn complete(&self) -> Result<bool> {
        let _turning = lock(&self.turning);
        let file = {
            let state = self.lock();
            match &state.map {
                None => return Ok(true),
                Some(map) if !map.is_full() => return Ok(false),
                Some(_) => state.file.clone(),
            }
        };
        let partial = self.layout.partial(self.digest());
        let digest = sha256_file(&file, |_| ()).map_err(Error::io("read", &partial))?;
        if digest != self.record.digest {
            // If all chunks are right, the image's index is not that of the pack: the chunks can be
            // read all the same, and the pack stays where it is.
            self.forget_damaged(&file)?;
            return Ok(false);
        }
        file.sync_data().map_err(Error::io("write to", &partial))?;
        let blob = self.layout.blob(self.digest());
        fs::rename(&partial, &blob).map_err(Error::io("create", &blob))?;
        self.lock().map = None;
        // Not without the map before the pack has its new name for good.
        sync_directory(&self.layout.blobs()).map_err(Error::io("create", &blob))?;
        let map = self.layout.map(self.digest());
        fs::remove_file(&map).map_err(Error::io("remove", &map))?;
        Ok(true)
    }

    /// Forgets the chunks of a partial pack that are not what they should be.
    fn forget_damaged(&self, file: &File) -> Result<()> {
        for chunk in 0..self.record.chunk_count {
            let record = self.chunk(chunk)?;
            let mut stored = vec![0; record.stored_length as usize];
            let read = file.read_exact_at(&mut stored, u64::from(record.stored_offset));
            if read.is_ok() && is_stored_chunk(&record, &stored) {
                continue;
            }
            if let Some(map) = &mut self.lock().map {
                map.set(chunk, false)?;
            }
        }
        Ok(())
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

impl State {
    fn open_partial(layout: &Layout, record: &PackRecord) -> Result<Self> {
        let path = layout.partial(&record.digest);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::io("create", &path))?;
        let length = file.metadata().map_err(Error::io("read", &path))?.size();
        if length != record.stored_length {
            file.set_len(record.stored_length)
                .map_err(Error::io("create", &path))?;
        }
        if length == 0 {
            // A map without its pack says nothing.
            let map = layout.map(&record.digest);
            match fs::remove_file(&map) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", &map)(error))
                }
                _ => (),
            }
        }
        let map = PresenceMap::open(layout, &record.digest, record.chunk_count, false)?;
        Ok(State {
            file: Arc::new(file),
            map: Some(map),
        })
    }

    /// Makes a whole pack a partial one with all chunks.
    fn reopen_whole(layout: &Layout, record: &PackRecord) -> Result<Self> {
        let blob = layout.blob(&record.digest);
        let partial = layout.partial(&record.digest);
        let map = PresenceMap::open(layout, &record.digest, record.chunk_count, true)?;
        fs::rename(&blob, &partial).map_err(Error::io("rename", &blob))?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&partial)
            .map_err(Error::io("open", &partial))?;
        // A damaged pack may be short or long.
        file.set_len(record.stored_length)
            .map_err(Error::io("write to", &partial))?;
        Ok(State {
            file: Arc::new(file),
            map: Some(map),
        })
    }
}

fn open_existing(path: &std::path::Path) -> Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("open", path)(error)),
    }
}

fn check_index(record: &PackRecord, index: &[u8]) -> Result<PackIndexLayout> {
    if index.len() as u64 > METADATA_MAX {
        return Err(Error::BlobTooLarge {
            digest: record.index_digest,
            length: index.len() as u64,
            limit: METADATA_MAX,
        });
    }
    if sha256(index) != record.index_digest {
        return Err(Error::BlobDamaged(record.index_digest));
    }
    let layout = PackIndexLayout::parse(index).map_err(Error::format(record.index_digest))?;
    let view = layout.view(index);
    if view.chunks.len() as u64 != u64::from(record.chunk_count) {
        return Err(Error::Format {
            digest: record.index_digest,
            source: peerfs_format::Error::Malformed("chunk count"),
        });
    }
    Ok(layout)
}
