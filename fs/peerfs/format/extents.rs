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
                Some(extent) if end_of(&extent) <= byte => low = middle + 1,
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

fn end_of(extent: &ExtentRecord) -> u64 {
    extent.file_offset.saturating_add(u64::from(extent.length))
}

impl<L: ExtentList + ?Sized> Iterator for Pieces<'_, L> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        if self.position >= self.end {
            return None;
        }
        let file_offset = self.position;
        let mut next = self.extents.extent(self.next);
        while next.is_some_and(|extent| end_of(&extent) <= file_offset) {
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
                        (end_of(&extent), Source::Pack { pack, offset })
                    }
                    // Beyond any pack: a place that the pack's reader refuses.
                    None => (
                        end_of(&extent),
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

/// A range of a file, widened to where the chunks at its ends begin and end, but not beyond their
/// extents. `chunk` gives the range of the chunk at an offset of a pack's address space, if that is
/// known; it is asked once if both ends are in one chunk.
pub fn widened(
    extents: &(impl ExtentList + ?Sized),
    range: Range<u64>,
    chunk: impl Fn(u32, u32) -> Option<Range<u32>>,
) -> Range<u64> {
    let Some(last) = range.end.checked_sub(1).filter(|last| *last >= range.start) else {
        return range;
    };
    // What the chunk at a byte has of the file before that byte and behind it.
    let mut last_chunk: Option<(u32, Range<u32>)> = None;
    let mut around = |byte: u64| {
        let extent = extents.extent(extents.covering(byte))?;
        let inside = u32::try_from(byte.checked_sub(extent.file_offset)?).ok()?;
        let offset = extent.pack_offset.checked_add(inside)?;
        let chunk = match &last_chunk {
            Some((pack, range)) if *pack == extent.pack && range.contains(&offset) => range.clone(),
            _ => chunk(extent.pack, offset)?,
        };
        last_chunk = Some((extent.pack, chunk.clone()));
        let before = offset.checked_sub(chunk.start)?.min(inside);
        let behind = chunk.end.checked_sub(offset)?.checked_sub(1)?;
        let behind = u64::from(behind).min(end_of(&extent).saturating_sub(byte).checked_sub(1)?);
        Some((u64::from(before), behind))
    };
    let start = around(range.start).map_or(range.start, |(before, _)| range.start - before);
    let end = around(last).map_or(range.end, |(_, behind)| range.end.saturating_add(behind));
    start..end
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
    fn widens_to_chunks_inside_extents() {
        let extents = [extent(0, 1000, 300), extent(300, 5000, 100)];
        // Chunks of 64 bytes.
        let chunk = |_, offset: u32| Some(offset / 64 * 64..offset / 64 * 64 + 64);
        // 1000 is 40 bytes into its chunk: bytes 24..88 of the file are one.
        assert_eq!(widened(&extents, 30..40, chunk), 24..88);
        assert_eq!(widened(&extents, 24..88, chunk), 24..88);
        assert_eq!(widened(&extents, 3..4, chunk), 0..24);
        assert_eq!(widened(&extents, 299..301, chunk), 280..356);
        assert_eq!(widened(&extents, 350..1000, chunk), 300..1000);
        assert_eq!(widened(&extents, 30..30, chunk), 30..30);
        assert_eq!(widened(&extents, 30..40, |_, _| None), 30..40);
        let odd = [extent(50, u32::MAX, 20), extent(0, 3, 60)];
        assert_eq!(widened(&odd, 52..53, chunk), 52..53);
        assert_eq!(
            widened(&odd, 55..70, |_, _| Some(Range { start: 9, end: 2 })),
            55..70
        );
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
