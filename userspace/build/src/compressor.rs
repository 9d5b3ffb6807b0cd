// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Compressing chunks: the one place that knows what compresses.

use std::io;

use bytes::Bytes;
use lz4::block::{compress_bound, compress_to_buffer, CompressionMode};
use zstd::bulk;
use zstd::zstd_safe::{CParameter, ParamSwitch};

use crate::Compression;

/// The size of the table in which zstd's default level looks for short matches, as a power of two. Zstd's
/// own choice, 2^16, finds all that a chunk has, and those of 5 to 7 bytes take longer to decode than they
/// save (Documentation/format-choices.md).
const SHORT_MATCHES_LOG: u32 = 12;

/// The first level of LZ4 that is made by its slower search.
const LZ4_HC_LEVEL: i32 = 3;

impl Compression {
    /// What decides about the bytes that content is compressed to.
    pub(crate) fn identity(self) -> String {
        match self {
            Compression::None => "none".to_owned(),
            Compression::Zstd(level) => {
                let (version, fast) = (zstd::zstd_safe::version_number(), Self::FAST_LEVEL_MAX);
                format!("zstd {version} level {level}, raw literals up to {fast}, short matches {SHORT_MATCHES_LOG}")
            }
            Compression::Lz4(level) => format!("lz4 {} level {level}", lz4::version()),
        }
    }
}

/// What compresses the chunks of a thread.
pub(crate) enum Compressor {
    /// Nothing.
    None,
    /// zstd.
    Zstd(bulk::Compressor<'static>),
    /// LZ4 in this way.
    Lz4(CompressionMode),
}

impl Compressor {
    /// The one for a compression.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub(crate) fn new(compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Compressor::None,
            Compression::Zstd(level) => Compressor::Zstd(zstd_compressor(level)?),
            Compression::Lz4(level) if level < LZ4_HC_LEVEL => {
                // An acceleration of 1 is the best match search that this mode has.
                Compressor::Lz4(CompressionMode::FAST(LZ4_HC_LEVEL - level))
            }
            Compression::Lz4(level) => Compressor::Lz4(CompressionMode::HIGHCOMPRESSION(level)),
        })
    }

    /// The content in the codec of the compression: with zstd a frame that states its content size, with LZ4 a block. None
    /// if it does not become smaller.
    pub(crate) fn compress(&mut self, content: &[u8]) -> Option<Bytes> {
        let compressed = match self {
            Compressor::None => return None,
            Compressor::Zstd(compressor) => {
                // With less room than the content has it fails rather than become longer.
                let mut compressed = Vec::with_capacity(content.len().checked_sub(1)?);
                compressor
                    .compress_to_buffer(content, &mut compressed)
                    .ok()?;
                compressed
            }
            Compressor::Lz4(mode) => {
                // With less room than the worst case takes, what it makes depends on the room.
                let mut compressed = vec![0; compress_bound(content.len()).ok()?];
                let length =
                    compress_to_buffer(content, Some(*mode), false, &mut compressed).ok()?;
                compressed.truncate(length);
                compressed
            }
        };
        (compressed.len() < content.len()).then(|| compressed.into_boxed_slice().into())
    }
}

fn zstd_compressor(level: i32) -> io::Result<bulk::Compressor<'static>> {
    let mut compressor = bulk::Compressor::new(level)?;
    if level <= Compression::FAST_LEVEL_MAX {
        compressor.set_parameter(CParameter::LiteralCompressionMode(ParamSwitch::Disable))?;
    }
    if level == Compression::DEFAULT_LEVEL {
        compressor.set_parameter(CParameter::ChainLog(SHORT_MATCHES_LOG))?;
    }
    Ok(compressor)
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

    fn size(compression: Compression, content: &[u8]) -> usize {
        let mut compressor = Compressor::new(compression).unwrap();
        compressor
            .compress(content)
            .map_or(content.len(), |compressed| compressed.len())
    }

    #[test]
    fn only_high_levels_code_literals() {
        let size = |level| size(Compression::Zstd(level), &literals());
        let fast = size(Compression::FAST_LEVEL_MAX);
        let small = size(Compression::FAST_LEVEL_MAX + 1);
        assert!(fast > 60 * 1024, "{fast}");
        assert!(small < 50 * 1024, "{small}");
    }

    #[test]
    fn higher_levels_of_lz4_find_more() {
        // Words in no order.
        let text: Vec<u8> = literals()
            .iter()
            .flat_map(|symbol| format!("{:x} ", u32::from(*symbol) * 7919).into_bytes())
            .collect();
        let [fastest, fast, high] = [1, 2, 9].map(|level| size(Compression::Lz4(level), &text));
        assert!(
            fastest >= fast && fast > high && high > 0,
            "{fastest} {fast} {high}"
        );
        assert_eq!(size(Compression::Lz4(9), &literals()), 64 * 1024);
    }
}
