// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The sequencing stage: gives every different chunk a place, in an order that depends on the tree
//! alone.

use std::collections::HashMap;

use bytes::Bytes;
use flume::{bounded, Receiver, Sender};
use peerfs_store::ContentId;

use crate::base::BaseChunks;
use crate::chunker::Chunker;
use crate::content::Contents;
use crate::pipeline::{CompressRequest, ReadPiece, ReadPieces, SmallFile, StoredChunk};
use crate::table::Scratch;
use crate::{Error, Layout, Result};

/// The queues that chunks go to: the compressors', and in the same order the packer's.
pub(crate) struct ChunkQueue {
    pub(crate) requests: Sender<CompressRequest>,
    pub(crate) results: Sender<Receiver<StoredChunk>>,
}

/// Sequences what was read; the chunks of `base` are there already. Returns also how many of them could not be used.
///
/// What is found of the files is kept in `scratch`.
///
/// # Errors
/// The first error of a reader; [`Error::Cancelled`] if the packer stopped listening because it failed.
pub(crate) fn run(
    files: &Receiver<ReadPieces>,
    queue: ChunkQueue,
    base: BaseChunks,
    layout: &Layout,
    scratch: &Scratch,
) -> Result<(Contents, u64)> {
    let mut sequencer = Sequencer {
        contents: Contents::new(scratch),
        next_place: base.end(),
        base,
        places: HashMap::new(),
        small_chunker: Chunker::new(layout.chunks),
        small_cut: 0,
        small_offset: 0,
        queue,
    };
    for pieces in files {
        let first = sequencer.contents.run_count();
        for piece in pieces {
            match piece? {
                ReadPiece::Small { files, content } => sequencer.add_small(files, &content)?,
                ReadPiece::Chunks(chunks) => {
                    for chunk in chunks {
                        let length = chunk.content.len() as u64;
                        let place = sequencer.place(chunk.id, chunk.content)?;
                        let contents = &mut sequencer.contents;
                        contents.add_run(first, chunk.file_offset, place, length);
                    }
                }
                ReadPiece::End(whole) => sequencer.contents.add_large(whole, first),
                ReadPiece::Known(files) => files
                    .into_iter()
                    .for_each(|file| sequencer.contents.add_known(file)),
            }
        }
    }
    sequencer.finish()
}

struct Sequencer {
    contents: Contents,
    base: BaseChunks,
    /// The places of chunks so far, by their content.
    places: HashMap<ContentId, u64>,
    next_place: u64,
    /// The small files, one after another.
    small_chunker: Chunker,
    /// The offset in their stream at which the next chunk begins.
    small_cut: u64,
    /// The offset in their stream at which the next file begins.
    small_offset: u64,
    queue: ChunkQueue,
}

impl Sequencer {
    fn add_small(&mut self, files: Vec<SmallFile>, content: &[u8]) -> Result<()> {
        let mut rest = content;
        for file in files {
            let (bytes, others) = rest.split_at(file.length.min(rest.len()));
            rest = others;
            let length = bytes.len() as u64;
            if self
                .contents
                .add_small(file.whole, self.small_offset, length)
            {
                self.small_chunker.push(bytes);
                self.small_offset += length;
            }
        }
        while let Some(chunk) = self.small_chunker.next() {
            self.add_small_chunk(chunk)?;
        }
        Ok(())
    }

    fn add_small_chunk(&mut self, content: Bytes) -> Result<()> {
        let length = content.len() as u64;
        let place = self.place(ContentId::of(&content), content)?;
        self.contents.add_small_run(self.small_cut, place, length);
        self.small_cut += length;
        Ok(())
    }

    /// The place of a chunk; a new one is compressed and packed.
    fn place(&mut self, id: ContentId, content: Bytes) -> Result<u64> {
        if let Some(place) = self.places.get(&id) {
            return Ok(*place);
        }
        if let Some(place) = self.base.find(&content) {
            self.places.insert(id, place);
            return Ok(place);
        }
        let place = self.next_place;
        self.next_place += content.len() as u64;
        self.places.insert(id, place);
        let (sender, receiver) = bounded(1);
        let request = CompressRequest {
            id,
            content,
            stored: sender,
        };
        let ChunkQueue { requests, results } = &self.queue;
        results.send(receiver).map_err(|_| Error::Cancelled)?;
        requests.send(request).map_err(|_| Error::Cancelled)?;
        Ok(place)
    }

    fn finish(mut self) -> Result<(Contents, u64)> {
        while let Some(chunk) = self.small_chunker.next_at_end() {
            self.add_small_chunk(chunk)?;
        }
        Ok((self.contents, self.base.unusable()))
    }
}
