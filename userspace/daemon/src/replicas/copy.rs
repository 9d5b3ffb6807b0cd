// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Checks another node's copy of an image. What says of which packs and chunks an image consists is verified by its digest, so
//! that the very node that is checked may send it; none of it goes into the store.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;
use peerfs_exchange::{Have, Priority, Progress};
use peerfs_fetch::Disk;
use peerfs_format::{BlobTable, Digest, Manifest, PackIndex, PackRecord, METADATA_MAX};
use peerfs_peer::{Multiaddr, Node, PeerId, RequestError};
use peerfs_replica::keeper::Outcome;
use peerfs_store::sha256;
use tokio::time::{sleep, timeout, Instant};

/// How long all of a check may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long connecting may take at most, where checks are not more frequent.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The packs of an image that are asked for in one check.
const PACKS_ASKED: usize = 4;
/// The images of which it is remembered what packs they have, and the packs of which the index is.
const TABLES_KEPT: usize = 1024;
const INDEXES_KEPT: usize = 8;

/// Checks copies. Clones remember the same.
#[derive(Clone)]
pub(super) struct Checks {
    node: Node,
    disk: Disk,
    connect_timeout: Duration,
    tables: Arc<Mutex<LruCache<Digest, Arc<[PackRecord]>>>>,
    indexes: Arc<Mutex<LruCache<Digest, Arc<[u8]>>>>,
}

/// Why a check has no answer that says something of the copy.
enum Fault {
    /// The node is not reached, or breaks off.
    Silent,
    /// It does not have something that who has the image has.
    Missing,
    /// It sends something else.
    Wrong,
    /// This node ends.
    Ending,
}

impl From<RequestError> for Fault {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::NotFound | RequestError::NotServed => Fault::Missing,
            RequestError::Undecodable | RequestError::TooLarge { .. } => Fault::Wrong,
            RequestError::ShuttingDown => Fault::Ending,
            // Who never has time for it need not be taken to have it.
            _ => Fault::Silent,
        }
    }
}

impl Checks {
    pub(super) fn new(node: Node, disk: Disk, interval: Duration) -> Self {
        let cache = |count| NonZeroUsize::new(count).expect("it is not 0");
        Checks {
            node,
            disk,
            connect_timeout: interval.min(CONNECT_TIMEOUT),
            tables: Arc::new(Mutex::new(LruCache::new(cache(TABLES_KEPT)))),
            indexes: Arc::new(Mutex::new(LruCache::new(cache(INDEXES_KEPT)))),
        }
    }

    /// What a node has of an image, reached at one of these addresses if it is not connected; none if that could not be found
    /// out now.
    pub(super) async fn check(
        &self,
        image: Digest,
        peer: PeerId,
        addresses: &[Multiaddr],
        proof: bool,
    ) -> Option<Outcome> {
        let look = async {
            self.connect(peer, addresses).await?;
            self.look(image, peer, proof).await
        };
        match timeout(PATIENCE, look).await {
            Ok(Ok(outcome)) => Some(outcome),
            Ok(Err(Fault::Silent)) | Err(_) => Some(Outcome::Silent),
            Ok(Err(Fault::Missing)) => Some(Outcome::Nothing),
            Ok(Err(Fault::Wrong)) => Some(Outcome::Wrong),
            Ok(Err(Fault::Ending)) => None,
        }
    }

    /// Connects to a node, if it is not.
    async fn connect(&self, peer: PeerId, addresses: &[Multiaddr]) -> Result<(), Fault> {
        let is_connected = || self.node.peers().iter().any(|info| info.id == peer);
        if is_connected() {
            return Ok(());
        }
        for address in addresses {
            self.node.connect(address.clone()).await;
        }
        let connected = async {
            while !is_connected() {
                sleep(Duration::from_millis(50)).await;
            }
        };
        let connected = timeout(self.connect_timeout, connected).await;
        connected.map_err(|_| Fault::Silent)
    }

    async fn look(&self, image: Digest, peer: PeerId, proof: bool) -> Result<Outcome, Fault> {
        let table = self.table(image, peer).await?;
        let mut packs: Vec<&PackRecord> = table.iter().collect();
        fastrand::shuffle(&mut packs);
        packs.truncate(PACKS_ASKED);
        let (mut chunks, mut is_whole) = (0, true);
        for pack in &packs {
            let deadline = Instant::now() + PATIENCE;
            let node = &self.node;
            let have = node.have_pack(peer, pack.digest, pack.index_digest, deadline);
            match have.await? {
                Have::Complete => chunks += u64::from(pack.chunk_count),
                Have::Absent => is_whole = false,
                Have::Partial(map) => {
                    is_whole = false;
                    chunks += (0..pack.chunk_count)
                        .filter(|chunk| map.contains(*chunk))
                        .count() as u64;
                }
            }
        }
        match is_whole {
            true if proof => match packs.first() {
                Some(pack) => self.prove(pack, peer).await,
                None => Ok(Outcome::Whole),
            },
            true => Ok(Outcome::Whole),
            false if chunks > 0 => Ok(Outcome::Part(chunks)),
            false => Ok(Outcome::Nothing),
        }
    }

    /// Asks for a chunk that nobody could know before.
    async fn prove(&self, pack: &PackRecord, peer: PeerId) -> Result<Outcome, Fault> {
        let index = self.index(pack, peer).await?;
        let index = PackIndex::parse(&index, pack).map_err(|_| Fault::Wrong)?;
        let number = fastrand::u32(..pack.chunk_count.max(1));
        let Ok(chunk) = index.chunk(number) else {
            return Err(Fault::Wrong);
        };
        let mut sent = self.node.fetch_chunks(
            peer,
            pack.digest,
            pack.index_digest,
            &[number],
            // What is in the background waits for its turn, be the peer as willing as it may.
            Priority::Readahead,
            &Progress::default(),
        );
        match sent.next().await {
            Some(Ok((_, Some(bytes)))) if sha256(&bytes) == chunk.digest => Ok(Outcome::Whole),
            // It has said that it has it.
            Some(Ok(_)) => Ok(Outcome::Wrong),
            Some(Err(error)) => Err(error.into()),
            None => Err(Fault::Silent),
        }
    }

    /// The packs of an image.
    async fn table(&self, image: Digest, peer: PeerId) -> Result<Arc<[PackRecord]>, Fault> {
        if let Some(known) = lock(&self.tables).get(&image) {
            return Ok(Arc::clone(known));
        }
        let manifest = self.metadata(image, peer).await?;
        let manifest = Manifest::parse(&manifest).map_err(|_| Fault::Missing)?;
        let table = self.metadata(manifest.blob_table, peer).await?;
        let table = BlobTable::parse(&table, manifest.inode_count).map_err(|_| Fault::Missing)?;
        let packs: Arc<[PackRecord]> = table.packs.iter().collect();
        lock(&self.tables).put(image, Arc::clone(&packs));
        Ok(packs)
    }

    async fn index(&self, pack: &PackRecord, peer: PeerId) -> Result<Arc<[u8]>, Fault> {
        if let Some(known) = lock(&self.indexes).get(&pack.index_digest) {
            return Ok(Arc::clone(known));
        }
        let index: Arc<[u8]> = self.metadata(pack.index_digest, peer).await?.into();
        lock(&self.indexes).put(pack.index_digest, Arc::clone(&index));
        Ok(index)
    }

    /// A blob that has this digest: the store's, or the node's.
    async fn metadata(&self, digest: Digest, peer: PeerId) -> Result<Vec<u8>, Fault> {
        let read = move |store: &peerfs_store::Store| store.read_metadata(&digest, METADATA_MAX);
        if let Ok(here) = self.disk.run(read).await {
            return Ok(here);
        }
        let deadline = Instant::now() + PATIENCE;
        let (priority, progress) = (Priority::Background, Progress::default());
        let fetch = self
            .node
            .fetch_blob(peer, digest, METADATA_MAX, priority, deadline, &progress);
        let bytes = fetch.await?;
        match sha256(&bytes) == digest {
            true => Ok(bytes.into()),
            false => Err(Fault::Wrong),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What is locked is valid after every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
