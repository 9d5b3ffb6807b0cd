// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Ending in good order when somebody wants the process to end.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{raise, sigaction, SaFlags, SigAction, SigHandler, SigSet, Signal};

/// The first signal that came, or 0.
static SIGNAL: AtomicI32 = AtomicI32::new(0);

const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

extern "C" fn note(signal: i32) {
    SIGNAL.store(signal, Ordering::Relaxed);
}

/// From now on SIGINT, SIGTERM and SIGHUP are noted, each once: who sends one a second time does not want to
/// wait. Signals that the process was started to ignore stay so.
///
/// # Errors
/// The kernel refuses; nobody knows why it should.
pub fn watch() -> io::Result<()> {
    // System calls go on after it: those who look find out by themselves.
    let flags = SaFlags::SA_RESTART | SaFlags::SA_RESETHAND;
    let action = SigAction::new(SigHandler::Handler(note), flags, SigSet::empty());
    for signal in SIGNALS {
        // SAFETY: the handler only stores to an atomic, which is allowed at any point of a program; it is a
        // function of the signature that the kernel calls, and stays there for ever.
        let before = unsafe { sigaction(signal, &action) }?;
        if matches!(before.handler(), SigHandler::SigIgn) {
            // SAFETY: the action that was there before, which has no handler.
            unsafe { sigaction(signal, &before) }?;
        }
    }
    Ok(())
}

/// Whether somebody wants the process to end.
pub fn is_requested() -> bool {
    SIGNAL.load(Ordering::Relaxed) != 0
}

/// The number of the signal that came, for who passes it on and watches again. Nobody knows of it then.
pub fn take() -> Option<i32> {
    let signal = SIGNAL.swap(0, Ordering::Relaxed);
    (signal != 0).then_some(signal)
}

/// Ends the process by the signal that came, as its parent expects of one that was interrupted: a shell says
/// 130 then, and does not go on with its script. Returns if none came.
pub fn end() {
    if let Ok(signal) = Signal::try_from(SIGNAL.load(Ordering::Relaxed)) {
        // Its handler is the default again. If it fails, the caller ends the process in another way.
        let _ = raise(signal);
    }
}
