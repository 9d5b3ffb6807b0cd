// SPDX-License-Identifier: GPL-2.0

//! Decoding: the one place that knows which codecs there are.
#![forbid(unsafe_code)]

use kernel::prelude::*;
use peerfs_format::{ChunkRecord, Codec};

use crate::rust::mm::FolioBytes;
use crate::rust::zstd::ZstdDecoder;

/// Where the decoded bytes of a chunk go.
pub(super) trait Output {
    /// What it is then.
    type Filled;

    /// Takes a copy of the bytes.
    fn copy(self, bytes: &[u8]) -> Result<Self::Filled>;

    /// Takes what a frame decompresses to.
    fn decompress(self, frame: &[u8], decoder: &mut ZstdDecoder) -> Result<Self::Filled>;
}

/// New memory for so many bytes.
pub(super) struct NewBytes(pub(super) usize);

impl Output for NewBytes {
    type Filled = KVVec<u8>;

    fn copy(self, bytes: &[u8]) -> Result<KVVec<u8>> {
        let mut copy = KVVec::with_capacity(self.0, GFP_KERNEL)?;
        copy.extend_from_slice(bytes, GFP_KERNEL)?;
        Ok(copy)
    }

    fn decompress(self, frame: &[u8], decoder: &mut ZstdDecoder) -> Result<KVVec<u8>> {
        decoder.decompress_new(frame, self.0)
    }
}

impl Output for FolioBytes {
    type Filled = ();

    fn copy(self, bytes: &[u8]) -> Result {
        self.fill_with(bytes)
    }

    fn decompress(mut self, frame: &[u8], decoder: &mut ZstdDecoder) -> Result {
        decoder.decompress(frame, self.as_mut_slice())?;
        self.filled();
        Ok(())
    }
}

/// Decodes the stored bytes of a chunk, which are verified; EIO if they are not what its record says.
pub(super) fn decode<T: Output>(
    record: &ChunkRecord,
    stored: &[u8],
    decoder: &mut ZstdDecoder,
    output: T,
) -> Result<T::Filled> {
    match record.codec().ok_or(EIO)? {
        Codec::Raw => output.copy(stored),
        Codec::Zstd => output.decompress(stored, decoder),
    }
}
