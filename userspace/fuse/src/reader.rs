// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The store as an image reads it of which not all is there yet.

use std::sync::{Arc, Mutex, PoisonError};

use peerfs_format::{ChunkRecord, Digest, Iv, PackIndexLayout, PackRecord};
use peerfs_store::{ChunkReader, Error, Pack, PackReader, Result, Store, StoredChunk};

use crate::uses::Uses;

/// A store that another process fills.
pub(crate) struct FilledStore {
    store: Arc<Store>,
    /// What is read of it.
    uses: Uses,
}

impl FilledStore {
    /// The store, of which is noted what is read.
    pub(crate) fn new(store: Arc<Store>, uses: Uses) -> Self {
        FilledStore { store, uses }
    }
}

/// A pack of such a store, known by its index whether or not there is anything of it.
pub(crate) struct FilledPack {
    store: Arc<Store>,
    record: PackRecord,
    index: Vec<u8>,
    layout: PackIndexLayout,
    uses: Uses,
    /// What was there of it when it was last looked for.
    found: Mutex<Option<Arc<Pack>>>,
}

impl ChunkReader for FilledStore {
    type Pack = FilledPack;

    fn read_metadata(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        self.store.read_metadata(digest, limit)
    }

    fn pack_reader(&self, record: &PackRecord, index: Vec<u8>) -> Result<FilledPack> {
        let layout = PackIndexLayout::parse(&index, record).map_err(|source| Error::Format {
            digest: record.index_digest,
            source,
        })?;
        Ok(FilledPack {
            store: Arc::clone(&self.store),
            uses: self.uses.clone(),
            record: *record,
            index,
            layout,
            found: Mutex::new(None),
        })
    }
}

impl FilledPack {
    /// The pack's record in the blob table.
    pub(crate) fn record(&self) -> &PackRecord {
        &self.record
    }

    fn found(&self) -> Option<Arc<Pack>> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.clone()
    }

    /// Looks for it anew: it may be whole since, or lie elsewhere.
    fn find(&self) -> Result<Option<Arc<Pack>>> {
        let pack = self.store.find_pack(&self.record, self.index.clone())?;
        let pack = pack.map(Arc::new);
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = pack.clone();
        Ok(pack)
    }

    fn chunk_of(&self, pack: Option<Arc<Pack>>, chunk: u32) -> Result<StoredChunk> {
        let missing = Error::ChunkMissing {
            pack: self.record.digest,
            chunk,
        };
        pack.map_or(Ok(None), |pack| pack.stored_chunk(chunk))?
            .ok_or(missing)
    }
}

impl PackReader for FilledPack {
    fn chunk_at(&self, logical_offset: u32) -> Result<(u32, ChunkRecord)> {
        let index = self.layout.view(&self.index);
        index
            .chunk_at(logical_offset)
            .map_err(|source| Error::Format {
                digest: self.record.index_digest,
                source,
            })
    }

    fn iv(&self, chunk: u32) -> Option<Iv> {
        self.layout.view(&self.index).iv(chunk)
    }

    fn read_chunk(&self, chunk: u32) -> Result<StoredChunk> {
        let read = match self.chunk_of(self.found(), chunk) {
            Err(Error::ChunkMissing { .. } | Error::ChunkDamaged { .. }) => {
                self.chunk_of(self.find()?, chunk)
            }
            read => read,
        };
        read.inspect(|_| self.uses.note(&self.record, chunk))
    }
}
