// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Cutting a stream into content-defined chunks.

use bytes::{Bytes, BytesMut};
use fastcdc::v2020::{cut, select_masks, Normalization};
use peerfs_format::CHUNK_MAX;

use crate::ChunkSizes;

/// Bytes that are allocated at once.
const BUFFER_SIZE: usize = 4 * CHUNK_MAX as usize;

/// Cuts a stream that comes in pieces. Where it cuts depends on the stream alone.
pub(crate) struct Chunker {
    sizes: ChunkSizes,
    buffer: BytesMut,
    strict_mask: u64,
    relaxed_mask: u64,
}

impl Chunker {
    pub(crate) fn new(sizes: ChunkSizes) -> Self {
        let (strict_mask, relaxed_mask) =
            select_masks(sizes.average as usize, Normalization::Level1);
        Chunker {
            sizes,
            buffer: BytesMut::new(),
            strict_mask,
            relaxed_mask,
        }
    }

    /// Appends bytes to the stream.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.buffer.capacity() - self.buffer.len() < bytes.len() {
            self.buffer.reserve(BUFFER_SIZE.max(bytes.len()));
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next chunk, if where it ends does not depend on what is still to come.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        (self.buffer.len() >= self.sizes.max as usize).then(|| self.cut())
    }

    /// The next chunk of a stream that has ended; None after the last one, and the next stream can
    /// begin.
    pub(crate) fn next_at_end(&mut self) -> Option<Bytes> {
        (!self.buffer.is_empty()).then(|| self.cut())
    }

    fn cut(&mut self) -> Bytes {
        let (_, length) = cut(
            &self.buffer,
            self.sizes.min as usize,
            self.sizes.average as usize,
            self.sizes.max as usize,
            self.strict_mask,
            self.relaxed_mask,
            self.strict_mask << 1,
            self.relaxed_mask << 1,
        );
        self.buffer.split_to(length).freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Layout;

    #[test]
    fn chunks_do_not_depend_on_the_pieces() {
        let mut state = 1_u64;
        let stream: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(3_000_000)
        .collect();
        let chunks = |piece: usize| {
            let mut chunker = Chunker::new(Layout::default().chunks);
            let mut chunks = Vec::new();
            for bytes in stream.chunks(piece) {
                chunker.push(bytes);
                chunks.extend(std::iter::from_fn(|| chunker.next()));
            }
            chunks.extend(std::iter::from_fn(|| chunker.next_at_end()));
            chunks
        };
        let expected = chunks(stream.len());
        assert!(expected.len() > 10);
        assert_eq!(expected.concat(), stream);
        assert!(expected
            .iter()
            .all(|chunk| chunk.len() <= CHUNK_MAX as usize));
        assert_eq!(chunks(777), expected);
        assert_eq!(chunks(1_000_000), expected);
    }
}
