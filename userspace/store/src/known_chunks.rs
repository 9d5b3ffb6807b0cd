// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Chunks that this store has built before, found by their content.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use lru::LruCache;
use peerfs_format::{ChunkRecord, Digest, PackRecord, METADATA_MAX};

use crate::lock::lock;
use crate::pack::PackStore;
use crate::{sha256, Error, Pack, Result, Store};

/// Packs that are kept open, each with its index.
const PACKS_KEPT: NonZeroUsize = NonZeroUsize::new(16).expect("16 is not 0");

/// Finds chunks that were built in this store before: who needs one need not compress it. Only what builds of this store
/// have entered is found, so nobody else can say what content is. May be used from many threads.
pub struct KnownChunks<'a> {
    store: &'a Store,
    /// Says how chunks are compressed: the same content compressed in another way is another chunk.
    compression: String,
    packs: Mutex<LruCache<PackName, Option<Arc<Pack>>>>,
}

/// The digests of a pack and of its index.
type PackName = (Digest, Digest);

/// A chunk that the store has.
#[derive(Clone)]
pub struct KnownChunk {
    pub(crate) pack: Arc<Pack>,
    pub(crate) number: u32,
    record: ChunkRecord,
    stored: Vec<u8>,
}

impl KnownChunk {
    /// The chunk's record in the index of its pack: where it lies there is of no meaning elsewhere.
    pub fn record(&self) -> &ChunkRecord {
        &self.record
    }

    /// The chunk's stored bytes, which were verified.
    pub fn stored(&self) -> &[u8] {
        &self.stored
    }
}

impl<'a> KnownChunks<'a> {
    /// The chunks of a store that were compressed in this way, which names everything that decides about the bytes.
    pub fn new(store: &'a Store, compression: &str) -> Self {
        KnownChunks {
            store,
            compression: compression.to_owned(),
            packs: Mutex::new(LruCache::new(PACKS_KEPT)),
        }
    }

    /// A chunk with this content; None if there is none that can be read.
    pub fn find(&self, content: &Digest, length: usize) -> Option<KnownChunk> {
        let (pack, index, number) = self.catalogued(&self.key(content))?;
        let pack = self.pack(pack, index)?;
        let stored = pack.stored_chunk(number).ok()??;
        let record = *stored.record();
        (record.logical_length as usize == length).then(|| KnownChunk {
            pack,
            number,
            record,
            stored: stored.into_bytes(),
        })
    }

    /// The digest by which content is entered into the catalogue.
    pub(crate) fn key(&self, content: &Digest) -> Digest {
        sha256(&[&content.0, self.compression.as_bytes()].concat())
    }

    fn catalogued(&self, key: &Digest) -> Option<(Digest, Digest, u32)> {
        let found = self.shared().catalogue.find_content(key);
        found.unwrap_or_else(|error| {
            tracing::debug!(%error, "the catalogue can't be read");
            None
        })
    }

    fn shared(&self) -> &PackStore {
        self.store.shared()
    }

    fn pack(&self, pack: Digest, index: Digest) -> Option<Arc<Pack>> {
        let known = lock(&self.packs).get(&(pack, index)).cloned();
        known.unwrap_or_else(|| {
            let found = self.open(pack, index).ok().flatten().map(Arc::new);
            lock(&self.packs).put((pack, index), found.clone());
            found
        })
    }

    fn open(&self, pack: Digest, index: Digest) -> Result<Option<Pack>> {
        let blob = self.store.read_metadata(&index, METADATA_MAX)?;
        let record = PackRecord::of_index(pack, index, &blob).map_err(Error::format(index))?;
        self.store.find_pack(&record, blob)
    }
}
