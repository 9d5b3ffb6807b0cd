// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Which chunks of a pack are there.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

/// A bit for each chunk of a pack: chunk `n` is bit `n % 8` of byte `n / 8`, as in the map beside
/// a partial pack.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ChunkMap {
    chunk_count: u32,
    bits: Bytes,
}

impl ChunkMap {
    /// The most chunks that a map may describe.
    pub const CHUNKS_MAX: u32 = 1 << 20;

    /// A map of `chunk_count` chunks. `None` if there are more than [`Self::CHUNKS_MAX`], or if
    /// `bits` is not of the length that they need.
    pub fn new(chunk_count: u32, bits: Bytes) -> Option<Self> {
        let fits = chunk_count <= Self::CHUNKS_MAX
            && u32::try_from(bits.len()) == Ok(chunk_count.div_ceil(8));
        fits.then_some(ChunkMap { chunk_count, bits })
    }

    /// Chunks of the pack.
    pub fn chunk_count(&self) -> u32 {
        self.chunk_count
    }

    /// The bits.
    pub fn bits(&self) -> &Bytes {
        &self.bits
    }

    /// Whether this chunk is there; no chunk beyond the last one is.
    pub fn contains(&self, number: u32) -> bool {
        let byte = usize::try_from(number / 8)
            .ok()
            .and_then(|place| self.bits.get(place));
        number < self.chunk_count && byte.is_some_and(|byte| byte & (1 << (number % 8)) != 0)
    }

    /// Adds chunks; those beyond the last one are passed over.
    pub fn insert(&mut self, runs: &[Range<u32>]) {
        let mut bits = BytesMut::from(std::mem::take(&mut self.bits));
        for run in runs {
            for number in run.start..run.end.min(self.chunk_count) {
                if let Some(byte) = bits.get_mut(number as usize / 8) {
                    *byte |= 1 << (number % 8);
                }
            }
        }
        self.bits = bits.freeze();
    }

    /// How many chunks are there.
    pub fn present(&self) -> u32 {
        (0..self.chunk_count)
            .filter(|&number| self.contains(number))
            .count() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_counted_from_the_least_significant() {
        let map = ChunkMap::new(10, Bytes::from_static(&[0b1000_0001, 0b1111_1110])).unwrap();
        let present: Vec<u32> = (0..20).filter(|&number| map.contains(number)).collect();
        assert_eq!(present, [0, 7, 9]);
        assert_eq!(map.present(), 3);
    }

    #[test]
    fn chunks_are_added_within_the_pack() {
        let mut map = ChunkMap::new(10, Bytes::from_static(&[1, 0])).unwrap();
        let before = map.clone();
        map.insert(&[3..5, 8..20, u32::MAX - 1..u32::MAX]);
        let present: Vec<u32> = (0..20).filter(|&number| map.contains(number)).collect();
        assert_eq!(present, [0, 3, 4, 8, 9]);
        assert_eq!(before.present(), 1);
    }

    #[test]
    fn the_length_of_the_bits_must_fit() {
        assert!(ChunkMap::new(9, Bytes::from_static(&[0])).is_none());
        assert!(ChunkMap::new(8, Bytes::from_static(&[0, 0])).is_none());
        assert!(ChunkMap::new(u32::MAX, Bytes::new()).is_none());
        assert!(ChunkMap::new(0, Bytes::new()).is_some());
    }
}
