// SPDX-License-Identifier: GPL-2.0

//! `struct completion` with a wait that ends, and that a suspend does not wait for: kernel::sync::Completion has
//! neither timeout nor kill.
//!
//! Locking: the completion's own, which is taken for an instant, in any context. Waiting sleeps, so nobody
//! who waits may hold a lock that is taken with interrupts or preemption off.

use crate::rust::bindings;
use kernel::{
    ffi::{c_long, c_ulong},
    prelude::*,
    types::Opaque,
};

/// How a wait ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Wait {
    /// The completion is complete.
    Done,
    /// The time is over.
    TimedOut,
    /// The waiting task got a fatal signal.
    Killed,
}

/// Something that happens once, and that tasks can wait for.
#[pin_data]
pub(crate) struct Completion {
    #[pin]
    inner: Opaque<bindings::completion>,
}

// SAFETY: A `struct completion` may be used from any task; it isn't tied to the one that made it.
unsafe impl Send for Completion {}

// SAFETY: The functions called here synchronise by the lock inside `struct completion`.
unsafe impl Sync for Completion {}

impl Completion {
    /// A completion that isn't complete.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- Opaque::ffi_init(|slot: *mut bindings::completion| {
                // SAFETY: `slot` is valid for writes, and pinned from here on.
                unsafe { bindings::init_completion(slot) };
            }),
        })
    }

    /// Completes it for good: whoever waits or will wait goes on. Never sleeps.
    pub(crate) fn complete_all(&self) {
        // SAFETY: `inner` was initialised in `new` and lives as long as `self`.
        unsafe { bindings::complete_all(self.inner.get()) };
    }

    /// Waits at most `timeout` jiffies; only a fatal signal ends the wait early. Sleeps, and is frozen with
    /// the machine when that is suspended.
    pub(crate) fn wait_killable_timeout(&self, timeout: c_ulong) -> Wait {
        // LONG_MAX, which is MAX_SCHEDULE_TIMEOUT, would mean for ever.
        const LONGEST: c_ulong = (isize::MAX - 1) as c_ulong;
        let timeout = timeout.min(LONGEST) as c_long;
        // SAFETY: `inner` was initialised in `new` and lives as long as `self`, hence as the wait.
        let left = unsafe {
            bindings::peerfs_wait_for_completion_freezable_timeout(self.inner.get(), timeout)
        };
        match left {
            0 => Wait::TimedOut,
            1.. => Wait::Done,
            _ => Wait::Killed,
        }
    }
}
