// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A chunk's stored bytes and what they decode to.

use std::cell::RefCell;

use peerfs_format::{ChunkRecord, Codec, Digest, ZSTD_MAGIC};
use zstd::bulk::Decompressor;

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
    decode(record, stored).ok_or_else(damaged)
}

/// What stored bytes that were verified decode to; None if that is not what the record says.
pub(crate) fn decode(record: &ChunkRecord, stored: Vec<u8>) -> Option<Vec<u8>> {
    let length = record.logical_length as usize;
    let content = match record.codec()? {
        Codec::Raw => stored,
        Codec::Zstd if is_one_frame(&stored) => decompress(&stored, length)?,
        Codec::Zstd => return None,
    };
    (content.len() == length).then_some(content)
}

/// Decompresses by a context that the thread keeps: to make one takes a twentieth as long as to decode a chunk and hash
/// it.
fn decompress(stored: &[u8], length: usize) -> Option<Vec<u8>> {
    thread_local!(static KEPT: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) });
    KEPT.with_borrow_mut(|kept| {
        let decompressor = match kept {
            Some(decompressor) => decompressor,
            None => kept.insert(Decompressor::new().ok()?),
        };
        decompressor.decompress(stored, length).ok()
    })
}

/// Whether there is one zstd frame and nothing else: the decoder would skip frames that have no content, and
/// decode one behind the other.
fn is_one_frame(stored: &[u8]) -> bool {
    stored.starts_with(&ZSTD_MAGIC)
        && zstd::zstd_safe::find_frame_compressed_size(stored) == Ok(stored.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_one_frame() {
        let half = zstd::bulk::compress(&[7; 500], 3).unwrap();
        let whole = zstd::bulk::compress(&[7; 1000], 3).unwrap();
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9];
        let decode = |stored: &[u8]| {
            let record = ChunkRecord {
                digest: sha256(stored),
                logical_offset: 0,
                stored_offset: 0,
                logical_length: 1000,
                stored_length: stored.len() as u32,
                codec: Codec::Zstd as u8,
            };
            decode_chunk(&Digest::default(), 0, &record, stored.to_vec())
        };
        assert_eq!(decode(&whole).unwrap(), [7; 1000]);
        for parts in [[&half, &half], [&whole, &skippable.to_vec()]] {
            assert!(decode(&parts.map(Vec::as_slice).concat()).is_err());
        }
        assert!(decode(&[&skippable[..], &whole].concat()).is_err());
        assert!(decode(&half).is_err() && decode(&whole[..whole.len() - 1]).is_err());
    }
}
