// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Where the bytes of a range of a file come from.

use core::ops::Range;

use crate::{ExtentRecord, Table};

/// The extents of a file, wherever they are kept: ascending, as [`crate::Shard::extents`] has them.
pub trait ExtentList {
    /// How many there are.
    fn count(&self) -> usize;

    /// The extent at `index`.
    fn extent(&self, index: usize) -> Option<ExtentRecord>;

    /// The index of the first extent that ends behind `byte`.
    fn covering(&self, byte: u64) -> usize {
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.extent(middle) {
                Some(extent) if extent.end() <= byte => low = middle + 1,
                _ => high = middle,
            }
        }
        low
    }
}

impl<T: AsRef<[ExtentRecord]> + ?Sized> ExtentList for T {
    fn count(&self) -> usize {
        self.as_ref().len()
    }

    fn extent(&self, index: usize) -> Option<ExtentRecord> {
        self.as_ref().get(index).copied()
    }
}

impl ExtentList for Table<'_, ExtentRecord> {
    fn count(&self) -> usize {
        self.len()
    }

    fn extent(&self, index: usize) -> Option<ExtentRecord> {
        self.get(index)
    }
}

/// Where the bytes of a piece come from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Source {
    /// Nowhere: they are zeros.
    Hole,
    /// A pack's uncompressed address space.
    Pack {
        /// Index of the pack in the manifest.
        pack: u32,
        /// Where the piece begins.
        offset: u32,
    },
}

/// A part of a file with one source.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Piece {
    /// Where the piece begins in the file.
    pub file_offset: u64,
    /// Bytes, at least 1.
    pub length: u64,
    /// Where they come from.
    pub source: Source,
}

/// The pieces of a range, in order and without gaps. Made by [`pieces`].
pub struct Pieces<'a, L: ?Sized> {
    extents: &'a L,
    /// The index of the next extent.
    next: usize,
    position: u64,
    end: u64,
}

/// Divides a range of a file into pieces. Extents that overlap or are out of order, which no reader accepts, give
/// some division all the same.
pub fn pieces<L: ExtentList + ?Sized>(extents: &L, range: Range<u64>) -> Pieces<'_, L> {
    Pieces {
        extents,
        next: extents.covering(range.start),
        position: range.start,
        end: range.end,
    }
}

impl ExtentRecord {
    /// Where it ends in the file.
    pub fn end(&self) -> u64 {
        self.file_offset.saturating_add(u64::from(self.length))
    }
}

impl<L: ExtentList + ?Sized> Iterator for Pieces<'_, L> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        if self.position >= self.end {
            return None;
        }
        let file_offset = self.position;
        let mut next = self.extents.extent(self.next);
        while next.is_some_and(|extent| extent.end() <= file_offset) {
            self.next += 1;
            next = self.extents.extent(self.next);
        }
        let (end, source) = match next {
            Some(extent) if extent.file_offset <= file_offset => {
                // Below the extent's length, which is 32 bits wide.
                let skipped = (file_offset - extent.file_offset) as u32;
                match extent.pack_offset.checked_add(skipped) {
                    Some(offset) => {
                        let pack = extent.pack;
                        (extent.end(), Source::Pack { pack, offset })
                    }
                    // Beyond any pack: a place that the pack's reader refuses.
                    None => (
                        extent.end(),
                        Source::Pack {
                            pack: extent.pack,
                            offset: u32::MAX,
                        },
                    ),
                }
            }
            Some(extent) => (extent.file_offset, Source::Hole),
            None => (self.end, Source::Hole),
        };
        self.position = end.min(self.end);
        Some(Piece {
            file_offset,
            length: self.position - file_offset,
            source,
        })
    }
}

/// The first byte of a range that is data, for SEEK_DATA.
pub fn first_data<L: ExtentList + ?Sized>(extents: &L, range: Range<u64>) -> Option<u64> {
    pieces(extents, range)
        .find(|piece| piece.source != Source::Hole)
        .map(|piece| piece.file_offset)
}

/// The first byte of a range that is a hole, or the range's end, for SEEK_HOLE.
pub fn first_hole<L: ExtentList + ?Sized>(extents: &L, range: Range<u64>) -> u64 {
    let end = range.end;
    pieces(extents, range)
        .find(|piece| piece.source == Source::Hole)
        .map_or(end, |piece| piece.file_offset)
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn extent(file_offset: u64, pack_offset: u32, length: u32) -> ExtentRecord {
        ExtentRecord {
            file_offset,
            pack: 7,
            pack_offset,
            length,
        }
    }

    #[test]
    fn divides_at_extents_and_holes() {
        let extents = [extent(10, 100, 5), extent(15, 300, 5), extent(40, 0, 10)];
        let found: Vec<_> = pieces(&extents, 0..60)
            .map(|piece| (piece.file_offset, piece.length, piece.source))
            .collect();
        let pack = |offset| Source::Pack { pack: 7, offset };
        assert_eq!(
            found,
            [
                (0, 10, Source::Hole),
                (10, 5, pack(100)),
                (15, 5, pack(300)),
                (20, 20, Source::Hole),
                (40, 10, pack(0)),
                (50, 10, Source::Hole),
            ]
        );
        let inner: Vec<_> = pieces(&extents, 12..16).collect();
        assert_eq!(inner[0].source, pack(102));
        assert_eq!(inner[1].length, 1);
    }

    #[test]
    fn seeks() {
        let extents = [extent(10, 0, 5), extent(15, 0, 5)];
        assert_eq!(first_data(&extents, 0..30), Some(10));
        assert_eq!(first_data(&extents, 12..30), Some(12));
        assert_eq!(first_data(&extents, 20..30), None);
        assert_eq!(first_hole(&extents, 0..30), 0);
        assert_eq!(first_hole(&extents, 10..30), 20);
        assert_eq!(first_hole(&extents, 10..20), 20);
    }

    #[test]
    fn covers_the_range_whatever_the_extents() {
        let odd = [extent(50, u32::MAX, 20), extent(0, 3, 60), extent(5, 0, 0)];
        let mut position = 0;
        for piece in pieces(&odd, 0..100) {
            assert_eq!(piece.file_offset, position);
            assert!(piece.length > 0);
            position += piece.length;
        }
        assert_eq!(position, 100);
    }
}
