// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Damage to the bytes of a blob: to its frame, and anywhere.

use fastrand::Rng;

/// A blob of an image.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum BlobName {
    Manifest,
    BlobTable,
    Index(usize),
    Pack(usize),
    Shard(usize),
}

/// Something done to a blob's bytes, before its digest is computed.
#[derive(Clone, Copy, Debug)]
pub(super) enum BlobDamage {
    /// One bit of one byte; counted from the beginning, again and again.
    Flip { bit: u64 },
    /// A word of the beginning, where the frame, the root and its pointers are.
    Word { word: usize, value: u64 },
    /// Cut off there.
    Cut { length: u64 },
    /// Zeros behind the end: words.
    Extend { words: usize },
}

/// Words at the beginning of a blob that hold its frame, its root and the pointers to its fields.
const FRAME_WORDS: usize = 24;

impl BlobDamage {
    pub(super) fn choose(rng: &mut Rng) -> Self {
        match rng.u32(..10) {
            0..3 => BlobDamage::Flip { bit: rng.u64(..) },
            3..5 => BlobDamage::Flip {
                bit: rng.u64(..FRAME_WORDS as u64 * 64),
            },
            5..8 => BlobDamage::Word {
                word: rng.usize(..FRAME_WORDS),
                value: pointer(rng),
            },
            8 => BlobDamage::Cut {
                length: rng.u64(..),
            },
            _ => BlobDamage::Extend {
                words: rng.usize(1..10_000),
            },
        }
    }

    pub(super) fn apply(self, bytes: &mut Vec<u8>) {
        match self {
            BlobDamage::Flip { bit } => {
                let place = (bit / 8) % (bytes.len() as u64).max(1);
                if let Some(byte) = bytes.get_mut(place as usize) {
                    *byte ^= 1 << (bit % 8);
                }
            }
            BlobDamage::Word { word, value } => {
                if let Some(place) = bytes.get_mut(8 * word..8 * word + 8) {
                    place.copy_from_slice(&value.to_le_bytes());
                }
            }
            BlobDamage::Cut { length } => {
                let length = length % (bytes.len() as u64).max(1);
                bytes.truncate(length as usize);
            }
            BlobDamage::Extend { words } => bytes.resize(bytes.len() + 8 * words, 0),
        }
    }
}

/// A word that may be taken for a segment table, or for a pointer of Cap'n Proto: to a struct, a list
/// or another segment, with offsets and sizes that are right, somewhat wrong, or extreme.
fn pointer(rng: &mut Rng) -> u64 {
    let offset = match rng.u32(..4) {
        0 => rng.u64(..64),
        1 => (1 << 30) - 1 - rng.u64(..64),
        2 => rng.u64(..1 << 30),
        _ => 0,
    };
    let size = match rng.u32(..4) {
        0 => rng.u64(..64),
        1 => (1 << 29) - 1 - rng.u64(..64),
        2 => rng.u64(..1 << 29),
        _ => 0,
    };
    match rng.u32(..6) {
        // Segments, less one, and the first one's words.
        0 => rng.u64(..600) | size << 32,
        // A list, of elements of any size.
        1 | 2 => 1 | offset << 2 | rng.u64(..8) << 32 | size << 35,
        // To another segment.
        3 => 2 | rng.u64(..2) << 2 | (offset & 0x1fff_ffff) << 3 | rng.u64(..4) << 32,
        // A struct.
        4 => offset << 2 | rng.u64(..8) << 32 | rng.u64(..16) << 48,
        _ => rng.u64(..),
    }
}
