// SPDX-License-Identifier: GPL-2.0

//! Synchronisation.
//!
//! Locking: each file says its own.

mod completion;
mod mutex;

pub(crate) use completion::{Completion, Wait};
pub(crate) use mutex::lock_killable;
