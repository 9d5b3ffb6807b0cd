// SPDX-License-Identifier: GPL-2.0

//! Bytes of a pack as they are stored, in memory.
#![forbid(unsafe_code)]

use core::ops::Range;

use kernel::page::PAGE_SIZE;
use kernel::prelude::*;

use crate::rust::fs::OpenedFile;

/// Stored bytes of a pack from some offset on. They are read past the page cache where that can be
/// done, so they are whole pages: some before and some behind those that are wanted.
pub(super) struct StoredBytes {
    /// Where they begin in the pack: a multiple of PAGE_SIZE.
    start: u32,
    /// Has room for the pages of what is wanted.
    bytes: KVVec<u8>,
    /// What is wanted.
    range: Range<u32>,
}

impl StoredBytes {
    /// Room for a range.
    pub(super) fn new(range: Range<u32>) -> Result<Self> {
        let start = page_start(range.start);
        let end = (range.end as usize).next_multiple_of(PAGE_SIZE);
        let length = end.checked_sub(start as usize).ok_or(EINVAL)?;
        Ok(StoredBytes {
            start,
            bytes: KVVec::with_capacity(length, GFP_KERNEL)?,
            range,
        })
    }

    /// A range of a pack's file. Ends with the file, if that is shorter.
    pub(super) fn read_new(file: &OpenedFile, range: Range<u32>) -> Result<Self> {
        let mut bytes = StoredBytes::new(range)?;
        bytes.read(file)?;
        Ok(bytes)
    }

    /// Reads what is still wanted, as far as the file goes.
    pub(super) fn read(&mut self, file: &OpenedFile) -> Result {
        let end = self.end();
        let rest = (self.range.end as usize).saturating_sub(end as usize);
        file.read_behind_directly(
            &mut self.bytes,
            rest.next_multiple_of(PAGE_SIZE),
            end.into(),
        );
        let end = self.end();
        let rest = self.range.end.saturating_sub(end) as usize;
        file.read_behind(&mut self.bytes, rest, end.into())
    }

    /// Takes what follows from other bytes of the pack, as far as they have it and it is wanted; says
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

    /// These stored bytes; `None` if some of them are not here.
    pub(super) fn get(&self, range: Range<u32>) -> Option<&[u8]> {
        let from = range.start.checked_sub(self.start)? as usize;
        let until = range.end.checked_sub(self.start)? as usize;
        self.bytes.get(from..until)
    }

    /// Up to where they are here.
    pub(super) fn end(&self) -> u32 {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.start.saturating_add(length)
    }
}

/// Where the page begins that an offset is in.
pub(super) fn page_start(offset: u32) -> u32 {
    offset - offset % PAGE_SIZE as u32
}
