// SPDX-License-Identifier: GPL-2.0

//! The kernel's ticks.
//!
//! Locking: none.

use kernel::ffi::c_ulong;

use crate::rust::bindings;

/// Seconds in jiffies.
pub(crate) fn seconds_to_jiffies(seconds: u32) -> c_ulong {
    // SAFETY: only computes.
    unsafe { bindings::peerfs_secs_to_jiffies(seconds) }
}
