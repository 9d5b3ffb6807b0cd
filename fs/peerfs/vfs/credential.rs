// SPDX-License-Identifier: GPL-2.0

//! Acting with somebody's credentials.
//!
//! Locking: none; credentials are counted and never change, and a task overrides nobody's but its own.

use kernel::cred::Credential;
use kernel::sync::aref::ARef;

use crate::bindings;

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
