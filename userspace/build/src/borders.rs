// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The decision where a pack ends. It is taken by the chunks' own content, so that packs before and behind a change
//! stay what they are, and need not be stored and sent again.

use peerfs_format::{Digest, METADATA_MAX};

/// The sizes of packs in bytes, as stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PackSizes {
    /// The length from which on a chunk may end its pack.
    pub min: u64,
    /// The length that follows on average until one does.
    pub more: u64,
    /// The length that no pack exceeds.
    pub max: u64,
}

/// The most bytes of a pack before compression: those of a full one of content that becomes an eighth.
const LOGICAL_MAX: u64 = 256 * 1024 * 1024;
/// The most chunks of a pack: those of a full one whose chunks are stored as 4 KiB each. Their index is a fraction of
/// what a blob may have.
const CHUNKS_MAX: u32 = 8192;
const _: () = assert!((CHUNKS_MAX as u64) < METADATA_MAX / 64);

/// The pack that is being filled.
#[derive(Clone, Copy, Debug)]
pub struct PackBorders {
    sizes: PackSizes,
    stored: u64,
    logical: u64,
    chunks: u32,
}

impl PackBorders {
    /// A pack without chunks.
    pub fn new(sizes: PackSizes) -> Self {
        PackBorders {
            sizes,
            stored: 0,
            logical: 0,
            chunks: 0,
        }
    }

    /// Whether a chunk of these lengths has room in the pack. In one without chunks each has.
    pub fn has_room(&self, stored: u32, logical: u32) -> bool {
        self.chunks == 0
            || self.stored + u64::from(stored) <= self.sizes.max
                && self.logical + u64::from(logical) <= LOGICAL_MAX
                && self.chunks < CHUNKS_MAX
    }

    /// Bytes before compression of its chunks.
    pub(crate) fn logical(&self) -> u64 {
        self.logical
    }

    /// The number of its chunks.
    pub(crate) fn chunks(&self) -> u32 {
        self.chunks
    }

    /// Adds a chunk, and says whether the pack ends with it.
    ///
    /// The digest of its content is as good as a die: a chunk ends a pack that is long enough once in so many that
    /// there are [`PackSizes::more`] bytes between on average, whatever the chunks' lengths.
    pub fn add(&mut self, content: &Digest, stored: u32, logical: u32) -> bool {
        self.stored += u64::from(stored);
        self.logical += u64::from(logical);
        self.chunks += 1;
        let [first, second, third, fourth, ..] = content.0;
        let die = u32::from_be_bytes([first, second, third, fourth]);
        let limit = u128::from(stored) << u32::BITS;
        self.stored >= self.sizes.min && u128::from(die) * u128::from(self.sizes.more) < limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: PackSizes = PackSizes {
        min: 100,
        more: 256,
        max: 300,
    };

    /// The lengths of the packs that chunks of 10 bytes with these first bytes of their digests are divided into.
    fn lengths(chunks: &[u8]) -> Vec<u32> {
        let mut lengths = vec![0];
        let mut pack = PackBorders::new(SIZES);
        for first in chunks {
            if !pack.has_room(10, 20) {
                pack = PackBorders::new(SIZES);
                lengths.push(0);
            }
            *lengths.last_mut().unwrap() += 1;
            let mut digest = Digest::default();
            digest.0[0] = *first;
            if pack.add(&digest, 10, 20) {
                pack = PackBorders::new(SIZES);
                lengths.push(0);
            }
        }
        lengths
    }

    #[test]
    fn content_decides_between_the_least_and_the_most() {
        // 10 bytes of 256: a digest that begins with 9 ends the pack, one with 10 does not.
        let mut chunks = vec![10; 100];
        assert_eq!(lengths(&chunks), [30, 30, 30, 10]);
        chunks[4] = 9;
        chunks[39] = 9;
        // The first one comes too early; the second is the 10th of its pack, the least.
        assert_eq!(lengths(&chunks), [30, 10, 30, 30]);
        chunks[9] = 9;
        assert_eq!(lengths(&chunks), [10, 30, 30, 30]);
    }

    #[test]
    fn what_becomes_small_fills_no_pack_without_end() {
        let sizes = PackSizes {
            min: 1 << 40,
            more: 1 << 40,
            max: 1 << 50,
        };
        let count = |logical| {
            let mut pack = PackBorders::new(sizes);
            let digest = Digest([255; Digest::SIZE]);
            let mut chunks = 0;
            while pack.has_room(1, logical) {
                assert!(!pack.add(&digest, 1, logical));
                chunks += 1;
            }
            chunks
        };
        assert_eq!(count(1), 8192);
        assert_eq!(count(128 * 1024), 2048);
    }
}
