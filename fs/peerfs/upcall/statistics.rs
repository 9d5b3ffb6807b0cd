// SPDX-License-Identifier: GPL-2.0

//! What is counted, and shown in `/sys/kernel/debug/peerfs/upcall`.

#![forbid(unsafe_code)]

use kernel::{fmt, time::Delta};

/// What was counted since the module was loaded, and how it stands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Statistics {
    /// Demands and prefetches made.
    pub(crate) made: u64,
    /// Those that found what they want already requested.
    pub(crate) coalesced: u64,
    /// Prefetches dropped because there was no daemon or too much to do, or after a long time.
    pub(crate) dropped: u64,
    /// Requests handed to a daemon; one that was handed out twice counts twice.
    pub(crate) handed_out: u64,
    /// Requests answered, failures included.
    pub(crate) answered: u64,
    /// Requests answered with a failure.
    pub(crate) failed: u64,
    /// Demands that waited in vain.
    pub(crate) timed_out: u64,
    /// Open files of the device that serve a store.
    pub(crate) attached: usize,
    /// Tasks that wait for a request.
    pub(crate) waiting: u64,
    /// Requests that are pending.
    pub(crate) pending: usize,
    /// For how long the oldest of them is.
    pub(crate) oldest: Option<Delta>,
}

impl Statistics {
    /// Adds those of another store.
    pub(super) fn add(&mut self, other: &Self) {
        let Statistics {
            made,
            coalesced,
            dropped,
            handed_out,
            answered,
            failed,
            timed_out,
            attached,
            waiting,
            pending,
            oldest,
        } = self;
        *made = made.wrapping_add(other.made);
        *coalesced = coalesced.wrapping_add(other.coalesced);
        *dropped = dropped.wrapping_add(other.dropped);
        *handed_out = handed_out.wrapping_add(other.handed_out);
        *answered = answered.wrapping_add(other.answered);
        *failed = failed.wrapping_add(other.failed);
        *timed_out = timed_out.wrapping_add(other.timed_out);
        *attached = attached.wrapping_add(other.attached);
        *waiting = waiting.wrapping_add(other.waiting);
        *pending = pending.wrapping_add(other.pending);
        *oldest = (*oldest).max(other.oldest);
    }

    /// Those of the past alone.
    pub(super) fn without_pending(self) -> Self {
        Statistics {
            attached: 0,
            waiting: 0,
            pending: 0,
            oldest: None,
            ..self
        }
    }

    /// Writes a line for each counter: its name, a space, its value.
    pub(crate) fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let oldest = self.oldest.map_or(0, Delta::as_millis);
        writeln!(f, "requests {}", self.made)?;
        writeln!(f, "coalesced {}", self.coalesced)?;
        writeln!(f, "dropped {}", self.dropped)?;
        writeln!(f, "handed_out {}", self.handed_out)?;
        writeln!(f, "answered {}", self.answered)?;
        writeln!(f, "failed {}", self.failed)?;
        writeln!(f, "timed_out {}", self.timed_out)?;
        writeln!(f, "attached {}", self.attached)?;
        writeln!(f, "waiting {}", self.waiting)?;
        writeln!(f, "pending {}", self.pending)?;
        writeln!(f, "oldest_pending_milliseconds {oldest}")
    }
}
