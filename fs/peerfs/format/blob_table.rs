// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The blob table: which packs and inode shards an image consists of.

use crate::message::read_message;
use crate::table::TableField;
use crate::{
    peerfs_capnp, Error, PackRecord, Result, ShardRecord, Table, METADATA_MAX, ROOT_INODE,
};

const WHAT: &str = "blob table";

/// A checked blob table without its bytes, for whoever keeps them elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct BlobTableLayout {
    packs: TableField<PackRecord>,
    shards: TableField<ShardRecord>,
}

impl BlobTableLayout {
    /// Checks the blob table of an image with this many inodes, every record of it.
    pub fn parse(blob: &[u8], inode_count: u64) -> Result<Self> {
        let message = read_message(blob, WHAT)?;
        let root: peerfs_capnp::blob_table::Reader<'_> =
            message.get_root().map_err(|_| Error::Malformed(WHAT))?;
        let layout = BlobTableLayout {
            packs: TableField::locate(blob, root.get_packs(), "pack list")?,
            shards: TableField::locate(blob, root.get_shards(), "shard list")?,
        };
        let table = layout.view(blob);
        table
            .packs
            .iter()
            .try_for_each(|pack| pack.checked().map(drop))?;
        check_shards(&table.shards, inode_count)?;
        Ok(layout)
    }

    /// The blob table over its bytes, which must be those that were parsed.
    pub fn view<'a>(&self, blob: &'a [u8]) -> BlobTable<'a> {
        BlobTable {
            packs: self.packs.of(blob),
            shards: self.shards.of(blob),
        }
    }
}

/// Each inode is in one shard: the first one begins with the root, each other one where the one before ends,
/// and the last one ends with the last inode.
fn check_shards(shards: &Table<'_, ShardRecord>, inode_count: u64) -> Result<()> {
    const WHAT: Error = Error::Malformed("shard list");
    let mut next = ROOT_INODE;
    for shard in shards.iter() {
        let is_valid = shard.first_inode == next
            && (1..=METADATA_MAX).contains(&shard.length.into())
            && (next > ROOT_INODE || shard.inode_count > 0);
        if !is_valid {
            return Err(WHAT);
        }
        next = next.checked_add(shard.inode_count.into()).ok_or(WHAT)?;
    }
    match inode_count.checked_add(ROOT_INODE) {
        Some(end) if end == next && next > ROOT_INODE => Ok(()),
        _ => Err(WHAT),
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
    /// Checks and reads the blob table of an image with this many inodes.
    pub fn parse(blob: &'a [u8], inode_count: u64) -> Result<Self> {
        Ok(BlobTableLayout::parse(blob, inode_count)?.view(blob))
    }

    /// The pack at `index`, if there is one.
    pub fn pack(&self, index: u32) -> Result<PackRecord> {
        self.packs
            .get(index as usize)
            .ok_or(Error::Malformed("pack number"))
    }

    /// The shard at `index`, if there is one.
    pub fn shard(&self, index: u32) -> Result<ShardRecord> {
        self.shards
            .get(index as usize)
            .ok_or(Error::Malformed("shard number"))
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
