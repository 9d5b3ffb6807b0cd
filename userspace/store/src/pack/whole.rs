// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A pack made whole for tools that know nothing of places.

use peerfs_format::{BlobTable, Digest};

use super::state::own_name;
use super::Pack;
use crate::image::read_blob;
use crate::{layout, BlobWriter, Error, Result, Store};

impl Pack {
    /// Makes the pack a blob, out of wherever its chunks are. Those of others that are in its own file stay where they are
    /// as well: it has them.
    ///
    /// # Errors
    /// [`Error::ChunkMissing`] and [`Error::ChunkDamaged`]; [`Error::WrongIndex`] if the chunks are another pack;
    /// [`Error::Io`] if the disk is full. The pack is as it was then.
    pub fn make_whole(&self) -> Result<()> {
        if self.is_blob() {
            return Ok(());
        }
        let (pack, index) = (self.record.digest, self.record.index_digest);
        let directory = self.store.data_files.directory();
        let mut blob = BlobWriter::new(directory)?;
        for chunk in 0..self.record.chunk_count {
            let stored = self.read_chunk(chunk)?;
            blob.append(&stored.ok_or(Error::ChunkMissing { pack, chunk })?)?;
        }
        if blob.digest() != pack {
            return Err(Error::WrongIndex { pack, index });
        }
        blob.finish()?;
        let _changes = self.store.data_files.lock_changes()?;
        for name in [
            layout::places(&pack, &index),
            layout::partial(&pack, &index),
        ] {
            directory
                .remove(&name)
                .map_err(directory.failed("remove", &name))?;
        }
        self.store.data_files.forget(&own_name(&self.record));
        Ok(())
    }
}

impl Store {
    /// Makes all packs of an image blobs, so that other tools can copy it from the store. Needs as much room as those that
    /// are not.
    ///
    /// # Errors
    /// Those of [`Pack::make_whole`] and of reading the image's metadata; [`Error::BlobMissing`] if nothing of a pack is
    /// here.
    pub fn make_whole(&self, manifest: &Digest) -> Result<()> {
        let read = self.read_manifest(manifest)?;
        let table = read_blob(self, &read.blob_table, read.blob_table_length)?;
        let table =
            BlobTable::parse(&table, read.inode_count).map_err(Error::format(read.blob_table))?;
        for record in table
            .packs
            .iter()
            .filter(|pack| !self.has_blob(&pack.digest))
        {
            let index = read_blob(self, &record.index_digest, record.index_length)?;
            let pack = self.find_pack(&record, index)?;
            pack.ok_or(Error::BlobMissing(record.digest))?
                .make_whole()?;
        }
        Ok(())
    }
}
