// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Which chunks the bytes of a range of a pack come from.

use core::ops::Range;

use crate::{ChunkRecord, Error, Iv, PackIndex, Result};

/// A part of a chunk, or all of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ChunkPart {
    /// The chunk's number in its pack.
    pub number: u32,
    /// The chunk's record.
    pub record: ChunkRecord,
    /// The chunk's initialization vector, if it is encrypted.
    pub iv: Option<Iv>,
    /// Bytes of the chunk before the part.
    pub skipped: u32,
    /// Bytes of the part, at least 1.
    pub length: u32,
}

impl ChunkPart {
    /// Whether it is all of the chunk.
    pub fn is_whole(&self) -> bool {
        self.length == self.record.logical_length
    }

    /// Where the part is in the decoded chunk.
    pub fn range(&self) -> Range<usize> {
        let start = self.skipped as usize;
        start..start.saturating_add(self.length as usize)
    }
}

/// The parts of a range of a pack's logical address space, in order and without gaps. Made by [`PackIndex::parts`].
pub struct ChunkParts<'a> {
    index: PackIndex<'a>,
    /// The number of the next part's chunk, once the first one is found.
    next: Option<u32>,
    position: u64,
    end: u64,
}

impl<'a> PackIndex<'a> {
    /// Divides `length` bytes from an offset of the pack's logical address space on into parts of chunks. The first
    /// chunk is searched for, the others follow it. If there are not so many bytes an error is the last item.
    pub fn parts(&self, offset: u32, length: u64) -> ChunkParts<'a> {
        ChunkParts {
            index: *self,
            next: None,
            position: offset.into(),
            end: u64::from(offset).saturating_add(length),
        }
    }

    /// The numbers of the chunks that a range of the pack's logical address space lies in.
    ///
    /// # Errors
    /// [`Error::Malformed`] if it begins where there is no chunk.
    pub fn numbers(&self, offsets: Range<u32>) -> Result<Range<u32>> {
        let (first, _) = self.chunk_at(offsets.start)?;
        let end = self
            .chunks
            .partition_point(|chunk| chunk.logical_offset < offsets.end);
        Ok(first..u32::try_from(end).unwrap_or(u32::MAX))
    }
}

impl ChunkParts<'_> {
    fn part(&self) -> Result<ChunkPart> {
        const BEYOND: Error = Error::Malformed("offset in a pack");
        let offset = u32::try_from(self.position).map_err(|_| BEYOND)?;
        let (number, record) = match self.next {
            None => self.index.chunk_at(offset)?,
            Some(number) => (number, self.index.chunk(number)?),
        };
        let skipped = offset.checked_sub(record.logical_offset).ok_or(BEYOND)?;
        let behind = record.logical_length.checked_sub(skipped).ok_or(BEYOND)?;
        let left = u32::try_from(self.end - self.position).unwrap_or(u32::MAX);
        match behind.min(left) {
            0 => Err(BEYOND),
            length => Ok(ChunkPart {
                number,
                record,
                iv: self.index.iv(number),
                skipped,
                length,
            }),
        }
    }
}

impl Iterator for ChunkParts<'_> {
    type Item = Result<ChunkPart>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.position >= self.end {
            return None;
        }
        let part = self.part();
        self.position = match &part {
            Ok(part) => self.position.saturating_add(part.length.into()),
            Err(_) => self.end,
        };
        self.next = part.as_ref().ok().map(|part| part.number.saturating_add(1));
        Some(part)
    }
}
