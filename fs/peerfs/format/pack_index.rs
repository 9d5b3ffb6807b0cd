// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The pack index: what is in a pack, and where.

use crate::message::read_message;
use crate::table::TableField;
use crate::{
    peerfs_capnp, ChunkRecord, Codec, Digest, Error, Iv, PackRecord, Result, Table, CHUNK_MAX,
};

const WHAT: &str = "pack index";
const IVS: &str = "initialization vectors";

/// A checked pack index without its bytes.
#[derive(Clone, Copy, Debug)]
pub struct PackIndexLayout {
    chunks: TableField<ChunkRecord>,
    ivs: TableField<Iv>,
}

impl PackIndexLayout {
    /// Checks the index of this pack, every chunk record of it: chunks follow each other without gap or overlap
    /// in both address spaces of the pack, and end where these do. So the chunk at an offset is the same,
    /// whether it is searched for or come to from the beginning. All of them are encrypted, or none is.
    pub fn parse(blob: &[u8], pack: &PackRecord) -> Result<Self> {
        let layout = Self::locate(blob)?;
        check_chunks(&layout.view(blob), pack)?;
        Ok(layout)
    }

    fn locate(blob: &[u8]) -> Result<Self> {
        let message = read_message(blob, WHAT)?;
        let root: peerfs_capnp::pack_index::Reader<'_> =
            message.get_root().map_err(|_| Error::Malformed(WHAT))?;
        Ok(PackIndexLayout {
            chunks: TableField::locate(blob, root.get_chunks(), WHAT)?,
            ivs: TableField::locate(blob, root.get_ivs(), IVS)?,
        })
    }

    /// The index over its bytes, which must be those that were parsed.
    pub fn view<'a>(&self, blob: &'a [u8]) -> PackIndex<'a> {
        PackIndex {
            chunks: self.chunks.of(blob),
            ivs: self.ivs.of(blob),
        }
    }
}

fn check_chunks(index: &PackIndex<'_>, pack: &PackRecord) -> Result<()> {
    let (chunks, is_encrypted) = (&index.chunks, index.is_encrypted());
    if is_encrypted && index.ivs.len() != chunks.len() {
        return Err(Error::Malformed(IVS));
    }
    if chunks.len() as u64 != u64::from(pack.chunk_count) {
        return Err(Error::Malformed("chunk count"));
    }
    let (mut logical_end, mut stored_end) = (0_u64, 0_u64);
    for chunk in chunks.iter() {
        let is_valid = u64::from(chunk.logical_offset) == logical_end
            && u64::from(chunk.stored_offset) == stored_end
            && (1..=CHUNK_MAX).contains(&chunk.logical_length)
            && (1..=chunk.logical_length).contains(&chunk.stored_length)
            && chunk.is_encrypted() == is_encrypted
            && match chunk.codec() {
                Some(Codec::Raw) => chunk.stored_length == chunk.logical_length,
                Some(Codec::Zstd | Codec::Lz4) => true,
                None => false,
            };
        if !is_valid {
            return Err(Error::Malformed("chunk record"));
        }
        // There are fewer than 2^32 chunks of less than 2^32 bytes.
        logical_end += u64::from(chunk.logical_length);
        stored_end += u64::from(chunk.stored_length);
    }
    match (logical_end, stored_end) == (pack.logical_length, pack.stored_length) {
        true => Ok(()),
        false => Err(Error::Malformed("pack length")),
    }
}

/// A pack index, read in place.
#[derive(Clone, Copy)]
pub struct PackIndex<'a> {
    /// The chunks, ascending.
    pub chunks: Table<'a, ChunkRecord>,
    /// The chunks' initialization vectors; empty if they are not encrypted.
    pub ivs: Table<'a, Iv>,
}

impl PackRecord {
    /// What an image says of the pack that this index describes, for who knows both but not the image: the last
    /// chunk ends where the pack does. The digest of the contents, which only an image tells, is zeros. Fails unless
    /// it is an index.
    pub fn of_index(digest: Digest, index_digest: Digest, index: &[u8]) -> Result<Self> {
        let view = PackIndexLayout::locate(index)?.view(index);
        let chunks = view.chunks;
        let last = chunks
            .len()
            .checked_sub(1)
            .and_then(|last| chunks.get(last))
            .ok_or(Error::Malformed(WHAT))?;
        let too_large = |_| Error::TooLarge("METADATA_MAX");
        let record = PackRecord {
            digest,
            index_digest,
            contents_digest: Digest::default(),
            stored_length: u64::from(last.stored_offset) + u64::from(last.stored_length),
            logical_length: u64::from(last.logical_offset) + u64::from(last.logical_length),
            index_length: u32::try_from(index.len()).map_err(too_large)?,
            chunk_count: u32::try_from(chunks.len()).map_err(too_large)?,
        };
        check_chunks(&view, &record)?;
        record.checked()
    }

    /// Bytes of the pack contents.
    pub fn contents_length(&self) -> u64 {
        u64::from(self.chunk_count) * Digest::SIZE as u64
    }

    /// The SHA-256 of each chunk's content, in the order of the chunks, from the pack contents: a blob of nothing
    /// else, which only builders read. Fails unless there are as many as chunks.
    pub fn content_digests<'a>(&self, contents: &'a [u8]) -> Result<Table<'a, Digest>> {
        const WHAT: &str = "pack contents";
        match contents.len() as u64 == self.contents_length() {
            true => Table::new(contents, WHAT),
            false => Err(Error::Malformed(WHAT)),
        }
    }
}

impl<'a> PackIndex<'a> {
    /// Checks and reads the index of this pack.
    pub fn parse(blob: &'a [u8], pack: &PackRecord) -> Result<Self> {
        Ok(PackIndexLayout::parse(blob, pack)?.view(blob))
    }

    /// The number of the chunk that covers an offset of the pack's logical address space, and its record.
    pub fn chunk_at(&self, logical_offset: u32) -> Result<(u32, ChunkRecord)> {
        const BEYOND: Error = Error::Malformed("offset in a pack");
        let after = self
            .chunks
            .partition_point(|chunk| chunk.logical_offset <= logical_offset);
        let number = after.checked_sub(1).ok_or(BEYOND)? as u32;
        let chunk = self.chunk(number)?;
        match logical_offset.checked_sub(chunk.logical_offset) {
            Some(place) if place < chunk.logical_length => Ok((number, chunk)),
            _ => Err(BEYOND),
        }
    }

    /// Whether the chunks are encrypted.
    pub fn is_encrypted(&self) -> bool {
        !self.ivs.is_empty()
    }

    /// The initialization vector of chunk `number`, if it is encrypted.
    pub fn iv(&self, number: u32) -> Option<Iv> {
        self.ivs.get(number as usize)
    }

    /// The record of chunk `number`.
    pub fn chunk(&self, number: u32) -> Result<ChunkRecord> {
        self.chunks
            .get(number as usize)
            .ok_or(Error::Malformed("chunk number"))
    }
}
