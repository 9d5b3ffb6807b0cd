// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The pack index: what is in a pack, and where.

use crate::message::read_message;
use crate::table::TableField;
use crate::{peerfs_capnp, ChunkRecord, Digest, Error, PackRecord, Result, Table, CHUNK_MAX};

const WHAT: &str = "pack index";

/// A checked pack index without its bytes.
#[derive(Clone, Copy, Debug)]
pub struct PackIndexLayout {
    chunks: TableField<ChunkRecord>,
    content_digests: TableField<Digest>,
}

impl PackIndexLayout {
    /// Checks the frame of a pack index; chunk records are checked when they are used.
    pub fn parse(blob: &[u8]) -> Result<Self> {
        let message = read_message(blob, WHAT)?;
        let root: peerfs_capnp::pack_index::Reader<'_> =
            message.get_root().map_err(|_| Error::Malformed(WHAT))?;
        Ok(PackIndexLayout {
            chunks: TableField::locate(blob, root.get_chunks(), WHAT)?,
            content_digests: TableField::locate(blob, root.get_content_digests(), WHAT)?,
        })
    }

    /// The index over its bytes, which must be those that were parsed.
    pub fn view<'a>(&self, blob: &'a [u8]) -> PackIndex<'a> {
        PackIndex {
            chunks: self.chunks.of(blob),
            content_digests: self.content_digests.of(blob),
        }
    }
}

/// A pack index, read in place.
#[derive(Clone, Copy)]
pub struct PackIndex<'a> {
    /// The chunks, ascending.
    pub chunks: Table<'a, ChunkRecord>,
    /// The digests of the chunks' uncompressed bytes.
    pub content_digests: Table<'a, Digest>,
}

impl<'a> PackIndex<'a> {
    /// Checks and reads a pack index.
    pub fn parse(blob: &'a [u8]) -> Result<Self> {
        Ok(PackIndexLayout::parse(blob)?.view(blob))
    }

    /// The number of the chunk that covers `logical_offset`, and its checked record.
    pub fn chunk_at(&self, pack: &PackRecord, logical_offset: u32) -> Result<(u32, ChunkRecord)> {
        let after = self
            .chunks
            .partition_point(|chunk| chunk.logical_offset <= logical_offset);
        let number = after
            .checked_sub(1)
            .and_then(|number| u32::try_from(number).ok())
            .ok_or(Error::Malformed(WHAT))?;
        let chunk = self.chunk(pack, number)?;
        // chunk() has checked that the end does not overflow.
        if logical_offset - chunk.logical_offset >= chunk.logical_length {
            return Err(Error::Malformed(WHAT));
        }
        Ok((number, chunk))
    }

    /// The record of chunk `number`, with its place and lengths checked against the pack and the
    /// format's limits.
    pub fn chunk(&self, pack: &PackRecord, number: u32) -> Result<ChunkRecord> {
        let chunk = self
            .chunks
            .get(number as usize)
            .ok_or(Error::Malformed("chunk number"))?;
        let logical_end = u64::from(chunk.logical_offset) + u64::from(chunk.logical_length);
        let stored_end = u64::from(chunk.stored_offset) + u64::from(chunk.stored_length);
        let valid = number < pack.chunk_count
            && chunk.codec().is_some()
            && (1..=CHUNK_MAX).contains(&chunk.logical_length)
            && (1..=chunk.logical_length).contains(&chunk.stored_length)
            && (chunk.codec != 0 || chunk.stored_length == chunk.logical_length)
            && logical_end <= pack.logical_length
            && stored_end <= pack.stored_length;
        if valid {
            Ok(chunk)
        } else {
            Err(Error::Malformed("chunk record"))
        }
    }
}
