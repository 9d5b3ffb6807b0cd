// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A pack that is not here, by an index that somebody has lent: what of it the store has by other packs.

use std::sync::Arc;

use peerfs_format::{ChunkRecord, Digest, PackIndexLayout, PackRecord};

use super::state::{check_index, read_stored_at};
use super::PackStore;
use crate::{Error, Result};

/// A pack of which the store has nothing by itself, to be read as far as its chunks are in other packs. All methods
/// block on the disk.
pub struct LentPack {
    store: Arc<PackStore>,
    record: PackRecord,
    index: Vec<u8>,
    layout: PackIndexLayout,
}

impl LentPack {
    pub(crate) fn new(store: &Arc<PackStore>, record: &PackRecord, index: Vec<u8>) -> Result<Self> {
        let layout = check_index(record, &index)?;
        Ok(LentPack {
            store: Arc::clone(store),
            record: *record,
            index,
            layout,
        })
    }

    /// The pack's record in a blob table.
    pub fn record(&self) -> &PackRecord {
        &self.record
    }

    /// A chunk's checked record in the index.
    ///
    /// # Errors
    /// [`Error::Format`] if there is no such chunk or the record is not valid.
    pub fn chunk(&self, chunk: u32) -> Result<ChunkRecord> {
        let chunk = self.layout.view(&self.index).chunk(chunk);
        chunk.map_err(Error::format(self.record.index_digest))
    }

    /// The chunks that the catalogue leads to, a bit for each, the first in the least significant bit of the first byte.
    /// What it leads to was not read.
    ///
    /// # Errors
    /// [`Error::Format`] if the index is not valid; [`Error::NotARegularFile`] or [`Error::Io`] if the catalogue can't be
    /// read.
    pub fn presence(&self) -> Result<Vec<u8>> {
        let count = self.record.chunk_count;
        let digests = (0..count).map(|chunk| Ok(self.chunk(chunk)?.digest));
        let digests: Vec<Digest> = digests.collect::<Result<_>>()?;
        let mut bits = vec![0; count.div_ceil(8) as usize];
        for (chunk, place) in self.store.catalogue.find(&digests)?.iter().enumerate() {
            if let (Some(_), Some(byte)) = (place, bits.get_mut(chunk / 8)) {
                *byte |= 1 << (chunk % 8);
            }
        }
        Ok(bits)
    }

    /// The stored bytes of a chunk, verified; none if they are in no other pack, or not as they should be.
    ///
    /// # Errors
    /// As for [`LentPack::presence`].
    pub fn read_chunk(&self, chunk: u32) -> Result<Option<Vec<u8>>> {
        let record = self.chunk(chunk)?;
        let places = self.store.catalogue.find(&[record.digest])?;
        let Some((name, offset)) = places.into_iter().next().flatten() else {
            return Ok(None);
        };
        let Some(file) = self.store.data_files.open(&name)? else {
            return Ok(None);
        };
        // What can't be read there is as good as nothing.
        Ok(read_stored_at(&file, &record, offset).ok().flatten())
    }
}
