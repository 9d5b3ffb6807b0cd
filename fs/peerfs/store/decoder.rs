// SPDX-License-Identifier: GPL-2.0

//! Decompressors, kept for the next chunk.
#![forbid(unsafe_code)]

use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::Mutex;

use crate::vfs::ZstdDecoder;

/// Idle decompressors that are kept: about one a processor of a small machine.
const KEPT: usize = 8;

#[pin_data]
pub(super) struct Decoders {
    #[pin]
    idle: Mutex<KVec<ZstdDecoder>>,
}

impl Decoders {
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Decoders {
            idle <- new_mutex!(KVec::new(), "peerfs decoders"),
        })
    }

    /// Decompresses one frame of exactly `output`'s length; EIO for any other.
    pub(super) fn decompress(&self, frame: &[u8], output: &mut [u8]) -> Result {
        let idle = self.idle.lock().pop();
        let mut decoder = match idle {
            Some(decoder) => decoder,
            None => ZstdDecoder::new()?,
        };
        let length = decoder.decompress(frame, output);
        let mut idle = self.idle.lock();
        if idle.len() < KEPT {
            // Without memory to keep it, it is freed.
            let _ = idle.push(decoder, GFP_KERNEL);
        }
        drop(idle);
        if length? == output.len() {
            Ok(())
        } else {
            Err(EIO)
        }
    }
}
