// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The chunks of images that a new one is built upon.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use peerfs_format::{Digest, PackIndex, PackRecord, METADATA_MAX};
use peerfs_realm::RealmKey;
use peerfs_store::{Error as StoreError, Image, Pack, Result as StoreResult, Store};

use crate::options::content_digest;
use crate::{Error, Options, Result};

/// The chunks of the base images, and where they are over all packs. What is said of their content is not believed:
/// a chunk is read when it is to be used.
pub(crate) struct BaseChunks {
    store: Arc<Store>,
    realm: Option<RealmKey>,
    /// The features of the base images.
    features: u64,
    packs: Vec<PackRecord>,
    /// Their numbers.
    numbers: HashMap<Digest, usize>,
    /// The place at which each pack begins.
    starts: Vec<u64>,
    /// The chunks' places by the digest of their content: where it is first,
    places: HashMap<Digest, u64>,
    /// and, of the little that is in several places, the others, the last one first.
    more_places: HashMap<Digest, Vec<u64>>,
    /// The place at which the new chunks begin.
    end: u64,
    /// The pack that was used last, by its number; None if it can't be used.
    open: Option<(usize, Option<Pack>)>,
    unusable: u64,
}

impl BaseChunks {
    /// Reads the indexes and contents of base images' packs. Packs of which one is missing or damaged are passed over.
    pub(crate) fn read(store: &Arc<Store>, options: &Options) -> Result<Self> {
        let mut base = BaseChunks {
            store: store.clone(),
            realm: options.realm.clone(),
            features: 0,
            packs: Vec::new(),
            numbers: HashMap::new(),
            starts: Vec::new(),
            places: HashMap::new(),
            more_places: HashMap::new(),
            end: 0,
            open: None,
            unusable: 0,
        };
        let mut seen = HashSet::new();
        let update = options.usable_update().map(|seen| &seen.manifest);
        for digest in update.into_iter().chain(&options.base) {
            let image = Image::open(store.clone(), digest)?;
            if image.manifest().key_id() != options.realm.as_ref().map(RealmKey::id) {
                return Err(Error::OtherRealm(*digest));
            }
            base.features |= image.manifest().features;
            let table = image.blob_table();
            for number in 0..table.packs.len() as u32 {
                options.check_cancelled()?;
                let pack = table
                    .pack(number)
                    .map_err(StoreError::format(image.manifest().blob_table))?;
                // An image names a pack once: of bases that pair it with different indexes the first is taken.
                if seen.insert(pack.digest) {
                    base.add(&pack)?;
                }
            }
        }
        for places in base.more_places.values_mut() {
            places.reverse();
        }
        Ok(base)
    }

    /// The packs, in order and each once.
    pub(crate) fn packs(&self) -> &[PackRecord] {
        &self.packs
    }

    /// The place at which the new chunks begin.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Chunks that would have been used, were they not missing or damaged.
    pub(crate) fn unusable(&self) -> u64 {
        self.unusable
    }

    /// The place at which a pack begins, if all of it is there.
    pub(crate) fn start_of_whole(&self, pack: &PackRecord) -> Option<u64> {
        let number = *self.numbers.get(&pack.digest)?;
        self.packs.get(number)?.is_same_pack(pack).then_some(())?;
        open_pack(&self.store, pack).ok()??;
        self.starts.get(number).copied()
    }

    /// What a reader needs for images over the packs.
    pub(crate) fn features(&self) -> u64 {
        self.features
    }

    /// The place of a chunk with this content. One that is not there, or is something else, is never asked for again.
    pub(crate) fn find(&mut self, content: &[u8]) -> Option<u64> {
        if self.places.is_empty() {
            return None;
        }
        let digest = &content_digest(self.realm.as_ref(), content);
        let mut place = *self.places.get(digest)?;
        while !self.holds(place, content) {
            let next = self.more_places.get_mut(digest).and_then(Vec::pop);
            let Some(next) = next else {
                self.places.remove(digest);
                self.unusable += 1;
                return None;
            };
            self.places.insert(*digest, next);
            place = next;
        }
        Some(place)
    }

    fn add(&mut self, pack: &PackRecord) -> Result<()> {
        let (index, contents) = match read_descriptions(&self.store, pack) {
            Ok(blobs) => blobs,
            Err(error @ StoreError::Io { .. }) => return Err(error.into()),
            Err(_) => {
                self.unusable += u64::from(pack.chunk_count);
                return Ok(());
            }
        };
        let index =
            PackIndex::parse(&index, pack).map_err(StoreError::format(pack.index_digest))?;
        for (content, record) in contents.into_iter().zip(index.chunks.iter()) {
            let place = self.end + u64::from(record.logical_offset);
            let first = *self.places.entry(content).or_insert(place);
            if first != place {
                self.more_places.entry(content).or_default().push(place);
            }
        }
        self.starts.push(self.end);
        self.end += pack.logical_length;
        self.numbers.insert(pack.digest, self.packs.len());
        self.packs.push(*pack);
        Ok(())
    }

    /// Whether the chunk at a place is there and has this content.
    fn holds(&mut self, place: u64, content: &[u8]) -> bool {
        let after = self.starts.partition_point(|&start| start <= place);
        let number = after.saturating_sub(1);
        let (Some(record), Some(start)) = (self.packs.get(number), self.starts.get(number)) else {
            return false;
        };
        if self.open.as_ref().is_none_or(|(open, _)| *open != number) {
            self.open = Some((number, open_pack(&self.store, record).ok().flatten()));
        }
        let Some((_, Some(pack))) = &self.open else {
            return false;
        };
        let offset = (place - start) as u32; // within a pack, whose bytes are at most PACK_MAX
        read_chunk(pack, offset, self.realm.as_ref()).is_some_and(|found| found == content)
    }
}

/// The index of a pack, and its contents.
fn read_descriptions(store: &Store, pack: &PackRecord) -> StoreResult<(Vec<u8>, Vec<Digest>)> {
    let index = store.read_metadata(&pack.index_digest, METADATA_MAX)?;
    let contents = store.read_metadata(&pack.contents_digest, METADATA_MAX)?;
    let contents = pack
        .content_digests(&contents)
        .map_err(StoreError::format(pack.contents_digest))?;
    Ok((index, contents.iter().collect()))
}

/// A pack of which all is there: an image over a pack that is not would not be all there.
fn open_pack(store: &Store, record: &PackRecord) -> Result<Option<Pack>> {
    let index = store.read_metadata(&record.index_digest, METADATA_MAX)?;
    let pack = store.find_pack(record, index)?;
    Ok(pack.filter(Pack::is_whole))
}

/// The content of the chunk that begins at an offset; None if it is missing or damaged.
fn read_chunk(pack: &Pack, offset: u32, realm: Option<&RealmKey>) -> Option<Vec<u8>> {
    let (number, record) = pack.chunk_at(offset).ok()?;
    let key = realm.zip(pack.iv(number));
    let content = pack.stored_chunk(number).ok()??.decode(key).ok()?;
    (record.logical_offset == offset).then_some(content)
}
