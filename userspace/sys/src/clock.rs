// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the kernel says of its clock.

use nix::libc::{adjtimex, timex, TIME_ERROR};

/// Whether somebody keeps the clock of the system right, as far as the kernel was told; None if it does not say.
pub fn is_synchronized() -> Option<bool> {
    // SAFETY: of integers alone, for which all bytes 0 are valid; `modes` 0 asks and changes nothing.
    let mut asked: timex = unsafe { std::mem::zeroed() };
    // SAFETY: a valid pointer to what the kernel fills in, for the time of the call.
    match unsafe { adjtimex(&mut asked) } {
        TIME_ERROR => Some(false),
        state if state >= 0 => Some(true),
        _ => None,
    }
}
