// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The `.map` file beside a partial pack: which of its chunks are there.
//!
//! A header of [`PRESENCE_HEADER_SIZE`] bytes, then a bit a chunk: chunk `n` is bit `n % 8` of byte
//! `n / 8`, set when the chunk's bytes are in the pack. A hint only: whoever reads a chunk verifies
//! it, whatever the bit says.

use crate::{Bitmap, Digest, Error, Result};

/// Bytes before the bits.
pub const PRESENCE_HEADER_SIZE: usize = 128;

const MAGIC: [u8; 8] = *b"peerfsmp";
const VERSION: u32 = 2;
/// All that a version of this format has of a chunk is whether it is there.
const BITS_A_CHUNK: u32 = 1;

/// The header of a map file: magic, version (u32), chunk count (u32), the pack's digest, its index's, bits a
/// chunk (u32), zeros.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PresenceHeader {
    /// Chunks of the pack.
    pub chunk_count: u32,
    /// The pack.
    pub pack: Digest,
    /// The index that says which chunk is which.
    pub index: Digest,
}

impl PresenceHeader {
    /// Bytes of the bits behind the header.
    pub fn bits_size(&self) -> usize {
        Bitmap::size(self.chunk_count)
    }

    /// Clears the bits behind that of the last chunk, which mean nothing.
    pub fn clear_padding(&self, bits: &mut [u8]) {
        Bitmap(bits).clear_padding(self.chunk_count);
    }

    /// Reads a header.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        const WHAT: Error = Error::Malformed("presence map");
        let header = bytes.first_chunk::<PRESENCE_HEADER_SIZE>().ok_or(WHAT)?;
        let (magic, rest) = header.split_first_chunk::<8>().ok_or(WHAT)?;
        let (version, rest) = rest.split_first_chunk::<4>().ok_or(WHAT)?;
        let (count, rest) = rest.split_first_chunk::<4>().ok_or(WHAT)?;
        let (pack, rest) = rest.split_first_chunk::<32>().ok_or(WHAT)?;
        let (index, rest) = rest.split_first_chunk::<32>().ok_or(WHAT)?;
        let (bits_a_chunk, _zeros) = rest.split_first_chunk::<4>().ok_or(WHAT)?;
        if *magic != MAGIC
            || u32::from_le_bytes(*version) != VERSION
            || u32::from_le_bytes(*bits_a_chunk) != BITS_A_CHUNK
        {
            return Err(WHAT);
        }
        Ok(PresenceHeader {
            chunk_count: u32::from_le_bytes(*count),
            pack: Digest(*pack),
            index: Digest(*index),
        })
    }

    /// Writes the header.
    pub fn to_bytes(&self) -> [u8; PRESENCE_HEADER_SIZE] {
        let mut bytes = [0; PRESENCE_HEADER_SIZE];
        let fields = MAGIC
            .into_iter()
            .chain(VERSION.to_le_bytes())
            .chain(self.chunk_count.to_le_bytes())
            .chain(self.pack.0)
            .chain(self.index.0)
            .chain(BITS_A_CHUNK.to_le_bytes());
        for (place, byte) in bytes.iter_mut().zip(fields) {
            *place = byte;
        }
        bytes
    }
}
