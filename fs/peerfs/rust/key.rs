// SPDX-License-Identifier: GPL-2.0

//! Keys of the kernel's keyrings.
//!
//! Locking: the key's semaphore is taken for a moment. Sleeps.

use kernel::error::to_result;
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
