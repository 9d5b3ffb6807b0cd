// SPDX-License-Identifier: GPL-2.0

//! Who is decoding a chunk right now.
#![forbid(unsafe_code)]

use kernel::ffi::c_int;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::lock::mutex::MutexGuard;
use kernel::sync::Mutex;
use pin_init::pin_init_array_from_fn;

use crate::rust::sync::lock_killable;

/// More than there are processors in most machines.
const LOCKS: usize = 32;

/// Locks by chunk number. Some chunks share one, which costs a little waiting and nothing else: no
/// task holds two.
#[pin_data]
pub(super) struct Decoding {
    /// Of stacked filesystems.
    depth: c_int,
    #[pin]
    locks: [Mutex<()>; LOCKS],
}

impl Decoding {
    /// For a mount at this depth of stacked filesystems.
    pub(super) fn new(depth: c_int) -> impl PinInit<Self> {
        pin_init!(Decoding {
            depth,
            locks <- pin_init_array_from_fn(|_| new_mutex!((), "peerfs decoding")),
        })
    }

    /// Waits until nobody else decodes this chunk; EINTR if the task is killed meanwhile.
    pub(super) fn lock(&self, chunk: u32) -> Result<MutexGuard<'_, ()>> {
        let lock = self.locks.get(chunk as usize % LOCKS).ok_or(EINVAL)?;
        lock_killable(lock, self.depth)
    }
}
