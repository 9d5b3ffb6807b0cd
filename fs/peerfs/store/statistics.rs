// SPDX-License-Identifier: GPL-2.0

//! What a mount's store counts, shown in `/sys/kernel/debug/peerfs/mounts/DEVICE/store`.
#![forbid(unsafe_code)]

use kernel::fmt;
use kernel::sync::atomic::{Atomic, Relaxed};

/// The counters of a store. Each is exact; two of them may be of different moments.
pub(crate) struct Statistics {
    /// Manifest, shards and pack indexes.
    pub(super) blobs: Counts,
    /// Chunks. Parts of one that are wanted in turn count each time.
    pub(super) chunks: Counts,
    /// Chunks that were decoded before anybody came to them.
    pub(super) chunks_ahead: Counter,
}

/// What becomes of the wish for one kind of thing.
pub(super) struct Counts {
    /// It was read, and has its digest.
    pub(super) verified: Counter,
    /// It was still in memory.
    pub(super) cached: Counter,
    /// It was not in the store, and asked for.
    pub(super) missed: Counter,
    /// It was read, and has another digest.
    pub(super) damaged: Counter,
}

/// A number that only grows.
pub(super) struct Counter(Atomic<u64>);

impl Statistics {
    pub(super) fn new() -> Self {
        Statistics {
            blobs: Counts::new(),
            chunks: Counts::new(),
            chunks_ahead: Counter::new(),
        }
    }

    /// Writes a line for each counter: its name, a space, its value.
    pub(crate) fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.blobs.show("blobs", f)?;
        self.chunks.show("chunks", f)?;
        writeln!(f, "chunks_ahead {}", self.chunks_ahead.value())
    }
}

impl Counts {
    fn new() -> Self {
        Counts {
            verified: Counter::new(),
            cached: Counter::new(),
            missed: Counter::new(),
            damaged: Counter::new(),
        }
    }

    fn show(&self, what: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{what}_verified {}", self.verified.value())?;
        writeln!(f, "{what}_cached {}", self.cached.value())?;
        writeln!(f, "{what}_missed {}", self.missed.value())?;
        writeln!(f, "{what}_damaged {}", self.damaged.value())
    }
}

impl Counter {
    fn new() -> Self {
        Counter(Atomic::new(0))
    }

    /// One more.
    pub(super) fn count(&self) {
        self.0.add(1, Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
