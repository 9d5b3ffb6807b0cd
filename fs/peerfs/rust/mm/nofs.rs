// SPDX-License-Identifier: GPL-2.0

//! A scope in which memory is not taken back from filesystems.
//!
//! Locking: none. Whoever holds locks of a filesystem, of folios for example, allocates in such a scope, so that
//! memory reclaim does not come back for them.

use kernel::ffi::c_uint;
use kernel::types::NotThreadSafe;

use crate::rust::bindings;

/// As long as this lives, the current task's allocations are as with `GFP_NOFS`.
pub(crate) struct NoFsScope {
    flags: c_uint,
    _task: NotThreadSafe,
}

impl NoFsScope {
    /// Begins the scope; scopes end in the reverse order.
    pub(crate) fn new() -> Self {
        NoFsScope {
            // SAFETY: may be called by any task.
            flags: unsafe { bindings::peerfs_memalloc_nofs_save() },
            _task: NotThreadSafe,
        }
    }

    /// Whether the current task is in such a scope, of whomever.
    pub(crate) fn is_open() -> bool {
        // SAFETY: may be asked at any time.
        unsafe { bindings::peerfs_is_in_nofs_scope() }
    }
}

impl Drop for NoFsScope {
    fn drop(&mut self) {
        // SAFETY: the flags are those of this scope, in the same task.
        unsafe { bindings::peerfs_memalloc_nofs_restore(self.flags) };
    }
}
