// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The last two stages: chunks are compressed, and written into packs with their indexes.

use std::thread;

use bytes::Bytes;
use flume::{bounded, Receiver};
use peerfs_format::encryption::{Kind, ENCRYPTED};
use peerfs_format::{peerfs_capnp, ChunkRecord, Cipher, Codec, Iv, PackRecord, Record};
use peerfs_realm::RealmKey;
use peerfs_store::{sha256, KnownChunk, KnownChunks, MadeChunk, PackWriter, Store};

use crate::compressor::Compressor;
use crate::metadata::MetadataBlob;
use crate::options::content_digest;
use crate::pipeline::{join, spawn, CompressRequest, Stored, StoredChunk};
use crate::{Error, Options, PackBorders, Result};

/// Compresses chunks until there are no more.
pub(crate) fn compress_chunks(
    requests: &Receiver<CompressRequest>,
    known: &KnownChunks<'_>,
    options: &Options,
) -> Result<()> {
    let mut compressor = Compressor::new(options.compression).map_err(Error::Compressor)?;
    let codec = options.compression.codec();
    for request in requests {
        options.check_cancelled()?;
        // The catalogue may be somebody else's, and the image says what codecs its readers need.
        let is_ours = |chunk: &KnownChunk| {
            let known = chunk.record().codec();
            known == Some(codec) || known == Some(Codec::Raw)
        };
        let found = known.find(&request.id, &request.content);
        if let Some(chunk) = found.filter(is_ours) {
            let chunk = StoredChunk {
                id: request.id,
                content_digest: *chunk.content_digest(),
                digest: chunk.record().digest,
                logical_length: chunk.record().logical_length,
                codec: chunk.record().codec,
                iv: chunk.iv(),
                stored: Stored::Known(chunk),
            };
            let _ = request.stored.send(chunk);
            continue;
        }
        let content_digest = content_digest(options.realm.as_ref(), &request.content);
        let (codec, stored) = match compressor.compress(&request.content) {
            Some(compressed) => (codec, compressed),
            None => (Codec::Raw, request.content.clone()),
        };
        let is_content = codec == Codec::Raw && options.realm.is_none();
        let (codec, iv, stored) = match &options.realm {
            Some(realm) => encrypt(realm, codec as u8, stored),
            None => (codec as u8, None, stored),
        };
        let chunk = StoredChunk {
            id: request.id,
            content_digest,
            digest: match is_content {
                true => content_digest,
                false => sha256(&stored),
            },
            // At most CHUNK_MAX.
            logical_length: request.content.len() as u32,
            codec,
            iv,
            stored: Stored::New(stored),
        };
        // Nobody wants it if the packer failed, which the sequencer finds out.
        let _ = request.stored.send(chunk);
    }
    Ok(())
}

/// A chunk's codec, initialization vector and stored bytes, encrypted.
fn encrypt(realm: &RealmKey, codec: u8, stored: Bytes) -> (u8, Option<Iv>, Bytes) {
    let iv = realm.iv(Kind::Chunk, codec, &stored);
    let mut encrypted = Vec::from(stored);
    realm.apply(&iv, &mut encrypted);
    (codec | ENCRYPTED, Some(iv), encrypted.into())
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
    /// The initialization vectors of encrypted ones.
    ivs: Vec<u8>,
    /// The pack contents.
    content_digests: Vec<u8>,
}

impl OpenPack {
    fn new(store: &Store, options: &Options) -> Self {
        OpenPack {
            writer: store.pack_writer(options.whole),
            borders: PackBorders::new(options.layout.pack),
            chunks: Vec::new(),
            ivs: Vec::new(),
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
        if let Some(iv) = &chunk.iv {
            self.ivs.extend_from_slice(&iv.0);
        }
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
        let mut index = MetadataBlob::new(self.chunks.len() + self.ivs.len());
        let mut root = index.root::<peerfs_capnp::pack_index::Owned>();
        root.set_chunks(&self.chunks);
        if !self.ivs.is_empty() {
            root.set_ivs(&self.ivs);
        }
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
