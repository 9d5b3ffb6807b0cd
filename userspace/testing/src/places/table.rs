// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A pack's table of places in a store, which is changed in place.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use peerfs_format::{DataFile, PackRecord, PlacesHeader, PLACES_HEADER_SIZE, SLOTS_MAX, SLOT_SIZE};

use crate::{Error, Result};

pub(crate) struct PlacesTable {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    header: PlacesHeader,
}

impl PlacesTable {
    /// The table of a pack in a store. If there is none, or what is there is none, it is made and says that nothing is
    /// here.
    pub(crate) fn open(store: &Path, pack: &PackRecord) -> Result<Self> {
        let name = format!("{}-{}", pack.digest, pack.index_digest);
        let path = store.join("places").join(name);
        let open = || -> io::Result<(File, PlacesHeader)> {
            fs::create_dir_all(store.join("places"))?;
            let file = open_file(&path)?;
            let mut bytes = Vec::new();
            let length = file.metadata()?.len().min(PLACES_HEADER_SIZE as u64);
            bytes.resize(length as usize, 0);
            file.read_exact_at(&mut bytes, 0)?;
            let new = PlacesHeader {
                chunk_count: pack.chunk_count,
                generation: 1,
                pack: pack.digest,
                index: pack.index_digest,
            };
            let header = match PlacesHeader::parse(&bytes) {
                Ok(header) if header.is_of(&new.pack, &new.index, new.chunk_count) => header,
                _ => {
                    file.set_len(0)?;
                    file.write_all_at(&header_bytes(&new), 0)?;
                    new
                }
            };
            // So that no hole is taken for the end of the entries.
            let end = header.slot_offset(0);
            if file.metadata()?.len() < end {
                file.set_len(end)?;
            }
            Ok((file, header))
        };
        let (file, header) = open().map_err(Error::io("open", &path))?;
        Ok(PlacesTable { file, path, header })
    }

    /// The slot of a data file: the one that names it, or else the first empty one, or the last one.
    pub(crate) fn slot_of(&mut self, data_file: &DataFile) -> Result<u32> {
        let length = SLOTS_MAX as usize * SLOT_SIZE;
        let start = self.header.slot_offset(0);
        let mut bytes = vec![0; length];
        let read = self.file.read_at(&mut bytes, start);
        read.map_err(Error::io("read", &self.path))?;
        let names: Vec<_> = bytes.chunks_exact(SLOT_SIZE).map(DataFile::parse).collect();
        let is_here = |name: &Option<DataFile>| name.as_ref() == Some(data_file);
        if let Some(slot) = names.iter().position(is_here) {
            return Ok(slot as u32);
        }
        let empty = names.iter().position(Option::is_none);
        let slot = empty.map_or(SLOTS_MAX - 1, |slot| slot as u32);
        self.set_slot(slot, &encoded(data_file))?;
        Ok(slot)
    }

    /// Writes what a slot has, right or wrong, and the next generation.
    pub(crate) fn set_slot(&mut self, slot: u32, bytes: &[u8]) -> Result<()> {
        self.write(bytes, self.header.slot_offset(slot))?;
        self.header.generation += 1;
        self.write(&header_bytes(&self.header), 0)
    }

    /// Writes entries from a chunk's on, right or wrong.
    pub(crate) fn set_entries(&self, first: u32, entries: &[u64]) -> Result<()> {
        let bytes: Vec<u8> = entries
            .iter()
            .flat_map(|entry| entry.to_le_bytes())
            .collect();
        self.write(&bytes, PlacesHeader::place_offset(first))
    }

    /// Writes the header of another table over this one's.
    pub(crate) fn set_header(&self, header: &PlacesHeader) -> Result<()> {
        self.write(&header_bytes(header), 0)
    }

    pub(crate) fn header(&self) -> PlacesHeader {
        self.header
    }

    fn write(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let written = self.file.write_all_at(bytes, offset);
        written.map_err(Error::io("write", &self.path))
    }
}

/// A file to read and write, which is made if there is none.
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

fn header_bytes(header: &PlacesHeader) -> Vec<u8> {
    let mut bytes = Vec::new();
    header.write_to(|piece| bytes.extend_from_slice(piece));
    bytes
}

/// The bytes of the slot of a data file.
pub(crate) fn encoded(data_file: &DataFile) -> Vec<u8> {
    let mut bytes = Vec::new();
    data_file.write_to(|piece| bytes.extend_from_slice(piece));
    bytes
}
