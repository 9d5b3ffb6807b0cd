// SPDX-License-Identifier: GPL-2.0

//! The task that is running.
//!
//! Locking: none; `let_others_run` may sleep.

use crate::rust::bindings;

/// Whether it is being killed: nobody will see what it still does.
pub(crate) fn is_being_killed() -> bool {
    // SAFETY: may be asked at any time.
    unsafe { bindings::peerfs_fatal_signal_pending() }
}

/// Lets another task have the processor, if one wants it: for loops as long as an image likes.
pub(crate) fn let_others_run() {
    // SAFETY: the caller may sleep.
    unsafe { bindings::peerfs_cond_resched() };
}
