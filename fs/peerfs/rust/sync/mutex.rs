// SPDX-License-Identifier: GPL-2.0

//! `mutex_lock_killable`, which kernel::sync::Mutex lacks: for mutexes that are held while something is read from
//! another filesystem.
//!
//! Locking: the mutex. Two of one class may be held if they belong to filesystems that are stacked on each other:
//! the depth in the stack tells lockdep so.

use kernel::error::to_result;
use kernel::ffi::{c_int, c_uint};
use kernel::prelude::*;
use kernel::sync::lock::mutex::{MutexBackend, MutexGuard};
use kernel::sync::lock::Guard;
use kernel::sync::Mutex;

use crate::rust::bindings;

/// Locks a mutex of a filesystem at this depth of the stack; EINTR if the task is killed while it waits.
pub(crate) fn lock_killable<T>(mutex: &Mutex<T>, depth: c_int) -> Result<MutexGuard<'_, T>> {
    let raw: *mut bindings::mutex = (&raw const *mutex).cast_mut().cast();
    // SAFETY: the kernel's mutex is the first field of the initialised lock (`repr(C)`).
    to_result(unsafe { bindings::peerfs_mutex_lock_killable_nested(raw, depth as c_uint) })?;
    // SAFETY: it was just locked, by this task.
    Ok(unsafe { Guard::<T, MutexBackend>::new(mutex, ()) })
}
