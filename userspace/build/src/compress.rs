// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The compressing stage.

use std::io;

use bytes::Bytes;
use flume::Receiver;
use peerfs_format::Codec;
use peerfs_store::sha256;
use zstd::bulk::Compressor;
use zstd::zstd_safe::{CParameter, ParamSwitch};

use crate::message::{CompressRequest, StoredChunk};
use crate::{Compression, Options, Result};

/// Compresses chunks until there are no more.
pub(crate) fn run(requests: &Receiver<CompressRequest>, options: &Options) -> Result<()> {
    let mut compressor = match options.compression {
        Compression::None => None,
        Compression::Zstd(level) => Some(compressor(level).map_err(crate::Error::Compressor)?),
    };
    for request in requests {
        options.check_cancelled()?;
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

/// The size of the table in which the default level looks for short matches, as a power of two. Zstd's
/// own choice, 2^16, finds all that a chunk has, and those of 5 to 7 bytes take longer to decode than they
/// save (Documentation/format-choices.md).
const SHORT_MATCHES_LOG: u32 = 12;

fn compressor(level: i32) -> io::Result<Compressor<'static>> {
    let mut compressor = Compressor::new(level)?;
    if level <= Compression::FAST_LEVEL_MAX {
        compressor.set_parameter(CParameter::LiteralCompressionMode(ParamSwitch::Disable))?;
    }
    if level == Compression::DEFAULT_LEVEL {
        compressor.set_parameter(CParameter::ChainLog(SHORT_MATCHES_LOG))?;
    }
    Ok(compressor)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// 64 symbols in an order that has hardly a match: all that could save is coding.
    fn literals() -> Vec<u8> {
        let mut state = 1_u32;
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            b' ' + (state >> 26) as u8
        })
        .take(64 * 1024)
        .collect()
    }

    #[test]
    fn only_high_levels_code_literals() {
        let size = |level| {
            let mut compressor = compressor(level).unwrap();
            compress(&mut compressor, &literals()).map_or(64 * 1024, |frame| frame.len())
        };
        let fast = size(Compression::FAST_LEVEL_MAX);
        let small = size(Compression::FAST_LEVEL_MAX + 1);
        assert!(fast > 60 * 1024, "{fast}");
        assert!(small < 50 * 1024, "{small}");
    }
}
