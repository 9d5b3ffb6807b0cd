// SPDX-License-Identifier: GPL-2.0

//! How far the chunks that small files share are decoded ahead of whoever reads them in order.
#![forbid(unsafe_code)]

use core::ops::Range;

#[cfg(CONFIG_KUNIT = "y")]
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};

/// The chunk that was read last. Several readers make each other look random, which costs them nothing
/// but what would have been done ahead.
///
/// Chunks are numbered over all packs: the pack in the upper half, the chunk's number in the lower one.
pub(in crate::store) struct Sequence {
    last: Atomic<u64>,
    /// Up to where chunks were said to be worth decoding.
    ahead: Atomic<u64>,
}

impl Sequence {
    pub(in crate::store) fn new() -> Self {
        Sequence {
            // No chunk has this number, nor its successor.
            last: Atomic::new(u64::MAX),
            ahead: Atomic::new(0),
        }
    }

    /// Notes that a chunk of a pack is being read. Says which chunks behind it are worth decoding
    /// meanwhile, at most `lead_max` ahead, one more each time; `None` for who jumps. Once, when readers
    /// come to the chunk, not for each file in it.
    pub(in crate::store) fn goes_on(
        &self,
        pack: u32,
        chunk: u32,
        lead_max: u32,
    ) -> Option<Range<u32>> {
        let now = u64::from(pack) << 32 | u64::from(chunk);
        let last = self.last.load(Relaxed);
        if last == now {
            return None;
        }
        self.last.store(now, Relaxed);
        if chunk == 0 || last != now - 1 {
            return None;
        }
        let ahead = self.ahead.load(Relaxed);
        // A lead that is not of this sequence is another reader's.
        let lead = ahead
            .checked_sub(now)
            .and_then(|lead| u32::try_from(lead).ok())
            .filter(|lead| *lead <= lead_max)
            .unwrap_or(0);
        let first = chunk.saturating_add(lead.max(1));
        let end = chunk.saturating_add(1 + lead.saturating_add(1).min(lead_max));
        self.ahead
            .store(now - u64::from(chunk) + u64::from(end), Relaxed);
        Some(first..end)
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(peerfs_sequence)]
mod tests {
    use super::*;

    #[test]
    fn who_goes_on_is_led_ever_further() {
        let sequence = Sequence::new();
        let led = [0, 1, 2, 3, 4, 5].map(|chunk| sequence.goes_on(7, chunk, 3));
        // The lead is 0, 1, 2, 3, 3, 3: no chunk twice, and none left out.
        let expected =
            [(2, 3), (3, 5), (5, 7), (7, 8), (8, 9)].map(|(first, end)| Some(first..end));
        assert_eq!(led[0], None);
        assert_eq!(led[1..], expected);
        assert_eq!(sequence.goes_on(7, 5, 3), None);
    }

    #[test]
    fn who_jumps_is_not_led() {
        let sequence = Sequence::new();
        for (pack, chunk) in [(0, 5), (0, 7), (1, 8), (0, 6), (1, 0), (u32::MAX, u32::MAX)] {
            assert_eq!(sequence.goes_on(pack, chunk, 3), None);
        }
        // Who begins anew begins with little.
        assert_eq!(sequence.goes_on(2, 100, 3), None);
        assert_eq!(sequence.goes_on(2, 101, 3), Some(102..103));
    }

    #[test]
    fn nobody_is_led_without_room() {
        let sequence = Sequence::new();
        for chunk in 0..5 {
            let led = sequence.goes_on(0, chunk, 0);
            assert!(led.is_none_or(|led| led.is_empty()));
        }
    }
}
