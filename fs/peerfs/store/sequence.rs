// SPDX-License-Identifier: GPL-2.0

//! Whether the chunks that small files share are read one after the other.
#![forbid(unsafe_code)]

use kernel::sync::atomic::{Atomic, Relaxed};

/// The chunk that was read last. Several readers make each other look random, which costs them nothing
/// but what would have been done ahead.
pub(super) struct Sequence {
    /// The pack in the upper half, the chunk's number in the lower one.
    last: Atomic<u64>,
}

impl Sequence {
    pub(super) fn new() -> Self {
        Sequence {
            // No chunk has this number, nor its successor.
            last: Atomic::new(u64::MAX),
        }
    }

    /// Notes that a chunk is being read. Says whether the one before it was read just now: once, when
    /// readers come to it, not for each file in it.
    pub(super) fn goes_on(&self, pack: u32, chunk: u32) -> bool {
        let now = u64::from(pack) << 32 | u64::from(chunk);
        let last = self.last.load(Relaxed);
        if last == now {
            return false;
        }
        self.last.store(now, Relaxed);
        chunk > 0 && last == now - 1
    }
}
