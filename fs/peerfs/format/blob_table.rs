// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The blob table: which packs and inode shards an image consists of.

use crate::message::read_message;
use crate::table::{Record, TableField};
use crate::{
    peerfs_capnp, ChunkRecord, Error, PackRecord, Result, ShardRecord, Table, METADATA_MAX,
    PACK_MAX, ROOT_INODE,
};

const WHAT: &str = "blob table";

/// A checked blob table without its bytes, for whoever keeps them elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct BlobTableLayout {
    packs: TableField<PackRecord>,
    shards: TableField<ShardRecord>,
}

impl BlobTableLayout {
    /// Checks the frame of a blob table; records are checked when they are used.
    pub fn parse(blob: &[u8]) -> Result<Self> {
        let message = read_message(blob, WHAT)?;
        let root: peerfs_capnp::blob_table::Reader<'_> =
            message.get_root().map_err(|_| Error::Malformed(WHAT))?;
        let layout = BlobTableLayout {
            packs: TableField::locate(blob, root.get_packs(), "pack list")?,
            shards: TableField::locate(blob, root.get_shards(), "shard list")?,
        };
        match layout.view(blob).shards.get(0) {
            Some(first) if first.first_inode == ROOT_INODE && first.inode_count > 0 => Ok(layout),
            _ => Err(Error::Malformed("shard list")),
        }
    }

    /// The blob table over its bytes, which must be those that were parsed.
    pub fn view<'a>(&self, blob: &'a [u8]) -> BlobTable<'a> {
        BlobTable {
            packs: self.packs.of(blob),
            shards: self.shards.of(blob),
        }
    }
}

/// A blob table, read in place.
#[derive(Clone, Copy)]
pub struct BlobTable<'a> {
    /// The packs.
    pub packs: Table<'a, PackRecord>,
    /// The inode shards.
    pub shards: Table<'a, ShardRecord>,
}

impl<'a> BlobTable<'a> {
    /// Checks and reads a blob table.
    pub fn parse(blob: &'a [u8]) -> Result<Self> {
        Ok(BlobTableLayout::parse(blob)?.view(blob))
    }

    /// The pack at `index`, if there is one and its sizes are within the format's limits.
    pub fn pack(&self, index: u32) -> Result<PackRecord> {
        let pack = self
            .packs
            .get(index as usize)
            .ok_or(Error::Malformed("pack number"))?;
        if pack.stored_length > PACK_MAX || pack.logical_length > PACK_MAX {
            return Err(Error::TooLarge("PACK_MAX"));
        }
        if u64::from(pack.index_length) > METADATA_MAX {
            return Err(Error::TooLarge("METADATA_MAX"));
        }
        // The chunks are all in the index: a reader may have room for each without having seen it.
        if (pack.index_length as usize / ChunkRecord::SIZE) < pack.chunk_count as usize {
            return Err(Error::Malformed("pack record"));
        }
        Ok(pack)
    }

    /// The shard at `index`, if there is one and its size is within the format's limits.
    pub fn shard(&self, index: u32) -> Result<ShardRecord> {
        let shard = self
            .shards
            .get(index as usize)
            .ok_or(Error::Malformed("shard number"))?;
        if u64::from(shard.length) > METADATA_MAX {
            return Err(Error::TooLarge("METADATA_MAX"));
        }
        Ok(shard)
    }

    /// The index of the shard that holds `inode`.
    pub fn shard_of(&self, inode: u64) -> Option<u32> {
        let after = self
            .shards
            .partition_point(|shard| shard.first_inode <= inode);
        // Shards without inodes share their first inode with the next one: the last one that
        // begins at or before the inode is the one that may hold it.
        let index = after.checked_sub(1)?;
        let shard = self.shards.get(index)?;
        let place = inode.checked_sub(shard.first_inode)?;
        (place < u64::from(shard.inode_count)).then_some(index as u32)
    }
}
