// SPDX-License-Identifier: GPL-2.0

//! The kernel's LZ4.
//!
//! Locking: none; it needs no workspace.

use core::ffi::c_int;

use kernel::prelude::*;

use crate::rust::bindings;

/// Decompresses exactly one block, of exactly `output`'s length; EIO if it is damaged or has another length.
pub(crate) fn decompress(block: &[u8], output: &mut [u8]) -> Result {
    // SAFETY: the output has this length and is initialised memory of the caller's.
    unsafe { decompress_raw(block, output.as_mut_ptr(), output.len()) }
}

/// As [`decompress`], into new memory of `length` bytes.
pub(crate) fn decompress_new(block: &[u8], length: usize) -> Result<KVVec<u8>> {
    let mut output = KVVec::with_capacity(length, GFP_KERNEL)?;
    // SAFETY: the new memory has room for `length` bytes.
    unsafe { decompress_raw(block, output.as_mut_ptr(), length) }?;
    // SAFETY: they have all been written.
    unsafe { output.inc_len(length) };
    Ok(output)
}

/// # Safety
///
/// `output` must be valid for writes of `length` bytes, and nobody else's. They have all been written when this
/// succeeds.
unsafe fn decompress_raw(block: &[u8], output: *mut u8, length: usize) -> Result {
    let stored = c_int::try_from(block.len()).map_err(|_| EIO)?;
    let wanted = c_int::try_from(length).map_err(|_| EIO)?;
    // SAFETY: the input has its length, and the output by the requirements. What the function reads of the output lies
    // before the place that it has come to, so that it has written it: a match that begins before the output's first
    // byte is refused, and one at distance 0 is taken for zeros, which are written first.
    let decoded = unsafe { bindings::LZ4_decompress_safe(block.as_ptr(), output, stored, wanted) };
    // The block ends where its input does; less than that, or more than there is room for, is an error's number.
    if decoded == wanted {
        Ok(())
    } else {
        Err(EIO)
    }
}
