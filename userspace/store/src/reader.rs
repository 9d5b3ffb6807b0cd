// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Where an image is read from.

use peerfs_format::{ChunkRecord, Digest, Iv, PackRecord};

use crate::{Error, Pack, Result, Store, StoredChunk};

/// The blobs that an [`Image`](crate::Image) is read from: those of a [`Store`] as far as they are there, or of somebody
/// who fetches what is not, such as a FUSE server.
///
/// All methods may block, and are called from many threads. An image gives up what it reads when one fails, and asks again
/// when it is read again.
pub trait ChunkReader: Send + Sync {
    /// A pack that is open.
    type Pack: PackReader;

    /// A metadata blob of at most `limit` bytes. The reader has verified it: an image relies on its digest.
    ///
    /// # Errors
    /// [`Error::BlobMissing`] if it can't be had, and whatever else went wrong.
    fn read_metadata(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>>;

    /// A pack whose index blob is `index`. Need not have any of its chunks yet.
    ///
    /// # Errors
    /// [`Error::BlobMissing`] if nothing of it can be had; [`Error::Format`] if the index is not valid.
    fn pack_reader(&self, record: &PackRecord, index: Vec<u8>) -> Result<Self::Pack>;
}

/// A pack that an image is read from.
pub trait PackReader: Send + Sync {
    /// The number and record of the chunk that covers an offset of the uncompressed address space.
    ///
    /// # Errors
    /// [`Error::Format`] if no valid chunk covers it.
    fn chunk_at(&self, logical_offset: u32) -> Result<(u32, ChunkRecord)>;

    /// The initialization vector of a chunk, if those of the pack are encrypted.
    fn iv(&self, chunk: u32) -> Option<Iv>;

    /// A chunk.
    ///
    /// # Errors
    /// [`Error::ChunkMissing`] if it can't be had, [`Error::ChunkDamaged`], and whatever else went wrong.
    fn read_chunk(&self, chunk: u32) -> Result<StoredChunk>;
}

/// What is in the store.
impl ChunkReader for Store {
    type Pack = Pack;

    fn read_metadata(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        Store::read_metadata(self, digest, limit)
    }

    fn pack_reader(&self, record: &PackRecord, index: Vec<u8>) -> Result<Pack> {
        self.find_pack(record, index)?
            .ok_or(Error::BlobMissing(record.digest))
    }
}

/// What is there of a pack.
impl PackReader for Pack {
    fn chunk_at(&self, logical_offset: u32) -> Result<(u32, ChunkRecord)> {
        Pack::chunk_at(self, logical_offset)
    }

    fn iv(&self, chunk: u32) -> Option<Iv> {
        Pack::iv(self, chunk)
    }

    fn read_chunk(&self, chunk: u32) -> Result<StoredChunk> {
        self.stored_chunk(chunk)?.ok_or(Error::ChunkMissing {
            pack: *self.digest(),
            chunk,
        })
    }
}
