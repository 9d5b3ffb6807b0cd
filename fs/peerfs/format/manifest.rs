// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The manifest: the blob whose digest is given at mount.

use capnp::message::ReaderOptions;
use capnp::serialize::read_message_from_flat_slice_no_alloc;

use crate::table::{Record, TableField};
use crate::{
    peerfs_capnp, ChunkRecord, Error, PackRecord, Result, ShardRecord, Table, FORMAT_VERSION,
    KNOWN_INCOMPATIBLE_FEATURES, METADATA_MAX, PACK_MAX, ROOT_INODE,
};

const WHAT: &str = "manifest";

/// How often a metadata blob may be walked over, in words of 8 bytes: once, with room for headers.
pub(crate) fn reader_options() -> ReaderOptions {
    ReaderOptions {
        traversal_limit_in_words: Some(2 * METADATA_MAX as usize / 8),
        nesting_limit: 4,
    }
}

/// A checked manifest without its bytes, for whoever keeps them elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct ManifestLayout {
    inode_count: u64,
    content_bytes: u64,
    stored_bytes: u64,
    packs: TableField<PackRecord>,
    shards: TableField<ShardRecord>,
}

impl ManifestLayout {
    /// Checks a manifest's header; the cost does not depend on what the image holds.
    pub fn parse(mut blob: &[u8]) -> Result<Self> {
        if blob.len() as u64 > METADATA_MAX {
            return Err(Error::TooLarge("METADATA_MAX"));
        }
        let whole = blob;
        let message = read_message_from_flat_slice_no_alloc(&mut blob, reader_options())
            .map_err(|_| Error::Malformed(WHAT))?;
        let root: peerfs_capnp::manifest::Reader<'_> =
            message.get_root().map_err(|_| Error::Malformed(WHAT))?;
        if root.get_format_version() != FORMAT_VERSION {
            return Err(Error::UnsupportedVersion(root.get_format_version()));
        }
        let unknown = root.get_incompatible_features() & !KNOWN_INCOMPATIBLE_FEATURES;
        if unknown != 0 {
            return Err(Error::UnsupportedFeatures(unknown));
        }
        let packs = root
            .get_packs()
            .map_err(|_| Error::Malformed("pack list"))?;
        let shards = root
            .get_shards()
            .map_err(|_| Error::Malformed("shard list"))?;
        let layout = ManifestLayout {
            inode_count: root.get_inode_count(),
            content_bytes: root.get_content_bytes(),
            stored_bytes: root.get_stored_bytes(),
            packs: TableField::locate(whole, packs, "pack list")?,
            shards: TableField::locate(whole, shards, "shard list")?,
        };
        match layout.view(whole).shards.get(0) {
            Some(first) if first.first_inode == ROOT_INODE && first.inode_count > 0 => Ok(layout),
            _ => Err(Error::Malformed("shard list")),
        }
    }

    /// The manifest over its bytes, which must be those that were parsed.
    pub fn view<'a>(&self, blob: &'a [u8]) -> Manifest<'a> {
        Manifest {
            inode_count: self.inode_count,
            content_bytes: self.content_bytes,
            stored_bytes: self.stored_bytes,
            packs: self.packs.of(blob),
            shards: self.shards.of(blob),
        }
    }
}

/// A manifest, read in place.
#[derive(Clone, Copy)]
pub struct Manifest<'a> {
    /// Inodes of the image.
    pub inode_count: u64,
    /// Bytes that regular files hold, holes not counted.
    pub content_bytes: u64,
    /// Bytes of all packs as stored.
    pub stored_bytes: u64,
    /// The packs.
    pub packs: Table<'a, PackRecord>,
    /// The inode shards.
    pub shards: Table<'a, ShardRecord>,
}

impl<'a> Manifest<'a> {
    /// Checks and reads a manifest.
    pub fn parse(blob: &'a [u8]) -> Result<Self> {
        Ok(ManifestLayout::parse(blob)?.view(blob))
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
