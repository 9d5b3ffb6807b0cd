// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Cutting a large file with holes into chunks.

use peerfs_format::CHUNK_AVERAGE;
use peerfs_store::sha256;

use crate::chunker::Chunker;
use crate::message::FileChunk;

/// The shortest run of zeros that becomes a hole, wherever it comes from: what is built must not
/// depend on how a file system stores holes.
const HOLE_MIN: u64 = CHUNK_AVERAGE as u64;
/// Holes begin and end at multiples of this many bytes.
const BLOCK_SIZE: usize = 4096;

static ZEROS: [u8; HOLE_MIN as usize] = [0; HOLE_MIN as usize];

/// Finds the holes of a file, which comes in pieces, and cuts what is between them into chunks. Each
/// run between two holes is a stream of its own for the chunker.
pub(crate) struct SparseChunker {
    chunker: Chunker,
    /// Where in the file the chunker's next chunk begins.
    chunk_offset: u64,
    /// Where in the file the next piece begins.
    offset: u64,
    /// Bytes before `offset` that are zero and that the chunker did not get yet.
    zeros: u64,
    chunks: Vec<FileChunk>,
}

impl SparseChunker {
    pub(crate) fn new() -> Self {
        SparseChunker {
            chunker: Chunker::new(),
            chunk_offset: 0,
            offset: 0,
            zeros: 0,
            chunks: Vec::new(),
        }
    }

    /// Appends zeros.
    pub(crate) fn push_hole(&mut self, length: u64) {
        self.zeros += length;
        self.offset += length;
    }

    /// Appends bytes, which may be zeros too.
    pub(crate) fn push(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            // Up to the first block of zeros, then up to the first block of anything else.
            let (run, rest) = self.split(data, false);
            self.push_run(run);
            let (zeros, rest) = self.split(rest, true);
            self.push_hole(zeros.len() as u64);
            data = rest;
        }
        self.take(false);
    }

    /// The chunks that are certain so far.
    pub(crate) fn chunks(&mut self) -> Vec<FileChunk> {
        std::mem::take(&mut self.chunks)
    }

    /// The last chunks.
    pub(crate) fn finish(mut self) -> Vec<FileChunk> {
        if self.zeros < HOLE_MIN {
            self.push_zeros();
        }
        self.take(true);
        self.chunks
    }

    /// Splits off the blocks at the beginning of `data` that are zero, or are not. Blocks begin at
    /// multiples of their size in the file, so the first one may be shorter.
    fn split<'a>(&self, data: &'a [u8], zero: bool) -> (&'a [u8], &'a [u8]) {
        let mut end = 0;
        while let Some(rest) = data.get(end..).filter(|rest| !rest.is_empty()) {
            let misaligned = (self.offset + end as u64) % BLOCK_SIZE as u64;
            let length = (BLOCK_SIZE - misaligned as usize).min(rest.len());
            if (rest.get(..length) == ZEROS.get(..length)) != zero {
                break;
            }
            end += length;
        }
        data.split_at(end)
    }

    fn push_run(&mut self, run: &[u8]) {
        if run.is_empty() {
            return;
        }
        if self.zeros >= HOLE_MIN {
            self.take(true);
            self.chunk_offset = self.offset;
            self.zeros = 0;
        }
        self.push_zeros();
        self.chunker.push(run);
        self.offset += run.len() as u64;
    }

    /// Gives the chunker the zeros, which are too few for a hole.
    fn push_zeros(&mut self) {
        self.chunker
            .push(ZEROS.get(..self.zeros as usize).unwrap_or_default());
        self.zeros = 0;
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
                digest: sha256(&content),
                content,
            });
            self.chunk_offset += length;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the chunks cover, and the content that they and the holes between them make.
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
            let mut chunker = SparseChunker::new();
            let mut chunks = Vec::new();
            for (number, bytes) in file.chunks(piece).enumerate() {
                if skip && number > 400_001 / piece {
                    chunker.push_hole(bytes.len() as u64);
                } else {
                    chunker.push(bytes);
                }
                chunks.extend(chunker.chunks());
            }
            chunks.extend(chunker.finish());
            let places: Vec<_> = chunks
                .iter()
                .map(|chunk| (chunk.file_offset, chunk.content.len()))
                .collect();
            (places, assemble(&chunks, file.len()))
        };
        let (places, (covered, content)) = by_piece(file.len(), false);
        assert_eq!(content, file);
        // Rounded to blocks: 8192 bytes at 0, and 299,008 to 401,408.
        assert_eq!(covered, 8192 + 401_408 - 299_008);
        assert_eq!(places.first().map(|place| place.0), Some(0));
        assert_eq!(places.get(1).map(|place| place.0), Some(299_008));
        for piece in [1000, 4096, 65_536, 262_144] {
            assert_eq!(by_piece(piece, false), by_piece(file.len(), false));
            assert_eq!(by_piece(piece, true), by_piece(file.len(), false));
        }
    }
}
