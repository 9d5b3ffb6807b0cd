// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Sockets that whoever started this process has opened for it, as systemd does (sd_listen_fds(3)).

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether they were taken.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The descriptors that were passed to this process, with their names; none if there are none, or if they were taken
/// already. Processes that this one starts do not inherit them.
///
/// To be called before the process opens anything: what was passed is known by its number alone.
///
/// # Errors
/// If the environment does not say what descriptors there are, or names some that are not open.
pub fn take() -> io::Result<Vec<(String, OwnedFd)>> {
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let passed = sd_notify::listen_fds_with_names()?;
    Ok(passed
        .map(|(number, name)| {
            // SAFETY: the descriptor is open, which was just seen, and `TAKEN` says that nobody took it here before. Who
            // starts a process with LISTEN_PID and LISTEN_FDS leaves these numbers to it, and the process opens
            // others only after this call.
            (name, unsafe { OwnedFd::from_raw_fd(number) })
        })
        .collect())
}
