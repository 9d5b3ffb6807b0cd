// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Waiting in tokio until a descriptor can be read.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;
use tokio::io::Interest;

/// Registers a descriptor in non-blocking mode, to wait until it can be read.
///
/// # Panics
/// Outside a tokio runtime.
///
/// # Errors
/// What the system says: EPERM for a file that can't be polled.
pub fn readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: An `OwnedFd` is open and stays so until it is dropped, and `as_raw_fd` always returns
    // the same descriptor. The `AsyncFd` owns it and gives only shared references to it, which
    // can't close it. Nobody makes the number refer to another file: that would take unsafe code
    // that breaks the promise of `OwnedFd`.
    unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }
        .map_err(io::Error::from)
}
