// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How far to read ahead of a reader, and what to ask a distant source for.
//!
//! The aim is a link that is never idle while a file is read from one end to the other, and few, big
//! requests while a program starts; both without fetching much that nobody reads.
#![forbid(unsafe_code)]

use core::ops::Range;

#[cfg(CONFIG_KUNIT = "y")]
use kernel::prelude::*;
use peerfs_format::{ExtentList, CHUNK_MAX};

/// Files up to this size are asked for whole as soon as anything of them is missing: bytes. Programs
/// and their libraries are read here and there, at one round trip for each place.
const WHOLE_FILE_MAX: u64 = 4 * 1024 * 1024;

/// How far ahead of a sequential reader chunks are asked for at the most: bytes. A link of 1 Gbit/s
/// with a round trip of 20 ms holds 2.5 MB; the rest is for pauses in between.
const AHEAD_MAX: u64 = 16 * 1024 * 1024;

/// How long a window is made for who goes on, at the most: bytes. So much that there is work for all
/// processors of a small machine.
const WINDOW_MAX: u64 = 1024 * 1024;

/// The window to read in place of one that the kernel chose for somebody who goes on: twice as long. The kernel
/// keeps a window as long as it was made the last time.
pub(crate) fn lengthened(window: Range<u64>) -> Range<u64> {
    let length = window.end.saturating_sub(window.start);
    let longer = length.saturating_mul(2).min(WINDOW_MAX).max(length);
    window.start..window.start.saturating_add(longer)
}

/// The range to ask for when `window` of a file of `size` bytes is being read, the window before that
/// ended at `read`, and everything from there to `asked` was asked for; `None` if that is enough. The end
/// of the range is the next `asked`.
///
/// A reader who goes on where the last one ended is ahead by twice as much each time; one who jumps gets
/// what it reads.
pub(crate) fn ahead(read: u64, asked: u64, window: Range<u64>, size: u64) -> Option<Range<u64>> {
    if window.start >= size || window.is_empty() {
        return None;
    }
    if size <= WHOLE_FILE_MAX {
        return (asked < size).then_some(0..size);
    }
    let length = window.end - window.start;
    // A window is widened to whole chunks when it is read, so the next one begins up to one later.
    let goes_on = window.start >= read.saturating_sub(length)
        && window.start <= read.saturating_add(CHUNK_MAX.into());
    let lead = asked.saturating_sub(window.start);
    // A lead beyond that is another reader's.
    let sequential = goes_on && lead <= length.saturating_mul(2).saturating_add(AHEAD_MAX);
    if !sequential || asked == 0 {
        return Some(window.start..window.end.min(size));
    }
    let asked = asked.max(window.start);
    let wanted = lead
        .max(length)
        .saturating_mul(2)
        .min(AHEAD_MAX)
        .saturating_add(window.end)
        .min(size);
    // Not for a little at a time.
    let more = wanted.saturating_sub(asked);
    let enough = asked >= window.end && more < length;
    (!enough && more > 0).then_some(asked..wanted)
}

/// A range of a file, widened to where the chunks at its ends begin and end, but not beyond their
/// extents. `chunk` gives the range of the chunk at an offset of a pack's address space, if that is
/// known; it is asked once if both ends are in one chunk.
pub(crate) fn widened(
    extents: &(impl ExtentList + ?Sized),
    range: Range<u64>,
    mut chunk: impl FnMut(u32, u32) -> Option<Range<u32>>,
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
        let behind = u64::from(behind).min(extent.end().saturating_sub(byte).checked_sub(1)?);
        Some((u64::from(before), behind))
    };
    let start = around(range.start).map_or(range.start, |(before, _)| range.start - before);
    let end = around(last).map_or(range.end, |(_, behind)| range.end.saturating_add(behind));
    start..end
}

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(peerfs_window)]
mod tests {
    use super::*;
    use peerfs_format::ExtentRecord;

    #[test]
    fn windows_grow_up_to_a_bound() {
        let mut window = lengthened(0..128 * 1024);
        for kib in [256, 512, 1024, 1024] {
            let length = window.end - window.start;
            assert_eq!(length, kib * 1024);
            window = lengthened(window.end..window.end + length);
        }
        assert_eq!(lengthened(5..5), 5..5);
        assert_eq!(lengthened(0..3 * WINDOW_MAX), 0..3 * WINDOW_MAX);
        assert_eq!(lengthened(u64::MAX - 1..u64::MAX), u64::MAX - 1..u64::MAX);
    }

    const WINDOW: u64 = 512 * 1024;
    const SIZE: u64 = 1 << 30;

    /// Reads from `start` on, and returns the lead after each window.
    fn read_from(start: u64, mut asked: u64) -> impl Iterator<Item = (Option<Range<u64>>, u64)> {
        (0..).map(move |number| {
            let from = start + number * WINDOW;
            let range = ahead(from, asked, from..from + WINDOW, SIZE);
            if let Some(range) = &range {
                asked = range.end;
            }
            (range, asked.saturating_sub(from + WINDOW))
        })
    }

    #[test]
    fn a_sequential_reader_is_led_by_more_and_more() {
        let mut leads = [0; 12];
        for (place, (_, lead)) in leads.iter_mut().zip(read_from(0, 0)) {
            *place = lead;
        }
        assert_eq!(leads[0], 0);
        assert!(leads
            .windows(2)
            .all(|pair| pair[1] >= pair[0] || pair[1] >= AHEAD_MAX - 2 * WINDOW));
        assert!(leads[8] >= AHEAD_MAX - 2 * WINDOW && leads[8] <= AHEAD_MAX + WINDOW);
    }

    #[test]
    fn nothing_is_asked_for_twice_on_the_way() {
        let mut asked_until = 0;
        for (range, _) in read_from(0, 0).take(200) {
            if let Some(range) = range {
                assert_eq!(range.start, asked_until);
                assert!(range.end > range.start && range.end <= SIZE);
                asked_until = range.end;
            }
        }
        assert!(asked_until > 200 * WINDOW);
    }

    #[test]
    fn a_jump_asks_for_what_is_read_only() {
        let there = 500 << 20;
        assert_eq!(
            ahead(WINDOW, WINDOW, there..there + 4096, SIZE),
            Some(there..there + 4096)
        );
        let back = 100 << 20;
        assert_eq!(
            ahead(there, there, back..back + 4096, SIZE),
            Some(back..back + 4096)
        );
        // Not even when it lands where a reader who went on would be.
        let near = there - AHEAD_MAX / 2;
        assert_eq!(
            ahead(there, there, near..near + 4096, SIZE),
            Some(near..near + 4096)
        );
    }

    #[test]
    fn windows_that_were_widened_to_whole_chunks_follow_each_other() {
        let next = WINDOW + u64::from(CHUNK_MAX);
        let range = ahead(WINDOW, WINDOW, next..next + WINDOW, SIZE).unwrap();
        assert_eq!(range.start, next);
        assert!(range.end > next + WINDOW);
    }

    #[test]
    fn a_small_file_is_asked_for_once_and_whole() {
        assert_eq!(ahead(0, 0, 8192..12288, 1 << 20), Some(0..1 << 20));
        assert_eq!(ahead(12288, 1 << 20, 16384..20480, 1 << 20), None);
        assert_eq!(ahead(0, 0, 0..4096, 0), None);
    }

    #[test]
    fn the_end_is_the_end() {
        assert_eq!(ahead(SIZE - WINDOW, SIZE, SIZE - WINDOW..SIZE, SIZE), None);
        assert_eq!(
            ahead(SIZE - WINDOW, SIZE - 10, SIZE - WINDOW..SIZE + 4096, SIZE),
            Some(SIZE - 10..SIZE)
        );
        assert_eq!(ahead(0, u64::MAX, 0..u64::MAX, u64::MAX), None);
    }

    const fn extent(file_offset: u64, pack_offset: u32, length: u32) -> ExtentRecord {
        ExtentRecord {
            file_offset,
            pack: 7,
            pack_offset,
            length,
        }
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
}
