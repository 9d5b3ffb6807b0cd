// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Serves the store to peers.

mod blob_cache;
mod http;
mod verdicts;

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use lru::LruCache;
use peerfs_exchange::frame::Encoding;
use peerfs_exchange::limits::THROUGH_TIMEOUT;
use peerfs_exchange::{Arrival, ChunkMap, Have, Priority};
use peerfs_fetch::{pack_record, Disk, DiskError, Packs, Repository};
use peerfs_format::{BlobTable, Digest, Manifest, METADATA_MAX};
use peerfs_peer::{ArrivalLog, BlobPiece, Provider, Work};
use peerfs_store::{Error as StoreError, LentPack, Pack, Store};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use blob_cache::{BlobCache, Form};
pub use http::HttpProvider;
use peerfs_text::Causes;
use verdicts::{Asked, Verdicts};

/// Whole blobs that are read for peers at a time, 16 MiB each at most.
const WHOLE_READS: usize = 4;
/// The images of which the packs are remembered.
const IMAGES_MAX: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not 0");
/// The indexes of packs that peers have lent, a MiB each at most.
const LENT_MAX: NonZeroUsize = NonZeroUsize::new(16).expect("16 is not 0");
/// How hard it is tried to make a blob shorter: inode shards become no shorter by level 3.
const ZSTD_LEVEL: i32 = 1;

/// The store, as peers see it. Everything is verified before it is sent, so that a damaged disk does
/// not make this node a liar. What is read for a peer is charged to it before; what proved unreadable is not
/// read again for a while.
pub struct StoreProvider {
    disk: Disk,
    packs: Arc<Packs>,
    blobs: Mutex<BlobCache>,
    verdicts: Mutex<Verdicts>,
    /// The packs of the images that were followed last.
    images: Mutex<LruCache<Digest, Arc<[Digest]>>>,
    /// Packs that are not here, by indexes that peers have lent last.
    lent: Mutex<LruCache<(Digest, Digest), Arc<LentPack>>>,
    whole_reads: Semaphore,
    /// Where those who follow an image are told that something of it can't be read.
    arrivals: OnceLock<Arc<ArrivalLog>>,
    /// What fetches for neighbours; it asks, among others, the node that this serves.
    repository: OnceLock<Weak<Repository>>,
}

impl StoreProvider {
    /// Serves this store.
    pub fn new(disk: Disk, packs: Arc<Packs>) -> Self {
        StoreProvider {
            disk,
            packs,
            blobs: Mutex::default(),
            verdicts: Mutex::default(),
            images: Mutex::new(LruCache::new(IMAGES_MAX)),
            lent: Mutex::new(LruCache::new(LENT_MAX)),
            whole_reads: Semaphore::new(WHOLE_READS),
            arrivals: OnceLock::new(),
            repository: OnceLock::new(),
        }
    }

    /// Fetches by it from now on what neighbours ask it to.
    pub fn fetch_by(&self, repository: &Arc<Repository>) {
        // Once, by who has started the node.
        let _ = self.repository.set(Arc::downgrade(repository));
    }

    /// Tells it from now on when something proves unreadable.
    pub fn tell(&self, arrivals: Arc<ArrivalLog>) {
        // Once, by who has started the node.
        let _ = self.arrivals.set(arrivals);
    }

    /// A metadata blob, verified. Larger blobs are packs, and those are served by the chunk.
    async fn metadata(&self, digest: Digest, work: &Work) -> Option<Bytes> {
        let asked = Asked::Blob(digest);
        if let Some(bytes) = self.cached(digest, Form::Plain) {
            return bytes;
        }
        if self.is_unreadable(&asked) {
            return None;
        }
        // Never closed. Whoever waited may find that another one has read it.
        let _permit = self.whole_reads.acquire().await;
        if let Some(bytes) = self.cached(digest, Form::Plain) {
            return bytes;
        }
        let length = self.length(digest).await?;
        if length > METADATA_MAX || !work.charge(length) {
            return None;
        }
        let read = self
            .disk
            .run(move |store| store.read_metadata(&digest, METADATA_MAX));
        let bytes = Bytes::from(self.readable(asked, read.await)?);
        lock(&self.blobs).put(digest, Form::Plain, Some(bytes.clone()));
        Some(bytes)
    }

    /// A metadata blob in the form in which it is sent to somebody who takes zstd.
    async fn encoded(&self, digest: Digest, work: &Work) -> Option<(Encoding, Bytes)> {
        let zstd = match self.cached(digest, Form::Zstd) {
            Some(known) => known,
            None => self.compress(digest, work).await?,
        };
        match zstd {
            Some(bytes) => Some((Encoding::Zstd, bytes)),
            None => Some((Encoding::Plain, self.metadata(digest, work).await?)),
        }
    }

    /// Compresses a metadata blob, once; an inner `None` if it is not worth it. That costs as much as to read it.
    async fn compress(&self, digest: Digest, work: &Work) -> Option<Option<Bytes>> {
        let plain = self.metadata(digest, work).await?;
        let _permit = self.whole_reads.acquire().await;
        if let Some(known) = self.cached(digest, Form::Zstd) {
            return Some(known);
        }
        if !work.charge(plain.len() as u64) {
            return None;
        }
        let compress = self.disk.run(move |_| Ok(zstd_frame(&plain)));
        let zstd = compress.await.ok()?;
        lock(&self.blobs).put(digest, Form::Zstd, zstd.clone());
        Some(zstd)
    }

    /// What is known of a blob in this form: an inner `None` if it is known that it is not sent in it.
    fn cached(&self, digest: Digest, form: Form) -> Option<Option<Bytes>> {
        lock(&self.blobs).get(digest, form)
    }

    /// The length of the file that should be this blob.
    async fn length(&self, digest: Digest) -> Option<u64> {
        let length = self.disk.run(move |store| length(store, &digest));
        self.readable(Asked::Blob(digest), length.await).flatten()
    }

    /// A pack, if its index and something of it are here.
    async fn pack(&self, pack: Digest, index: Digest, work: &Work) -> Option<Arc<Pack>> {
        if let Some(open) = self.packs.get(pack, index) {
            return Some(open);
        }
        let asked = Asked::Pack { pack, index };
        if self.is_unreadable(&asked) {
            return None;
        }
        let _permit = self.whole_reads.acquire().await;
        if let Some(open) = self.packs.get(pack, index) {
            return Some(open);
        }
        // All of the index is read and hashed to open a pack.
        if !work.charge(self.length(index).await?) {
            return None;
        }
        let packs = Arc::clone(&self.packs);
        let open = self
            .disk
            .run(move |store| packs.find_with(store, pack, index));
        self.readable(asked, open.await).flatten()
    }

    fn lent(&self, pack: Digest, index: Digest) -> Option<Arc<LentPack>> {
        lock(&self.lent).get(&(pack, index)).cloned()
    }

    /// What is in other packs of one whose index was lent.
    async fn have_lent(&self, lent: &Arc<LentPack>, work: &Work) -> Have {
        let chunk_count = lent.record().chunk_count;
        // A place in the catalogue for each chunk.
        if !work.charge(u64::from(chunk_count) * 16) {
            return Have::Absent;
        }
        let lent = Arc::clone(lent);
        let presence = self.disk.run(move |_| lent.presence()).await;
        partial(
            presence
                .ok()
                .and_then(|bits| ChunkMap::new(chunk_count, bits.into())),
        )
    }

    /// A chunk of a pack whose index was lent.
    async fn read_lent(
        &self,
        pack: Digest,
        index: Digest,
        number: u32,
        work: &Work,
    ) -> Option<Bytes> {
        let lent = self.lent(pack, index)?;
        let length = lent.chunk(number).ok()?.stored_length;
        if !work.charge(u64::from(length)) {
            return None;
        }
        let read = self.disk.run(move |_| lent.read_chunk(number)).await;
        read.ok().flatten().map(Bytes::from)
    }

    /// Whether all of a pack is here, and can be read as far as is known.
    fn is_complete(&self, pack: &Pack) -> bool {
        let record = pack.record();
        let unreadable = self.unreadable_chunks(record.digest, record.index_digest);
        pack.is_whole() && unreadable.is_empty()
    }

    /// The chunks of a pack that are here, without those that were found to be unreadable.
    fn readable_chunks(&self, pack: &Pack) -> Option<ChunkMap> {
        let mut bits = pack.presence();
        for number in self.unreadable_chunks(*pack.digest(), pack.record().index_digest) {
            if let Some(byte) = bits.get_mut(number as usize / 8) {
                *byte &= !(1 << (number % 8));
            }
        }
        ChunkMap::new(pack.record().chunk_count, bits.into())
    }

    fn unreadable_chunks(&self, pack: Digest, index: Digest) -> Vec<u32> {
        lock(&self.verdicts).unreadable_chunks(&pack, &index, Instant::now())
    }

    fn is_unreadable(&self, asked: &Asked) -> bool {
        lock(&self.verdicts).is_unreadable(asked, Instant::now())
    }

    /// To a peer, what can't be read is the same as what is not there. Only what is wrong here is logged, and
    /// once, not what a peer may ask for in vain.
    fn readable<T>(&self, asked: Asked, result: Result<T, DiskError>) -> Option<T> {
        let error = match result {
            Ok(value) => return Some(value),
            Err(
                DiskError::ShuttingDown
                | DiskError::Store(StoreError::BlobMissing(_) | StoreError::BlobTooLarge { .. }),
            ) => return None,
            Err(error) => error,
        };
        let new = lock(&self.verdicts).unreadable(asked, Instant::now());
        if let (true, Asked::Chunk { pack, .. }, Some(arrivals)) = (new, asked, self.arrivals.get())
        {
            arrivals.note(Arrival::Changed(pack));
        }
        // An index that a peer names need not be one.
        if new && !matches!(error, DiskError::Store(StoreError::Format { .. })) {
            warn!(error = %Causes(&error), "cannot serve a peer");
        }
        None
    }
}

#[async_trait]
impl Provider for StoreProvider {
    async fn blob_length(&self, blob: &Digest, _work: &Work) -> Option<u64> {
        if self.is_unreadable(&Asked::Blob(*blob)) {
            return None;
        }
        self.length(*blob).await
    }

    fn blob_max(&self) -> u64 {
        METADATA_MAX
    }

    async fn read_blob(
        &self,
        blob: &Digest,
        zstd: bool,
        offset: u64,
        work: &Work,
    ) -> Option<BlobPiece> {
        let (encoding, bytes) = match zstd {
            true => self.encoded(*blob, work).await?,
            false => (Encoding::Plain, self.metadata(*blob, work).await?),
        };
        BlobPiece::of(encoding, &bytes, offset)
    }

    async fn have(&self, digest: &Digest, work: &Work) -> Have {
        let digest = *digest;
        if self.is_unreadable(&Asked::Blob(digest)) {
            return Have::Absent;
        }
        let whole = self.disk.run(move |store| Ok(store.has_blob(&digest)));
        let is_whole = self.readable(Asked::Blob(digest), whole.await) == Some(true);
        let indexes = self.packs.indexes_of(digest);
        let is_damaged = |index: &Digest| !self.unreadable_chunks(digest, *index).is_empty();
        if is_whole && (indexes.is_empty() || !indexes.iter().all(is_damaged)) {
            return Have::Complete;
        }
        let mut maps = Vec::new();
        for index in indexes {
            let pack = self.pack(digest, index, work).await;
            maps.extend(pack.and_then(|pack| self.readable_chunks(&pack)));
        }
        partial(maps.into_iter().max_by_key(ChunkMap::present))
    }

    async fn packs_of(&self, manifest: &Digest, work: &Work) -> Option<Arc<[Digest]>> {
        if let Some(known) = lock(&self.images).get(manifest) {
            return Some(Arc::clone(known));
        }
        let image = Manifest::parse(&self.metadata(*manifest, work).await?).ok()?;
        let table = self.metadata(image.blob_table, work).await?;
        let table = BlobTable::parse(&table, image.inode_count).ok()?;
        let mut digests: Vec<Digest> = Vec::with_capacity(table.packs.len());
        for pack in table.packs.iter() {
            self.packs.learn(pack.digest, pack.index_digest);
            digests.push(pack.digest);
        }
        digests.sort_unstable();
        digests.dedup();
        let digests: Arc<[Digest]> = digests.into();
        lock(&self.images).put(*manifest, Arc::clone(&digests));
        Some(digests)
    }

    async fn have_by(&self, pack: &Digest, index: &Digest, work: &Work) -> Option<Have> {
        let (pack, index) = (*pack, *index);
        if let Some(open) = self.pack(pack, index, work).await {
            if self.is_complete(&open) {
                return Some(Have::Complete);
            }
            return Some(partial(self.readable_chunks(&open)));
        }
        if let Some(lent) = self.lent(pack, index) {
            return Some(self.have_lent(&lent, work).await);
        }
        if self.is_unreadable(&Asked::Pack { pack, index }) {
            return Some(Have::Absent);
        }
        let blob = self.metadata(index, work).await?;
        self.lend_index(&pack, &index, blob, work).await;
        Some(self.have_lent(&self.lent(pack, index)?, work).await)
    }

    async fn lend_index(&self, pack: &Digest, index: &Digest, blob: Bytes, work: &Work) {
        let (pack, index, blob) = (*pack, *index, Vec::from(blob));
        if !work.charge(blob.len() as u64) {
            return;
        }
        let lent = self.disk.run(move |store| {
            let record = pack_record(pack, index, &blob)?;
            store.lent_pack(&record, blob)
        });
        match lent.await {
            Ok(lent) => drop(lock(&self.lent).put((pack, index), Arc::new(lent))),
            Err(error) => {
                debug!(%pack, %index, error = %Causes(&error), "what a peer sent is not the index");
            }
        }
    }

    async fn whole_pack(&self, pack: &Digest, index: &Digest, work: &Work) -> Option<u32> {
        let (pack, index) = (*pack, *index);
        let open = self.pack(pack, index, work).await?;
        self.is_complete(&open).then(|| open.record().chunk_count)
    }

    async fn fetch_through(&self, pack: &Digest, index: &Digest, number: u32, priority: Priority) {
        let (pack, index) = (*pack, *index);
        let is_here = self
            .packs
            .get(pack, index)
            .is_some_and(|open| open.has(number));
        let repository = self.repository.get().and_then(Weak::upgrade);
        if let (Some(repository), false) = (repository, is_here) {
            let deadline = Instant::now() + THROUGH_TIMEOUT;
            repository
                .fetch_through((pack, index), number, priority, deadline)
                .await;
        }
    }

    async fn read_chunk(
        &self,
        pack: &Digest,
        index: &Digest,
        number: u32,
        work: &Work,
    ) -> Option<Bytes> {
        let (pack, index) = (*pack, *index);
        let whole = Asked::Pack { pack, index };
        let chunk = Asked::Chunk {
            pack,
            index,
            number,
        };
        if self.is_unreadable(&whole) || self.is_unreadable(&chunk) {
            return None;
        }
        let Some(open) = self.pack(pack, index, work).await else {
            return self.read_lent(pack, index, number, work).await;
        };
        let length = open.chunk(number).ok()?.stored_length;
        if !open.has(number) || !work.charge(u64::from(length)) {
            return None;
        }
        let read = self.disk.run(move |_| open.read_chunk(number)).await;
        let damaged = matches!(read, Err(DiskError::Store(StoreError::ChunkDamaged { .. })));
        if damaged && !self.packs.indexes_of(pack).contains(&index) {
            // No image here has that index, so it is the index that is not the pack's: all of it is refused.
            debug!(%pack, %index, "a peer named an index of another pack");
            lock(&self.verdicts).unreadable(whole, Instant::now());
            return None;
        }
        self.readable(chunk, read).flatten().map(Bytes::from)
    }
}

/// As much of a pack as the map says, if that is anything.
fn partial(map: Option<ChunkMap>) -> Have {
    let map = map.filter(|map| map.present() > 0);
    map.map_or(Have::Absent, Have::Partial)
}

/// A blob as a zstd frame, if that saves more than an eighth.
fn zstd_frame(plain: &[u8]) -> Option<Bytes> {
    let frame = zstd::bulk::compress(plain, ZSTD_LEVEL).ok()?;
    (frame.len() < plain.len() - plain.len() / 8).then(|| frame.into())
}

fn length(store: &Store, digest: &Digest) -> peerfs_store::Result<Option<u64>> {
    let Some(file) = store.open_blob(digest)? else {
        return Ok(None);
    };
    let metadata = file.metadata().map_err(|source| StoreError::Io {
        action: "read",
        path: store.blob_path(digest),
        source,
    })?;
    Ok(Some(metadata.len()))
}

/// Nothing that is done under these locks can leave the data half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
