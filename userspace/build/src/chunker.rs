// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Cutting streams, and files with holes, into content-defined chunks.

use bytes::{Bytes, BytesMut};
use fastcdc::v2020::{cut, select_masks, Normalization};
use peerfs_format::{Digest, CHUNK_MAX};
use peerfs_store::{ContentId, Sha256Writer};

use crate::pipeline::FileChunk;
use crate::ChunkSizes;

/// Bytes that are allocated at once.
const BUFFER_SIZE: usize = 4 * CHUNK_MAX as usize;

/// The shortest run of zeros that becomes a hole, wherever it comes from: what is built must not
/// depend on how a file system stores holes.
const HOLE_MIN: u64 = 64 * 1024;
/// Holes begin and end at multiples of this many bytes, or with the file.
pub(crate) const BLOCK_SIZE: usize = 4096;

static ZEROS: [u8; HOLE_MIN as usize] = [0; HOLE_MIN as usize];

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

/// Finds the holes of a file, which comes in pieces, and cuts what is between them into chunks. Each
/// run between two holes is a stream of its own for the chunker.
///
/// The content digest of a file without holes is the SHA-256 of its bytes. Of a file with holes it is
/// that of, for each run between them, its bytes, its offset and its length, and at the end the
/// file's size (integers of 64 bits, little-endian): a hole of terabytes costs nothing.
pub(crate) struct SparseChunker {
    chunker: Chunker,
    digest: Sha256Writer,
    /// The offset in the file at which the current run begins.
    run_offset: u64,
    /// Bytes of the current run so far.
    run_length: u64,
    has_holes: bool,
    /// The offset in the file at which the chunker's next chunk begins.
    chunk_offset: u64,
    /// The offset in the file at which the next piece begins.
    offset: u64,
    /// Bytes before `offset` that are zero and that the chunker did not get yet.
    zeros: u64,
    chunks: Vec<FileChunk>,
}

impl SparseChunker {
    pub(crate) fn new(sizes: ChunkSizes) -> Self {
        SparseChunker {
            chunker: Chunker::new(sizes),
            digest: Sha256Writer::default(),
            run_offset: 0,
            run_length: 0,
            has_holes: false,
            chunk_offset: 0,
            offset: 0,
            zeros: 0,
            chunks: Vec::new(),
        }
    }

    /// Appends zeros: whole blocks, but at the end of the file.
    pub(crate) fn push_hole(&mut self, length: u64) {
        self.zeros += length;
        self.offset += length;
    }

    /// Appends bytes, which may be zeros too: whole blocks, but at the end of the file.
    pub(crate) fn push(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            // Up to the first block of zeros, then up to the first block of anything else.
            let (run, rest) = split(data, false);
            self.push_run(run);
            let (zeros, rest) = split(rest, true);
            self.push_hole(zeros.len() as u64);
            data = rest;
        }
        self.take(false);
    }

    /// The chunks that are certain so far.
    pub(crate) fn chunks(&mut self) -> Vec<FileChunk> {
        std::mem::take(&mut self.chunks)
    }

    /// The last chunks, and the digest of the content.
    pub(crate) fn finish(mut self) -> (Vec<FileChunk>, Digest) {
        if self.zeros < HOLE_MIN {
            self.push_zeros();
        } else {
            self.has_holes = true;
        }
        self.take(true);
        if self.has_holes {
            self.end_run();
            self.digest.update(&self.offset.to_le_bytes());
        }
        (self.chunks, self.digest.finish())
    }

    fn push_run(&mut self, run: &[u8]) {
        if run.is_empty() {
            return;
        }
        if self.zeros >= HOLE_MIN {
            self.take(true);
            self.end_run();
            self.has_holes = true;
            self.run_offset = self.offset;
            self.chunk_offset = self.offset;
            self.zeros = 0;
        }
        self.push_zeros();
        self.push_bytes(run);
        self.offset += run.len() as u64;
    }

    fn push_bytes(&mut self, bytes: &[u8]) {
        self.chunker.push(bytes);
        self.digest.update(bytes);
        self.run_length += bytes.len() as u64;
    }

    /// Closes the current run, if there is one, for the digest.
    fn end_run(&mut self) {
        if self.run_length > 0 {
            self.digest.update(&self.run_offset.to_le_bytes());
            self.digest.update(&self.run_length.to_le_bytes());
            self.run_length = 0;
        }
    }

    /// Gives the chunker the zeros, which are too few for a hole.
    fn push_zeros(&mut self) {
        let zeros = std::mem::take(&mut self.zeros) as usize;
        self.push_bytes(ZEROS.get(..zeros).unwrap_or_default());
    }

    fn take(&mut self, at_end: bool) {
        loop {
            let content = if at_end {
                self.chunker.next_at_end()
            } else {
                self.chunker.next()
            };
            let Some(content) = content else { return };
            let length = content.len() as u64;
            self.chunks.push(FileChunk {
                file_offset: self.chunk_offset,
                id: ContentId::of(&content),
                content,
            });
            self.chunk_offset += length;
        }
    }
}

/// Splits off the blocks at the beginning of `data` that are zero, or are not.
fn split(data: &[u8], zero: bool) -> (&[u8], &[u8]) {
    let blocks = data.chunks(BLOCK_SIZE);
    let count = blocks
        .take_while(|block| (Some(*block) == ZEROS.get(..block.len())) == zero)
        .count();
    data.split_at((count * BLOCK_SIZE).min(data.len()))
}

#[cfg(test)]
mod tests {
    use peerfs_store::sha256;

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

    /// The bytes that the chunks cover, and the content that they and the holes between them make.
    fn assemble(chunks: &[FileChunk], size: usize) -> (u64, Vec<u8>) {
        let mut content = vec![0; size];
        let mut covered = 0;
        for chunk in chunks {
            let start = chunk.file_offset as usize;
            content[start..start + chunk.content.len()].copy_from_slice(&chunk.content);
            covered += chunk.content.len() as u64;
        }
        (covered, content)
    }

    #[test]
    fn holes_are_found_whether_they_are_read_or_skipped() {
        let mut file = vec![0; 1_000_000];
        file[..5000].fill(1);
        file[6000] = 2; // zeros too few for a hole
        file[300_000..400_001].fill(3);
        let by_piece = |piece: usize, skip: bool| {
            let mut chunker = SparseChunker::new(Layout::default().chunks);
            let mut chunks = Vec::new();
            for (number, bytes) in file.chunks(piece).enumerate() {
                if skip && number > 400_001 / piece {
                    chunker.push_hole(bytes.len() as u64);
                } else {
                    chunker.push(bytes);
                }
                chunks.extend(chunker.chunks());
            }
            let (last, digest) = chunker.finish();
            chunks.extend(last);
            let places: Vec<_> = chunks
                .iter()
                .map(|chunk| (chunk.file_offset, chunk.content.len()))
                .collect();
            (places, digest, assemble(&chunks, file.len()))
        };
        let (places, digest, (covered, content)) = by_piece(file.len(), false);
        assert!(content == file);
        // Rounded to blocks: 8192 bytes at 0, and 299,008 to 401,408.
        assert_eq!(covered, 8192 + 401_408 - 299_008);
        assert_eq!(places.first().map(|place| place.0), Some(0));
        assert_eq!(places.get(1).map(|place| place.0), Some(299_008));
        let mut runs = file[..8192].to_vec();
        for number in [0, 8192_u64] {
            runs.extend(number.to_le_bytes());
        }
        runs.extend(&file[299_008..401_408]);
        for number in [299_008, 401_408 - 299_008, 1_000_000_u64] {
            runs.extend(number.to_le_bytes());
        }
        assert_eq!(digest, sha256(&runs));
        for piece in [4096, 65_536, 262_144] {
            assert!(by_piece(piece, false) == by_piece(file.len(), false));
            assert!(by_piece(piece, true) == by_piece(file.len(), false));
        }
    }
}
