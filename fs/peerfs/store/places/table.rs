// SPDX-License-Identifier: GPL-2.0

//! A table of places that is open: what is read of it, each time anew.
//!
//! Locking: none. These functions read the store's filesystem, and are not called with a lock of a pack held.
#![forbid(unsafe_code)]

use core::ops::Range;

use kernel::alloc::flags::GFP_KERNEL_ACCOUNT;
use kernel::prelude::*;
use peerfs_format::{
    DataFile, PackRecord, PlacesHeader, PLACES_HEADER_SIZE, PLACE_SIZE, SLOTS_MAX, SLOT_SIZE,
};

use crate::rust::fs::OpenedFile;

/// A table of places that is open.
#[derive(Clone)]
pub(in crate::store) struct PlacesTable {
    file: OpenedFile,
    /// As it was when the file was opened.
    header: PlacesHeader,
}

impl PlacesTable {
    /// The table in a file; `None` if that is no table of this pack.
    pub(in crate::store) fn open(file: OpenedFile, pack: &PackRecord) -> Result<Option<Self>> {
        let file = file.staying_cached();
        let header = read_header(&file)?
            .filter(|header| header.is_of(&pack.digest, &pack.index_digest, pack.chunk_count));
        Ok(header.map(|header| PlacesTable { file, header }))
    }

    /// Whether it still has its name, and the slots that it had when it was opened.
    pub(in crate::store) fn is_current(&self) -> Result<bool> {
        Ok(!self.file.is_unlinked() && read_header(&self.file)? == Some(self.header))
    }

    /// Whether both are the same file.
    pub(in crate::store) fn is_same_file(&self, other: &PlacesTable) -> bool {
        self.file == other.file
    }

    /// Chunks of the pack.
    pub(in crate::store) fn chunk_count(&self) -> u32 {
        self.header.chunk_count
    }

    /// The entries of these chunks: as many as the file has.
    pub(in crate::store) fn entries(&self, chunks: Range<u32>) -> Result<KVVec<u8>> {
        let offset = PlacesHeader::place_offset(chunks.start);
        let length = chunks.len().saturating_mul(PLACE_SIZE);
        self.file.read_new(length, offset, GFP_KERNEL_ACCOUNT)
    }

    /// What the slots name, from the first one on: as many as the file has.
    pub(in crate::store) fn names(&self) -> Result<KVVec<Option<DataFile>>> {
        let length = SLOT_SIZE.saturating_mul(SLOTS_MAX as usize);
        let offset = self.header.slot_offset(0);
        let bytes = self.file.read_new(length, offset, GFP_KERNEL)?;
        let mut names = KVVec::with_capacity(SLOTS_MAX as usize, GFP_KERNEL)?;
        for slot in bytes.chunks_exact(SLOT_SIZE) {
            names.push(DataFile::parse(slot), GFP_KERNEL)?;
        }
        Ok(names)
    }
}

fn read_header(file: &OpenedFile) -> Result<Option<PlacesHeader>> {
    let mut bytes = [0; PLACES_HEADER_SIZE];
    let length = file.read_at(&mut bytes, 0)?;
    Ok(PlacesHeader::parse(bytes.get(..length).unwrap_or_default()).ok())
}
