// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The compressing stage.

use bytes::Bytes;
use flume::Receiver;
use peerfs_format::Codec;
use peerfs_store::sha256;
use zstd::bulk::Compressor;

use crate::message::{CompressRequest, StoredChunk};
use crate::{Compression, Result};

/// Compresses chunks until there are no more.
pub(crate) fn run(requests: &Receiver<CompressRequest>, compression: Compression) -> Result<()> {
    let mut compressor = match compression {
        Compression::None => None,
        Compression::Zstd(level) => Some(Compressor::new(level).map_err(crate::Error::Compressor)?),
    };
    for request in requests {
        let compressed = compressor
            .as_mut()
            .and_then(|compressor| compress(compressor, &request.content));
        let (codec, stored) = match compressed {
            Some(compressed) => (Codec::Zstd, compressed),
            None => (Codec::Raw, request.content.clone()),
        };
        let chunk = StoredChunk {
            content_digest: request.digest,
            digest: sha256(&stored),
            // At most CHUNK_MAX.
            logical_length: request.content.len() as u32,
            codec,
            stored,
        };
        // Nobody wants it if the packer failed, which the sequencer finds out.
        let _ = request.stored.send(chunk);
    }
    Ok(())
}

/// A frame that states its content size; None if it does not become smaller.
fn compress(compressor: &mut Compressor<'_>, content: &[u8]) -> Option<Bytes> {
    let mut compressed = Vec::with_capacity(content.len().checked_sub(1)?);
    // With less room than the content has it fails rather than become longer.
    compressor
        .compress_to_buffer(content, &mut compressed)
        .ok()?;
    compressed.shrink_to_fit();
    Some(compressed.into())
}
