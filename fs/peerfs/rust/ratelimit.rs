// SPDX-License-Identifier: GPL-2.0

//! Ratelimited lines in the kernel log.
//!
//! Locking: the ratelimit's own lock, which is only tried; for any context.

use core::ptr;

use kernel::fmt;
use kernel::prelude::*;
use kernel::types::Opaque;

use crate::rust::bindings;

/// Who logs errors that input can provoke: at the most ten lines in five seconds. All who are not privileged share
/// one more such limit, so that they cannot flood the log by being many, nor keep others from it.
#[pin_data]
pub(crate) struct Reporter {
    is_privileged: bool,
    #[pin]
    limit: Opaque<bindings::ratelimit_state>,
}

// SAFETY: a ratelimit may be used by any task, and at once.
unsafe impl Send for Reporter {}
// SAFETY: as above.
unsafe impl Sync for Reporter {}

impl Reporter {
    /// Has not said anything yet.
    pub(crate) fn new(is_privileged: bool) -> impl PinInit<Self> {
        // The line about those that were suppressed has no limit but this one.
        let quiet = !is_privileged;
        pin_init!(Reporter {
            is_privileged,
            limit <- Opaque::ffi_init(|slot: *mut bindings::ratelimit_state| {
                // SAFETY: `slot` is valid for writes, and pinned from here on.
                unsafe { bindings::peerfs_ratelimit_state_init(slot, quiet) };
            }),
        })
    }

    /// Logs an error, unless there were too many.
    pub(crate) fn report(&self, message: fmt::Arguments<'_>) {
        // SAFETY: the state was initialised in `new`; null stands for the common one. May be called in any
        // context.
        let may = unsafe {
            bindings::peerfs_ratelimit(self.limit.get())
                && (self.is_privileged || bindings::peerfs_ratelimit(ptr::null_mut()))
        };
        if may {
            pr_err!("{message}");
        }
    }
}
