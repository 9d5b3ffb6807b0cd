// SPDX-License-Identifier: GPL-2.0

//! The kernel's SHA-256.
//!
//! Locking: none; it only computes, and sleeps nowhere.

use crate::rust::bindings;

/// The digest of `data`.
pub(crate) fn sha256(data: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    // SAFETY: the data has this length, and a digest has 32 bytes.
    unsafe { bindings::sha256(data.as_ptr(), data.len(), digest.as_mut_ptr()) };
    digest
}
