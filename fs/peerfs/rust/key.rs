// SPDX-License-Identifier: GPL-2.0

//! Keys and keyrings of the kernel.
//!
//! Locking: the semaphores of keys are taken for a moment. Sleeps.

use core::ptr::NonNull;

use kernel::error::{from_err_ptr, to_result};
use kernel::prelude::*;

use crate::rust::bindings;
use crate::rust::crypto::Secret;

/// The logon key of the current task that is called so. ENOKEY if there is none; EKEYREJECTED if it has another length
/// than a secret.
pub(crate) fn logon_key(description: &CStr) -> Result<Secret> {
    let mut secret = Secret::new()?;
    let bytes = secret.bytes_mut();
    // SAFETY: the description ends with a NUL, and so many bytes are written at the most.
    to_result(unsafe {
        bindings::peerfs_copy_logon_key(description.as_char_ptr(), bytes.as_mut_ptr(), bytes.len())
    })?;
    Ok(secret)
}

/// A keyring of the kernel's own: what is in it is trusted, and root alone puts it there.
pub(crate) struct TrustedKeyring(NonNull<bindings::key>);

// SAFETY: a key is reference-counted, and its functions lock what they use.
unsafe impl Send for TrustedKeyring {}
// SAFETY: as above.
unsafe impl Sync for TrustedKeyring {}

impl TrustedKeyring {
    /// A new one without keys, which is called so.
    pub(crate) fn new(description: &CStr) -> Result<Self> {
        // SAFETY: the description ends with a NUL, and is copied.
        let key =
            from_err_ptr(unsafe { bindings::peerfs_keyring_alloc(description.as_char_ptr()) })?;
        Ok(TrustedKeyring(NonNull::new(key).ok_or(ENOMEM)?))
    }

    /// Fails unless this is a signature of the data (PKCS #7, DER, detached) by whom a key of the keyring stands for. ENOKEY if
    /// it is by somebody else, EKEYREJECTED if it is of other data, EBADMSG and others if it is none, EOPNOTSUPP if the kernel
    /// has nothing to verify signatures with.
    pub(crate) fn verify(&self, data: &[u8], signature: &[u8]) -> Result {
        // SAFETY: both have these lengths and are only read; the keyring is valid as long as this is there.
        to_result(unsafe {
            bindings::peerfs_verify_pkcs7_signature(
                data.as_ptr().cast(),
                data.len(),
                signature.as_ptr().cast(),
                signature.len(),
                self.0.as_ptr(),
            )
        })
    }
}

impl Drop for TrustedKeyring {
    fn drop(&mut self) {
        // SAFETY: the reference is ours.
        unsafe { bindings::key_put(self.0.as_ptr()) };
    }
}
