// SPDX-License-Identifier: GPL-2.0

//! Who is decoding a chunk right now.
#![forbid(unsafe_code)]

use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::lock::mutex::MutexGuard;
use kernel::sync::Mutex;
use pin_init::pin_init_array_from_fn;

/// More than there are processors in most machines.
const LOCKS: usize = 32;

/// Locks by chunk number. Some chunks share one, which costs a little waiting and nothing else: no
/// task holds two.
#[pin_data]
pub(super) struct Decoding {
    #[pin]
    locks: [Mutex<()>; LOCKS],
}

impl Decoding {
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Decoding {
            locks <- pin_init_array_from_fn(|_| new_mutex!((), "peerfs decoding")),
        })
    }

    /// Waits until nobody else decodes this chunk.
    pub(super) fn lock(&self, chunk: u32) -> Option<MutexGuard<'_, ()>> {
        self.locks.get(chunk as usize % LOCKS).map(Mutex::lock)
    }
}
