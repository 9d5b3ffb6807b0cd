// SPDX-License-Identifier: GPL-2.0

//! Bytes of a data file, in memory.
#![forbid(unsafe_code)]

use core::ops::Range;

use kernel::page::PAGE_SIZE;
use kernel::prelude::*;

use crate::rust::fs::OpenedFile;

/// Bytes of a data file from some offset on, as they are stored. They are read past the page cache where that can be
/// done, so they are whole pages: some before and some behind those that are wanted.
pub(super) struct StoredBytes {
    /// Where they begin in the file: a multiple of PAGE_SIZE.
    start: u64,
    /// Has room for the pages of what is wanted.
    bytes: KVVec<u8>,
    /// What is wanted.
    range: Range<u64>,
}

impl StoredBytes {
    /// Room for a range.
    pub(super) fn new(range: Range<u64>) -> Result<Self> {
        let start = page_start(range.start);
        let end = range.end.checked_next_multiple_of(PAGE_SIZE as u64);
        let length = end.and_then(|end| end.checked_sub(start)).ok_or(EINVAL)?;
        Ok(StoredBytes {
            start,
            bytes: KVVec::with_capacity(usize::try_from(length)?, GFP_KERNEL)?,
            range,
        })
    }

    /// A range of a file. Ends with the file, if that is shorter.
    pub(super) fn read_new(file: &OpenedFile, range: Range<u64>) -> Result<Self> {
        let mut bytes = StoredBytes::new(range)?;
        bytes.read(file)?;
        Ok(bytes)
    }

    /// Reads what is still wanted, as far as the file goes.
    pub(super) fn read(&mut self, file: &OpenedFile) -> Result {
        let (end, rest) = self.rest()?;
        file.read_behind_directly(&mut self.bytes, rest.next_multiple_of(PAGE_SIZE), end);
        let (end, rest) = self.rest()?;
        file.read_behind(&mut self.bytes, rest, end)
    }

    /// Up to where they are here, and how many are still wanted.
    fn rest(&self) -> Result<(u64, usize)> {
        let end = self.end();
        let rest = self.range.end.saturating_sub(end);
        Ok((end, usize::try_from(rest)?))
    }

    /// Takes what follows from other bytes of the file, as far as they have it and it is wanted; says
    /// whether that was anything.
    pub(super) fn take(&mut self, other: &StoredBytes) -> Result<bool> {
        let end = self.end();
        let rest = end..other.end().min(self.range.end);
        let Some(part) = other.get(rest).filter(|part| !part.is_empty()) else {
            return Ok(false);
        };
        self.bytes.extend_from_slice(part, GFP_KERNEL)?;
        Ok(true)
    }

    /// The bytes of this range of the file; `None` if some of them are not here.
    pub(super) fn get(&self, range: Range<u64>) -> Option<&[u8]> {
        let from = usize::try_from(range.start.checked_sub(self.start)?).ok()?;
        let until = usize::try_from(range.end.checked_sub(self.start)?).ok()?;
        self.bytes.get(from..until)
    }

    /// Up to where they are here.
    pub(super) fn end(&self) -> u64 {
        self.start.saturating_add(self.bytes.len() as u64)
    }
}

/// Where the page begins that an offset is in.
pub(super) fn page_start(offset: u64) -> u64 {
    offset - offset % PAGE_SIZE as u64
}
