// SPDX-License-Identifier: GPL-2.0

//! A workqueue of the module's own: when it is gone, so is everything that was queued, and no code of
//! the module runs in a worker any more.
//!
//! Locking: none; the kernel's queue has its own.

use core::ptr::NonNull;

use kernel::prelude::*;
use kernel::str::CStr;
use kernel::workqueue::Queue;

use crate::rust::bindings;

/// A queue whose work runs on whichever processors are free.
///
/// # Invariants
///
/// `queue` is valid until it is destroyed in `drop`.
pub(crate) struct Workqueue {
    queue: NonNull<bindings::workqueue_struct>,
}

// SAFETY: a workqueue may be used, and destroyed, by any task.
unsafe impl Send for Workqueue {}
// SAFETY: as above.
unsafe impl Sync for Workqueue {}

impl Workqueue {
    /// Allocates a queue of this name.
    pub(crate) fn new(name: &CStr) -> Result<Self> {
        // SAFETY: the name is copied.
        let queue = unsafe {
            bindings::peerfs_alloc_unbound_workqueue(kernel::str::CStrExt::as_char_ptr(name))
        };
        // INVARIANT: it was just allocated.
        NonNull::new(queue)
            .map(|queue| Workqueue { queue })
            .ok_or(ENOMEM)
    }

    /// Runs `work` some time. Without memory it is dropped instead.
    pub(crate) fn spawn(&self, work: impl FnOnce() + Send + 'static) -> Result {
        // SAFETY: by the invariant; the type is only another name of the same structure.
        let queue = unsafe { Queue::from_raw(self.queue.as_ptr()) };
        Ok(queue.try_spawn(GFP_KERNEL, work)?)
    }
}

impl Drop for Workqueue {
    fn drop(&mut self) {
        // SAFETY: by the invariant; this waits for the work.
        unsafe { bindings::destroy_workqueue(self.queue.as_ptr()) };
    }
}
