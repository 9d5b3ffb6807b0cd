// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A chunk's stored bytes and what they decode to.

use peerfs_format::{ChunkRecord, Codec, Digest};

use crate::{sha256, Error, Result};

/// Whether `stored` are the bytes that the pack's index promises for the chunk.
pub(crate) fn is_stored_chunk(record: &ChunkRecord, stored: &[u8]) -> bool {
    stored.len() as u64 == u64::from(record.stored_length) && sha256(stored) == record.digest
}

/// The content of a chunk from its stored bytes, which are verified first.
///
/// # Errors
/// [`Error::ChunkDamaged`], which names `pack` and `chunk`, if the stored bytes are not those that
/// the record promises or do not decode to as many bytes as it says.
pub fn decode_chunk(
    pack: &Digest,
    chunk: u32,
    record: &ChunkRecord,
    stored: Vec<u8>,
) -> Result<Vec<u8>> {
    let damaged = || Error::ChunkDamaged { pack: *pack, chunk };
    if !is_stored_chunk(record, &stored) {
        return Err(damaged());
    }
    let length = record.logical_length as usize;
    let content = match record.codec() {
        Some(Codec::Raw) => stored,
        Some(Codec::Zstd) => zstd::bulk::decompress(&stored, length).map_err(|_| damaged())?,
        None => return Err(damaged()),
    };
    if content.len() != length {
        return Err(damaged());
    }
    Ok(content)
}
