// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Whether two files have the same content.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use peerfs_format::{pieces, Digest, Iv, KeyId, PackIndexLayout, PackRecord, Piece, Source};

use super::Unseen;
use crate::{ChunkReader, Error, Image, Inode, Result};

/// Pack indexes kept in memory of each image, of some hundred KiB.
const INDEXES_KEPT: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// The content of two images.
pub(super) struct Contents<'a, A: ChunkReader, B: ChunkReader> {
    first: Side<'a, A>,
    second: Side<'a, B>,
    pub(super) unseen: Unseen,
}

struct Side<'a, R: ChunkReader> {
    image: &'a Image<R>,
    indexes: LruCache<u32, Arc<Index>>,
}

struct Index {
    record: PackRecord,
    layout: PackIndexLayout,
    bytes: Vec<u8>,
}

/// What the bytes of a range are, if it is known without reading them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stored {
    Zeros,
    /// Those at this offset of a chunk with this digest, which is compressed and encrypted so.
    Chunk {
        digest: Digest,
        codec: u8,
        encryption: Option<(KeyId, Iv)>,
        logical_length: u32,
        offset: u32,
    },
}

impl<'a, A: ChunkReader, B: ChunkReader> Contents<'a, A, B> {
    pub(super) fn new(first: &'a Image<A>, second: &'a Image<B>) -> Self {
        Contents {
            first: Side::new(first),
            second: Side::new(second),
            unseen: Unseen::default(),
        }
    }

    /// Whether two regular files have the same content.
    pub(super) fn is_same_content(&mut self, old: &Inode, new: &Inode) -> Result<bool> {
        let size = old.record().size;
        if size != new.record().size {
            return Ok(false);
        }
        if size > 0 && old.content_digest()? != new.content_digest()? {
            return Ok(false);
        }
        match self.is_same_bytes(old, new, size) {
            // Nobody can tell without what is not here: the claim is all there is.
            Err(Error::BlobMissing(_) | Error::ChunkMissing { .. }) => {
                self.unseen.files += 1;
                Ok(true)
            }
            is_same => is_same,
        }
    }

    /// Compares what is stored, and where that does not tell the bytes.
    fn is_same_bytes(&mut self, old: &Inode, new: &Inode, size: u64) -> Result<bool> {
        let extents = [old.extents()?, new.extents()?];
        let mut at = 0;
        while at < size {
            let piece = |side: usize| pieces(&extents[side], at..size).next();
            let (Some(first), Some(second)) = (piece(0), piece(1)) else {
                return Ok(false);
            };
            let (before, before_length) = self.first.stored(&first)?;
            let (after, after_length) = self.second.stored(&second)?;
            let length = before_length.min(after_length);
            if before != after {
                let bytes = self.first.read(old, at, length)?;
                if bytes != self.second.read(new, at, length)? {
                    return Ok(false);
                }
            }
            at += length;
        }
        Ok(true)
    }
}

impl<'a, R: ChunkReader> Side<'a, R> {
    fn new(image: &'a Image<R>) -> Self {
        Side {
            image,
            indexes: LruCache::new(INDEXES_KEPT),
        }
    }

    /// What the bytes are with which a piece begins, and for how many that holds: at least 1.
    fn stored(&mut self, piece: &Piece) -> Result<(Stored, u64)> {
        let Source::Pack { pack, offset } = piece.source else {
            return Ok((Stored::Zeros, piece.length));
        };
        let index = self.index(pack)?;
        let view = index.layout.view(&index.bytes);
        let (number, record) = view
            .chunk_at(offset)
            .map_err(Error::format(index.record.index_digest))?;
        let skipped = offset.saturating_sub(record.logical_offset);
        let stored = Stored::Chunk {
            digest: record.digest,
            codec: record.codec,
            encryption: self.image.manifest().key_id().zip(view.iv(number)),
            logical_length: record.logical_length,
            offset: skipped,
        };
        let rest = record.logical_length.saturating_sub(skipped).max(1);
        Ok((stored, piece.length.min(rest.into())))
    }

    fn index(&mut self, pack: u32) -> Result<Arc<Index>> {
        if let Some(index) = self.indexes.get(&pack) {
            return Ok(index.clone());
        }
        let (record, bytes) = self.image.pack_index(pack)?;
        let layout =
            PackIndexLayout::parse(&bytes, &record).map_err(Error::format(record.index_digest))?;
        let index = Arc::new(Index {
            record,
            layout,
            bytes,
        });
        self.indexes.put(pack, index.clone());
        Ok(index)
    }

    /// Bytes of a file, of at most a chunk or two runs of zeros.
    fn read(&self, file: &Inode, offset: u64, length: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.image.read(file, offset, length, |part| {
            bytes.extend_from_slice(part);
            Ok::<_, Error>(())
        })?;
        Ok(bytes)
    }
}
