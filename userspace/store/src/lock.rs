// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Locks whose content is valid after each step of a change.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks it: a panic elsewhere has spoiled nothing.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
