// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The last two stages: chunks are compressed, and written into packs with their indexes.

use std::io;
use std::thread;

use bytes::Bytes;
use flume::{bounded, Receiver};
use peerfs_format::{peerfs_capnp, ChunkRecord, Codec, PackRecord, Record};
use peerfs_store::{sha256, KnownChunks, MadeChunk, PackWriter, Store};
use zstd::bulk::Compressor;
use zstd::zstd_safe::{CParameter, ParamSwitch};

use crate::metadata::MetadataBlob;
use crate::pipeline::{join, spawn, CompressRequest, Stored, StoredChunk};
use crate::{Compression, Error, Options, PackBorders, Result};

/// Compresses chunks until there are no more.
pub(crate) fn compress_chunks(
    requests: &Receiver<CompressRequest>,
    known: &KnownChunks<'_>,
    options: &Options,
) -> Result<()> {
    let mut compressor = match options.compression {
        Compression::None => None,
        Compression::Zstd(level) => Some(compressor(level).map_err(Error::Compressor)?),
    };
    for request in requests {
        options.check_cancelled()?;
        if let Some(chunk) = known.find(&request.id, &request.content) {
            let chunk = StoredChunk {
                id: request.id,
                content_digest: *chunk.content_digest(),
                digest: chunk.record().digest,
                logical_length: chunk.record().logical_length,
                codec: chunk.record().codec,
                stored: Stored::Known(chunk),
            };
            let _ = request.stored.send(chunk);
            continue;
        }
        let compressed = compressor
            .as_mut()
            .and_then(|compressor| compress(compressor, &request.content));
        let (codec, stored) = match compressed {
            Some(compressed) => (Codec::Zstd, compressed),
            None => (Codec::Raw, request.content.clone()),
        };
        let chunk = StoredChunk {
            id: request.id,
            content_digest: sha256(&request.content),
            digest: sha256(&stored),
            // At most CHUNK_MAX.
            logical_length: request.content.len() as u32,
            codec: codec as u8,
            stored: Stored::New(stored),
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

impl Compression {
    /// What decides about the bytes that content is compressed to.
    pub(crate) fn identity(self) -> String {
        match self {
            Compression::None => "none".to_owned(),
            Compression::Zstd(level) => {
                let (version, fast) = (zstd::zstd_safe::version_number(), Self::FAST_LEVEL_MAX);
                format!("zstd {version} level {level}, raw literals up to {fast}, short matches {SHORT_MATCHES_LOG}")
            }
        }
    }
}

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

/// Writes the chunks into packs, in their order, and returns the packs.
///
/// # Errors
/// A full or failing disk, or that it was cancelled. The packs that were finished by then stay.
pub(crate) fn write_packs(
    chunks: Receiver<Receiver<StoredChunk>>,
    store: &Store,
    known: &KnownChunks<'_>,
    options: &Options,
) -> Result<Vec<PackRecord>> {
    thread::scope(|scope| {
        // Bringing a pack to the disk takes time in which the next one can be written.
        let (sender, finished) = bounded::<OpenPack>(1);
        let finisher = spawn(scope, move || {
            let finish = |pack: OpenPack| {
                options.check_cancelled()?;
                pack.finish(store)
            };
            finished.into_iter().map(finish).collect()
        })?;
        let written = write(chunks, store, known, options, |pack| {
            sender.send(pack).is_ok()
        });
        drop(sender);
        let packs = join(finisher);
        written.and(packs)
    })
}

fn write(
    chunks: Receiver<Receiver<StoredChunk>>,
    store: &Store,
    known: &KnownChunks<'_>,
    options: &Options,
    mut finish: impl FnMut(OpenPack) -> bool,
) -> Result<()> {
    let mut open: Option<OpenPack> = None;
    // Ends early if a compressor failed or the packs can't be finished: they tell the reason.
    for chunk in chunks.iter().map_while(|chunk| chunk.recv().ok()) {
        options.check_cancelled()?;
        if let Some(pack) = open.take_if(|pack| !pack.has_room(&chunk)) {
            if !finish(pack) {
                return Ok(());
            }
        }
        let mut pack = match open.take() {
            Some(pack) => pack,
            None => OpenPack::new(store, options),
        };
        if !pack.append(&chunk, known)? {
            open = Some(pack);
        } else if !finish(pack) {
            return Ok(());
        }
    }
    if let Some(pack) = open {
        finish(pack);
    }
    Ok(())
}

/// A pack being written.
struct OpenPack {
    writer: PackWriter,
    borders: PackBorders,
    /// The table of the index.
    chunks: Vec<u8>,
    /// The pack contents.
    content_digests: Vec<u8>,
}

impl OpenPack {
    fn new(store: &Store, options: &Options) -> Self {
        OpenPack {
            writer: store.pack_writer(options.whole),
            borders: PackBorders::new(options.layout.pack),
            chunks: Vec::new(),
            content_digests: Vec::new(),
        }
    }

    fn has_room(&self, chunk: &StoredChunk) -> bool {
        let stored_length = chunk.stored.len() as u32;
        self.borders.has_room(stored_length, chunk.logical_length)
    }

    /// Appends a chunk, and says whether the pack ends with it.
    fn append(&mut self, chunk: &StoredChunk, known: &KnownChunks<'_>) -> Result<bool> {
        let record = ChunkRecord {
            digest: chunk.digest,
            // The borders keep all below PACK_MAX.
            logical_offset: self.borders.logical() as u32,
            stored_offset: self.writer.length() as u32,
            logical_length: chunk.logical_length,
            stored_length: chunk.stored.len() as u32,
            codec: chunk.codec,
        };
        match &chunk.stored {
            Stored::New(stored) => {
                let made = MadeChunk {
                    stored,
                    digest: chunk.digest,
                    id: chunk.id,
                    content: chunk.content_digest,
                };
                self.writer.append(&made, known)?;
            }
            Stored::Known(chunk) => self.writer.append_known(chunk)?,
        }
        record.write_to(|bytes| self.chunks.extend_from_slice(bytes));
        self.content_digests
            .extend_from_slice(&chunk.content_digest.0);
        Ok(self.borders.add(
            &chunk.content_digest,
            record.stored_length,
            record.logical_length,
        ))
    }

    /// Finishes the pack and writes its index and contents.
    fn finish(self, store: &Store) -> Result<PackRecord> {
        let stored_length = self.writer.length();
        let mut index = MetadataBlob::new(self.chunks.len());
        let mut root = index.root::<peerfs_capnp::pack_index::Owned>();
        root.set_chunks(&self.chunks);
        let index = index.into_bytes();
        let index_length = index.len() as u32;
        let (digest, index_digest) = self.writer.finish(store, index)?;
        Ok(PackRecord {
            digest,
            index_digest,
            contents_digest: store.add_blob(&self.content_digests)?,
            stored_length,
            logical_length: self.borders.logical(),
            // The borders keep it within METADATA_MAX.
            index_length,
            chunk_count: self.borders.chunks(),
        })
    }
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
