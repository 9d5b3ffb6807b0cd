// SPDX-License-Identifier: GPL-2.0

//! Segments: bytes of data files that have many small chunks, read at once and ahead of whoever reads small files in
//! order. They stay as they are stored until somebody comes to a chunk in them.
//!
//! Locking: a segment's lock is held while it is read from the store's filesystem; who waits for it can be killed. That of the list is a
//! leaf; it is taken in memory reclaim, too, so nothing is allocated and no segment dropped under it.
#![forbid(unsafe_code)]

use core::ops::Range;

use kernel::ffi::c_int;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::{Arc, Mutex};

use crate::rust::fs::OpenedFile;
use crate::rust::sync::lock_killable;
use crate::store::stored::{page_start, StoredBytes};

/// Bytes of the first segment for somebody who began to go on; the next ones are twice as long each.
const SEGMENT_MIN: u64 = 64 * 1024;
/// Bytes of a segment at the most.
const SEGMENT_MAX: u64 = 256 * 1024;
/// Segments that are kept: the one that is being used, the next one, and two for whoever decodes what
/// is behind or ahead.
const KEPT: usize = 4;

/// Which bytes a segment has.
struct Location<F> {
    file: F,
    range: Range<u64>,
}

/// Bytes of a data file that are read at once.
#[pin_data]
pub(in crate::store) struct Segment<F = OpenedFile> {
    location: Location<F>,
    /// Of stacked filesystems.
    depth: c_int,
    /// `None` until somebody has read them.
    #[pin]
    bytes: Mutex<Option<Arc<StoredBytes>>>,
}

impl Segment {
    /// Its bytes. Who comes first reads them; the others wait for that.
    pub(in crate::store) fn read(&self) -> Result<Arc<StoredBytes>> {
        let mut bytes = lock_killable(&self.bytes, self.depth)?;
        if let Some(bytes) = &*bytes {
            return Ok(bytes.clone());
        }
        let Location { file, range } = &self.location;
        let read = StoredBytes::read_new(file, range.clone())?;
        let read = Arc::new(read, GFP_KERNEL)?;
        *bytes = Some(read.clone());
        Ok(read)
    }
}

/// The segments of a store.
#[pin_data]
pub(in crate::store) struct Segments<F = OpenedFile> {
    depth: c_int,
    /// The newest one last. Has room for `KEPT`.
    #[pin]
    list: Mutex<KVec<Arc<Segment<F>>>>,
}

impl<F: Clone + PartialEq> Segments<F> {
    pub(in crate::store) fn new(depth: c_int) -> impl PinInit<Self, Error> {
        try_pin_init!(Segments {
            depth,
            list <- new_mutex!(KVec::with_capacity(KEPT, GFP_KERNEL)?, "peerfs segments"),
        })
    }

    /// The segment that has the byte at this offset, read or not.
    fn at(&self, file: &F, offset: u64) -> Option<Arc<Segment<F>>> {
        let list = self.list.lock();
        let has = |segment: &&Arc<Segment<F>>| {
            segment.location.range.contains(&offset) && segment.location.file == *file
        };
        list.iter().rev().find(has).cloned()
    }

    /// Notes that somebody who goes on from chunk to chunk comes to this one, of a file of `length` bytes.
    /// Returns a segment that is worth reading meanwhile.
    pub(in crate::store) fn goes_on(
        &self,
        file: &F,
        chunk: Range<u64>,
        length: u64,
    ) -> Result<Option<Arc<Segment<F>>>> {
        let next = {
            let list = self.list.lock();
            let locations = list.iter().map(|segment| &segment.location);
            let ours = locations.filter(|location| location.file == *file);
            next(ours.map(|location| &location.range), chunk.clone(), length)
        };
        let Some(range) = next else {
            return Ok(None);
        };
        let is_ahead = range.start >= chunk.end;
        let location = Location {
            file: file.clone(),
            range,
        };
        let segment = Arc::pin_init(
            pin_init!(Segment {
                location,
                depth: self.depth,
                bytes <- new_mutex!(None, "peerfs segment"),
            }),
            GFP_KERNEL,
        )?;
        self.add(segment.clone());
        Ok(is_ahead.then_some(segment))
    }

    fn add(&self, segment: Arc<Segment<F>>) {
        let mut list = self.list.lock();
        let oldest = match list.len() {
            KEPT.. => list.remove(0).ok(),
            _ => None,
        };
        // Two tasks may add the same segment: one of them is not read, or is read in vain.
        let one_too_many = list.push_within_capacity(segment);
        drop(list);
        drop((oldest, one_too_many));
    }

    /// How many there are.
    pub(in crate::store) fn len(&self) -> usize {
        self.list.lock().len()
    }

    /// Forgets this many, if there are so many; says how many.
    pub(in crate::store) fn forget_some(&self, count: usize) -> usize {
        let take = || self.list.lock().pop();
        (0..count).map_while(|_| take()).count()
    }
}

impl Segments {
    /// The bytes of a chunk or several: from segments as far as these have them, and from the file. Ends with the file,
    /// if that is shorter.
    pub(in crate::store) fn read(
        &self,
        file: &OpenedFile,
        range: Range<u64>,
    ) -> Result<Arc<StoredBytes>> {
        let bytes_at = |offset| {
            let segment = self.at(file, offset);
            segment.map(|segment| segment.read()).transpose()
        };
        let mut next = bytes_at(range.start)?;
        if let Some(bytes) = next.take_if(|bytes| bytes.get(range.clone()).is_some()) {
            return Ok(bytes);
        }
        let mut bytes = StoredBytes::new(range.clone())?;
        while let Some(part) = next {
            if !bytes.take(&part)? || bytes.end() >= range.end {
                break;
            }
            next = bytes_at(bytes.end())?;
        }
        bytes.read(file)?;
        Ok(Arc::new(bytes, GFP_KERNEL)?)
    }
}

/// The range of the segment to be had next, where these are those of the file: around the chunk that somebody comes
/// to, or behind the segment that they have come half through.
fn next<'a>(
    ranges: impl Iterator<Item = &'a Range<u64>> + Clone,
    chunk: Range<u64>,
    length: u64,
) -> Option<Range<u64>> {
    let at = |offset: u64| ranges.clone().find(|range| range.contains(&offset));
    let (start, bytes) = match at(chunk.start) {
        None => (page_start(chunk.start), SEGMENT_MIN),
        Some(range) => {
            let bytes = range.end - range.start;
            let used = chunk.end.saturating_sub(range.start);
            if used < bytes / 2 || at(range.end).is_some() {
                return None;
            }
            (
                range.end,
                bytes.saturating_mul(2).clamp(SEGMENT_MIN, SEGMENT_MAX),
            )
        }
    };
    let range = start..start.saturating_add(bytes).min(length);
    (!range.is_empty()).then_some(range)
}

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(peerfs_segment)]
mod tests {
    use super::*;

    const LENGTH: u64 = 100 << 20;

    /// Segments of files that are known by numbers.
    fn segments() -> Pin<KBox<Segments<u32>>> {
        KBox::pin_init(Segments::new(1), GFP_KERNEL).unwrap()
    }

    #[test]
    fn who_goes_on_finds_longer_and_longer_segments_that_follow_each_other() {
        let segments = segments();
        let mut found = KVec::new();
        let mut at = 10_000;
        // Chunks of 30,000 bytes, as long as segments are planned for.
        while found.len() < 6 {
            let chunk = at..at + 30_000;
            segments.goes_on(&7, chunk.clone(), LENGTH).unwrap();
            let segment = segments.at(&7, chunk.start).unwrap();
            // At most the end of a chunk is in none.
            let range = segment.location.range.clone();
            assert!(range.contains(&chunk.start));
            if found.last() != Some(&range) {
                found.push(range, GFP_KERNEL).unwrap();
            }
            at = chunk.end;
        }
        let lengths = [64, 128, 256, 256, 256, 256];
        let mut start = 8192;
        for (range, length) in found.iter().zip(lengths) {
            assert_eq!(*range, start..start + length * 1024);
            start = range.end;
        }
        assert_eq!(segments.len(), KEPT);
    }

    #[test]
    fn what_is_ahead_is_said_once_and_in_time() {
        let segments = segments();
        let said = |chunk: Range<u64>| {
            let segment = segments.goes_on(&0, chunk, LENGTH).unwrap();
            segment.map(|segment| segment.location.range.clone())
        };
        // The first one is read by who comes to it.
        assert_eq!(said(0..20_000), None);
        assert_eq!(said(20_000..30_000), None);
        assert_eq!(said(30_000..40_000), Some(65_536..196_608));
        assert_eq!(said(40_000..50_000), None);
        // Elsewhere, and in another file, it begins anew.
        assert_eq!(said(5_000_000..5_010_000), None);
        assert_eq!(said(5_010_000..5_050_000), Some(5_062_656..5_193_728));
        assert!(segments.at(&1, 0).is_none());
    }

    #[test]
    fn a_file_ends() {
        let segments = segments();
        segments.goes_on(&0, 0..40_000, 50_000).unwrap();
        assert_eq!(segments.at(&0, 0).unwrap().location.range, 0..50_000);
        assert!(segments
            .goes_on(&0, 40_000..50_000, 50_000)
            .unwrap()
            .is_none());
        assert!(segments.at(&0, 50_000).is_none());
        assert!(segments
            .goes_on(&0, 60_000..70_000, 50_000)
            .unwrap()
            .is_none());
        // And may have grown since.
        segments.goes_on(&0, 49_000..60_000, 90_000).unwrap();
        assert_eq!(
            segments.at(&0, 50_000).unwrap().location.range,
            50_000..90_000
        );
        segments
            .goes_on(&0, u64::MAX - 10..u64::MAX, u64::MAX)
            .unwrap();
        assert_eq!(
            segments.at(&0, u64::MAX - 1).unwrap().location.range.end,
            u64::MAX
        );
    }
}
