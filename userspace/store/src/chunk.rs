// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A chunk's stored bytes and what they decode to.

use std::cell::RefCell;

use peerfs_format::{ChunkRecord, Cipher, Codec, Digest, Iv, ZSTD_MAGIC};
use peerfs_realm::RealmKey;
use zstd::bulk::Decompressor;

use crate::{sha256, Error, Result};

/// Whether `stored` are the bytes that the pack's index promises for the chunk.
pub(crate) fn is_stored_chunk(record: &ChunkRecord, stored: &[u8]) -> bool {
    stored.len() as u64 == u64::from(record.stored_length) && sha256(stored) == record.digest
}

/// A chunk's stored bytes, which were verified: who has one need not hash them again.
#[derive(Clone, Debug)]
pub struct StoredChunk {
    pack: Digest,
    number: u32,
    record: ChunkRecord,
    bytes: Vec<u8>,
}

impl StoredChunk {
    /// A chunk of a pack from what should be its stored bytes.
    ///
    /// # Errors
    /// [`Error::ChunkDamaged`], which names `pack` and `number`, if they are not those that the record promises.
    pub fn verify(
        pack: &Digest,
        number: u32,
        record: &ChunkRecord,
        bytes: Vec<u8>,
    ) -> Result<Self> {
        let chunk = Self::of_verified(pack, number, record, bytes);
        if is_stored_chunk(record, &chunk.bytes) {
            Ok(chunk)
        } else {
            Err(chunk.damaged())
        }
    }

    /// A chunk whose bytes [`is_stored_chunk`] has seen.
    pub(crate) fn of_verified(
        pack: &Digest,
        number: u32,
        record: &ChunkRecord,
        bytes: Vec<u8>,
    ) -> Self {
        StoredChunk {
            pack: *pack,
            number,
            record: *record,
            bytes,
        }
    }

    /// The record in the pack's index that says what the chunk is.
    pub fn record(&self) -> &ChunkRecord {
        &self.record
    }

    /// Its stored bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its stored bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Its content. What is encrypted needs the realm's key and the chunk's initialization vector.
    ///
    /// # Errors
    /// [`Error::ChunkDamaged`] if the stored bytes do not decode to as many as the record says.
    pub fn decode(self, key: Option<(&RealmKey, Iv)>) -> Result<Vec<u8>> {
        let damaged = self.damaged();
        decode(&self.record, self.bytes, key).ok_or(damaged)
    }

    fn damaged(&self) -> Error {
        Error::ChunkDamaged {
            pack: self.pack,
            chunk: self.number,
        }
    }
}

/// The content of a chunk that is not encrypted from its stored bytes, which are verified first.
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
    StoredChunk::verify(pack, chunk, record, stored)?.decode(None)
}

/// The content of stored bytes that were verified; None if it is not what the record says.
pub(crate) fn decode(
    record: &ChunkRecord,
    mut stored: Vec<u8>,
    key: Option<(&RealmKey, Iv)>,
) -> Option<Vec<u8>> {
    match key {
        Some((key, iv)) if record.is_encrypted() => key.apply(&iv, &mut stored),
        None if !record.is_encrypted() => (),
        _ => return None,
    }
    let length = record.logical_length as usize;
    let content = match record.codec()? {
        Codec::Raw => stored,
        Codec::Zstd if is_one_frame(&stored) => decompress(&stored, length)?,
        Codec::Zstd => return None,
        Codec::Lz4 => decompress_lz4(&stored, length)?,
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

/// Decompresses an LZ4 block, which ends where its bytes do.
fn decompress_lz4(stored: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut content = vec![0; length];
    let room = i32::try_from(length).ok()?;
    let decoded = lz4::block::decompress_to_buffer(stored, Some(room), &mut content).ok()?;
    (decoded == length).then_some(content)
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
