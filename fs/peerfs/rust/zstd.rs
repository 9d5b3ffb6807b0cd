// SPDX-License-Identifier: GPL-2.0

//! The kernel's zstd.
//!
//! Locking: none; a decompressor is its user's alone. Making one may sleep.

use kernel::prelude::*;

use crate::rust::bindings;

/// A decompressor with its workspace (some 160 KiB).
pub(crate) struct ZstdDecoder {
    /// Memory of words, for the alignment that zstd wants. Its length stays 0: zstd writes first what it
    /// reads.
    workspace: KVVec<u64>,
}

impl ZstdDecoder {
    /// Allocates a decompressor.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: may be called at any time.
        let size = unsafe { bindings::zstd_dctx_workspace_bound() };
        let workspace = KVVec::with_capacity(size.div_ceil(8), GFP_KERNEL)?;
        Ok(ZstdDecoder { workspace })
    }

    /// Decompresses exactly one frame, of exactly `output`'s length; EIO if it is damaged, has another length,
    /// or there is more than it.
    pub(crate) fn decompress(&mut self, frame: &[u8], output: &mut [u8]) -> Result {
        // SAFETY: the output has this length and is initialised memory of the caller's.
        unsafe { self.decompress_raw(frame, output.as_mut_ptr(), output.len()) }
    }

    /// As [`ZstdDecoder::decompress`], into new memory of `length` bytes.
    pub(crate) fn decompress_new(&mut self, frame: &[u8], length: usize) -> Result<KVVec<u8>> {
        let mut output = KVVec::with_capacity(length, GFP_KERNEL)?;
        // SAFETY: the new memory has room for `length` bytes.
        unsafe { self.decompress_raw(frame, output.as_mut_ptr(), length) }?;
        // SAFETY: they have all been written.
        unsafe { output.inc_len(length) };
        Ok(output)
    }

    /// # Safety
    ///
    /// `output` must be valid for writes of `length` bytes, and nobody else's. They have all been
    /// written when this succeeds.
    unsafe fn decompress_raw(&mut self, frame: &[u8], output: *mut u8, length: usize) -> Result {
        // The decoder would skip frames that have no content, and decode one behind the other.
        // SAFETY: the input has its length. An error is a number that no input is long enough for.
        let size = unsafe {
            bindings::zstd_find_frame_compressed_size(frame.as_ptr().cast(), frame.len())
        };
        if !frame.starts_with(&bindings::ZSTD_MAGICNUMBER.to_le_bytes()) || size != frame.len() {
            return Err(EIO);
        }
        let size = self.workspace.capacity() * core::mem::size_of::<u64>();
        // SAFETY: the workspace has this size and is exclusively ours; the context lies inside it and
        // is not used after this call. The input has its length, and the output by the requirements.
        let result = unsafe {
            let context = bindings::zstd_init_dctx(self.workspace.as_mut_ptr().cast(), size);
            if context.is_null() {
                return Err(ENOMEM);
            }
            bindings::zstd_decompress_dctx(
                context,
                output.cast(),
                length,
                frame.as_ptr().cast(),
                frame.len(),
            )
        };
        // SAFETY: only looks at the number.
        if unsafe { bindings::zstd_is_error(result) } != 0 {
            return Err(EIO);
        }
        if result == length {
            Ok(())
        } else {
            Err(EIO)
        }
    }
}
