// SPDX-License-Identifier: GPL-2.0

//! Acting with somebody's credentials.
//!
//! Locking: none; credentials are counted and never change, and a task overrides nobody's but its own.

use core::marker::PhantomData;

use kernel::cred::Credential;
use kernel::fs::File;
use kernel::sync::aref::ARef;
use kernel::types::NotThreadSafe;

use crate::rust::mm::NoFsScope;

use crate::rust::bindings;

/// The credentials of the current task.
pub(crate) fn current_credential() -> ARef<Credential> {
    // SAFETY: the call takes a reference, which the `ARef` then owns.
    unsafe {
        let credential = bindings::peerfs_get_current_cred();
        ARef::from_raw(core::ptr::NonNull::new_unchecked(
            credential.cast_mut().cast(),
        ))
    }
}

/// Runs `action` with other credentials than those of the current task.
pub(crate) fn override_credential<R>(credential: &Credential, action: impl FnOnce() -> R) -> R {
    // SAFETY: the credentials are valid during the call, and the old ones are put back below, in the
    // same task.
    let old = unsafe { bindings::peerfs_override_creds(credential.as_ptr()) };
    let result = action();
    // SAFETY: `old` is what was overridden above.
    unsafe { bindings::peerfs_revert_creds(old) };
    result
}

/// As long as this lives, the current task reads from a file for a filesystem: with the credentials with which
/// the file was opened, whoever it is that needs the bytes, and known to other filesystems as one that holds
/// locks (`peerfs_is_stacked_read`).
pub(crate) struct StackedRead<'a> {
    old: *const bindings::cred,
    _scope: NoFsScope,
    _file: PhantomData<&'a File>,
    _task: NotThreadSafe,
}

impl<'a> StackedRead<'a> {
    pub(crate) fn of(file: &'a File) -> Self {
        // SAFETY: the file is valid, and keeps its credentials for `'a`; the old ones are put back in `drop`,
        // in the same task.
        let old = unsafe { bindings::peerfs_override_creds((*file.as_ptr()).f_cred) };
        StackedRead {
            old,
            _scope: NoFsScope::new(),
            _file: PhantomData,
            _task: NotThreadSafe,
        }
    }
}

impl Drop for StackedRead<'_> {
    fn drop(&mut self) {
        // SAFETY: `old` is what was overridden in `of`.
        unsafe { bindings::peerfs_revert_creds(self.old) };
    }
}
