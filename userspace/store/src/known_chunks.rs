// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Chunks that this store has built before, found by their content.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use lru::LruCache;
use peerfs_format::encryption::{Cipher, Kind, ENCRYPTED};
use peerfs_format::{ChunkRecord, Digest, Iv, PackRecord, METADATA_MAX};
use peerfs_realm::RealmKey;

use crate::catalogue::BuiltChunk;
use crate::lock::lock;
use crate::pack::PackStore;
use crate::{sha256, Error, Pack, Result, Store};

/// Packs that are kept open, each with its index.
const PACKS_KEPT: NonZeroUsize = NonZeroUsize::new(16).expect("16 is not 0");

/// A name of content for the time of a build, and in the catalogue of the store: its BLAKE3 hash, which takes a fraction of
/// the time that SHA-256 takes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ContentId([u8; 32]);

impl ContentId {
    /// That of some bytes.
    pub fn of(content: &[u8]) -> Self {
        ContentId(blake3::hash(content).into())
    }
}

/// Finds chunks that were built in this store before: who needs one need not compress it. What the catalogue says of
/// content is not believed, for the store may be somebody else's: a chunk is decoded and compared. May be used from many
/// threads.
pub struct KnownChunks<'a> {
    store: &'a Store,
    /// Says how chunks are compressed: the same content compressed in another way is another chunk.
    compression: String,
    /// The key that they are encrypted with.
    key: Option<&'a RealmKey>,
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
    iv: Option<Iv>,
    content: Digest,
    stored: Vec<u8>,
}

impl KnownChunk {
    /// The chunk's record in the index of its pack: where it lies there is of no meaning elsewhere.
    pub fn record(&self) -> &ChunkRecord {
        &self.record
    }

    /// Its initialization vector, if it is encrypted.
    pub fn iv(&self) -> Option<Iv> {
        self.iv
    }

    /// The digest of the chunk's content, as pack contents have it.
    pub fn content_digest(&self) -> &Digest {
        &self.content
    }

    /// The chunk's stored bytes, which were verified.
    pub fn stored(&self) -> &[u8] {
        &self.stored
    }
}

impl<'a> KnownChunks<'a> {
    /// The chunks of a store that were compressed in this way, which names everything that decides about the bytes, and
    /// encrypted with this key.
    pub fn new(store: &'a Store, compression: &str, key: Option<&'a RealmKey>) -> Self {
        KnownChunks {
            store,
            compression: compression.to_owned(),
            key,
            packs: Mutex::new(LruCache::new(PACKS_KEPT)),
        }
    }

    /// A chunk with this content, whose name is `id`; None if there is none that is right.
    pub fn find(&self, id: &ContentId, content: &[u8]) -> Option<KnownChunk> {
        let built = self.catalogued(&self.key(id))?;
        let pack = self.pack(built.pack, built.index)?;
        let stored = pack.stored_chunk(built.chunk).ok()??;
        let record = *stored.record();
        let bytes = stored.bytes().to_vec();
        let iv = pack.iv(built.chunk);
        self.is_own_vector(&record, iv, &bytes).then_some(())?;
        (stored.decode(self.key.zip(iv)).ok()? == content).then_some(KnownChunk {
            pack,
            number: built.chunk,
            record,
            iv,
            content: built.content,
            stored: bytes,
        })
    }

    /// Whether a chunk's initialization vector is that of what it decrypts to. Another one would be used for two inputs,
    /// and make another image than other builders make.
    fn is_own_vector(&self, record: &ChunkRecord, iv: Option<Iv>, stored: &[u8]) -> bool {
        let (Some(key), Some(iv)) = (self.key, iv) else {
            return self.key.is_none() && iv.is_none();
        };
        let mut plain = stored.to_vec();
        key.apply(&iv, &mut plain);
        iv == key.iv(Kind::Chunk, record.codec & !ENCRYPTED, &plain)
    }

    /// The key of content in the catalogue.
    pub(crate) fn key(&self, content: &ContentId) -> Digest {
        let key = sha256(&[&content.0, self.compression.as_bytes()].concat());
        // Who can read the catalogue is not to find out by it what is in an encrypted image.
        self.key.map_or(key, |realm| realm.hide(&key))
    }

    fn catalogued(&self, key: &Digest) -> Option<BuiltChunk> {
        let found = self.shared().catalogue.find_built(key);
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
