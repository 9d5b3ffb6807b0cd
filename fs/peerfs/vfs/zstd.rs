// SPDX-License-Identifier: GPL-2.0

//! The kernel's zstd.

use kernel::prelude::*;

use crate::bindings;

/// A decompressor with its workspace (some 160 KiB).
pub(crate) struct ZstdDecoder {
    /// Words, for the alignment that zstd wants.
    workspace: KVVec<u64>,
}

impl ZstdDecoder {
    /// Allocates a decompressor.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: may be called at any time.
        let size = unsafe { bindings::zstd_dctx_workspace_bound() };
        let workspace = KVVec::from_elem(0, size.div_ceil(8), GFP_KERNEL)?;
        Ok(ZstdDecoder { workspace })
    }

    /// Decompresses one frame into `output` and says how many bytes it was; EIO if the frame is
    /// damaged or longer than `output`.
    pub(crate) fn decompress(&mut self, frame: &[u8], output: &mut [u8]) -> Result<usize> {
        let size = core::mem::size_of_val(self.workspace.as_slice());
        // SAFETY: the workspace has this size and is exclusively ours; the context lies inside it and
        // is not used after this call. Input and output have their lengths.
        let result = unsafe {
            let context = bindings::zstd_init_dctx(self.workspace.as_mut_ptr().cast(), size);
            if context.is_null() {
                return Err(ENOMEM);
            }
            bindings::zstd_decompress_dctx(
                context,
                output.as_mut_ptr().cast(),
                output.len(),
                frame.as_ptr().cast(),
                frame.len(),
            )
        };
        // SAFETY: only looks at the number.
        if unsafe { bindings::zstd_is_error(result) } != 0 {
            return Err(EIO);
        }
        Ok(result)
    }
}
