// SPDX-License-Identifier: GPL-2.0

//! Decoding: the one place that knows which codecs there are.
#![forbid(unsafe_code)]

use kernel::prelude::*;
use peerfs_format::{ChunkRecord, Cipher, Codec, Iv};

use super::realm::Realm;
use crate::rust::lz4;
use crate::rust::mm::FolioBytes;
use crate::rust::zstd::ZstdDecoder;

/// What chunks are decoded with: its user's alone.
pub(super) struct Decoder {
    zstd: ZstdDecoder,
    /// What was decrypted last, which goes on to be decompressed.
    decrypted: KVVec<u8>,
}

impl Decoder {
    /// Allocates one.
    pub(super) fn new() -> Result<Self> {
        Ok(Decoder {
            zstd: ZstdDecoder::new()?,
            decrypted: KVVec::new(),
        })
    }
}

/// Where the decoded bytes of a chunk go.
pub(super) trait Output {
    /// What it is then.
    type Filled;

    /// Takes a copy of the bytes.
    fn copy(self, bytes: &[u8]) -> Result<Self::Filled>;

    /// Takes what they decompress to.
    fn decompress(self, compressed: Compressed<'_>) -> Result<Self::Filled>;
}

/// Compressed bytes, and what decompresses them.
pub(super) enum Compressed<'a> {
    /// One zstd frame.
    Zstd(&'a [u8], &'a mut ZstdDecoder),
    /// One LZ4 block.
    Lz4(&'a [u8]),
}

impl Compressed<'_> {
    /// Fills the output, which must be as long as the content.
    fn decompress(self, output: &mut [u8]) -> Result {
        match self {
            Compressed::Zstd(frame, decoder) => decoder.decompress(frame, output),
            Compressed::Lz4(block) => lz4::decompress(block, output),
        }
    }

    /// The content, which must have `length` bytes.
    fn decompress_new(self, length: usize) -> Result<KVVec<u8>> {
        match self {
            Compressed::Zstd(frame, decoder) => decoder.decompress_new(frame, length),
            Compressed::Lz4(block) => lz4::decompress_new(block, length),
        }
    }
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

    fn decompress(self, compressed: Compressed<'_>) -> Result<KVVec<u8>> {
        compressed.decompress_new(self.0)
    }
}

impl Output for FolioBytes {
    type Filled = ();

    fn copy(self, bytes: &[u8]) -> Result {
        self.fill_with(bytes)
    }

    fn decompress(mut self, compressed: Compressed<'_>) -> Result {
        compressed.decompress(self.as_mut_slice())?;
        self.filled();
        Ok(())
    }
}

/// Decodes the stored bytes of a chunk, which are verified; EIO if they are not what its record says. What is encrypted
/// has its realm and initialization vector.
pub(super) fn decode<T: Output>(
    record: &ChunkRecord,
    encryption: Option<(&Realm, Iv)>,
    stored: &[u8],
    decoder: &mut Decoder,
    output: T,
) -> Result<T::Filled> {
    if record.is_encrypted() != encryption.is_some() {
        return Err(EIO);
    }
    let Decoder { zstd, decrypted } = decoder;
    let plain = match encryption {
        // What is stored is shared, and verified again by others.
        Some((realm, iv)) => {
            decrypted.clear();
            decrypted.extend_from_slice(stored, GFP_KERNEL)?;
            realm.apply(&iv, decrypted);
            decrypted.as_slice()
        }
        None => stored,
    };
    match record.codec().ok_or(EIO)? {
        Codec::Raw => output.copy(plain),
        Codec::Zstd => output.decompress(Compressed::Zstd(plain, zstd)),
        Codec::Lz4 => output.decompress(Compressed::Lz4(plain)),
    }
}
