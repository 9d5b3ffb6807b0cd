// SPDX-License-Identifier: GPL-2.0

//! Ratelimited lines in the kernel log.
//!
//! Locking: the ratelimit's own lock, which is only tried; for any context.

use kernel::fmt;
use kernel::prelude::*;

use crate::bindings;

/// Logs an error that input can provoke: at the most ten such lines in five seconds.
pub(crate) fn report(message: fmt::Arguments<'_>) {
    // SAFETY: may be called in any context.
    if unsafe { bindings::peerfs_ratelimit() } {
        pr_err!("{message}");
    }
}
