// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Nodes on the loopback interface, and stores in memory behind them.

#![allow(dead_code)] // The benchmark uses a part of it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use libp2p::multiaddr::Protocol;
use libp2p::Multiaddr;
use peerfs_exchange::frame::Encoding;
use peerfs_exchange::{ChunkMap, Have, Priority, Progress};
use peerfs_format::Digest;
use peerfs_peer::{
    BlobPiece, ChunkStream, Event, Identity, Node, NodeConfig, PeerId, Provider, Work,
};
use tokio::time::{timeout, Instant};

use crate::relay::{self, Line};

/// A store in memory.
#[derive(Default)]
pub struct Store {
    pub blobs: HashMap<Digest, Bytes>,
    /// What is sent for blobs as zstd frames, to those who take them.
    pub zstd: HashMap<Digest, Bytes>,
    /// Packs: how many chunks they have, and those that are there.
    pub packs: HashMap<Digest, (u32, HashMap<u32, Bytes>)>,
    /// How long reading a chunk takes.
    pub delay: Duration,
    /// Chunks that come from elsewhere when somebody asks for that, after so long each; some of them never do.
    pub through: Mutex<HashMap<u32, Bytes>>,
    pub through_takes: Duration,
    /// Chunks that were read.
    pub chunks_read: AtomicUsize,
    /// For a store that reads and hashes a blob whenever somebody begins to fetch it: those bytes.
    pub hashed: Option<Arc<AtomicU64>>,
}

#[async_trait]
impl Provider for Store {
    async fn blob_length(&self, blob: &Digest, _: &Work) -> Option<u64> {
        self.blobs.get(blob).map(|blob| blob.len() as u64)
    }

    fn blob_max(&self) -> u64 {
        u64::MAX
    }

    async fn read_blob(
        &self,
        digest: &Digest,
        zstd: bool,
        offset: u64,
        work: &Work,
    ) -> Option<BlobPiece> {
        let blob = self.blobs.get(digest)?;
        if let Some(hashed) = self.hashed.as_ref().filter(|_| offset == 0) {
            if !work.charge(blob.len() as u64) {
                return None;
            }
            hashed.fetch_add(blob.len() as u64, Ordering::Relaxed);
        }
        match self.zstd.get(digest).filter(|_| zstd) {
            Some(frame) => BlobPiece::of(Encoding::Zstd, frame, offset),
            None => BlobPiece::of(Encoding::Plain, blob, offset),
        }
    }

    async fn have(&self, digest: &Digest, _: &Work) -> Have {
        match self.packs.get(digest) {
            Some((count, chunks)) if chunks.len() == *count as usize => Have::Complete,
            Some((count, chunks)) => {
                let mut bits = vec![0u8; count.div_ceil(8) as usize];
                for number in chunks.keys() {
                    bits[*number as usize / 8] |= 1 << (number % 8);
                }
                Have::Partial(ChunkMap::new(*count, bits.into()).unwrap())
            }
            None if self.blobs.contains_key(digest) => Have::Complete,
            None => Have::Absent,
        }
    }

    async fn fetch_through(&self, _: &Digest, _: &Digest, number: u32, _: Priority) {
        if number == NEVER {
            std::future::pending().await
        }
        tokio::time::sleep(self.through_takes).await;
        let bytes = chunk(number, 1000);
        self.through.lock().unwrap().insert(number, bytes);
    }

    async fn read_chunk(
        &self,
        pack: &Digest,
        index: &Digest,
        number: u32,
        _: &Work,
    ) -> Option<Bytes> {
        if let Some(came) = self.through.lock().unwrap().get(&number) {
            return Some(came.clone());
        }
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        self.chunks_read.fetch_add(1, Ordering::Relaxed);
        let (_, chunks) = self.packs.get(pack)?;
        (*index == INDEX).then(|| chunks.get(&number).cloned())?
    }
}

/// A chunk that is fetched for ever.
pub const NEVER: u32 = 999;
/// The index of every pack.
pub const INDEX: Digest = Digest([0xee; 32]);
/// A pack.
pub const PACK: Digest = Digest([0xaa; 32]);

/// A digest with this byte in all places.
pub fn digest(byte: u8) -> Digest {
    Digest([byte; 32])
}

/// The bytes of a chunk: its number, again and again.
pub fn chunk(number: u32, length: usize) -> Bytes {
    number
        .to_le_bytes()
        .iter()
        .copied()
        .cycle()
        .take(length)
        .collect()
}

/// A store with a pack of `count` chunks of `length` bytes, all of them there.
pub fn store_with_pack(count: u32, length: usize) -> Store {
    let chunks = (0..count).map(|number| (number, chunk(number, length)));
    Store {
        packs: HashMap::from([(PACK, (count, chunks.collect()))]),
        ..Store::default()
    }
}

/// The settings of a node on the loopback interface.
pub fn config() -> NodeConfig {
    let mut config = NodeConfig::new(Identity::generate());
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    config.mdns = false;
    config
}

/// The settings of a node on the loopback interface that stays connected to another one.
pub fn config_with_bootstrap(bootstrap: &Node) -> NodeConfig {
    let mut config = config();
    config.bootstrap = bootstrap.listen_addresses();
    config
}

/// Fetches chunks of the pack.
pub fn fetch(client: &Node, peer: PeerId, chunks: &[u32], priority: Priority) -> ChunkStream {
    client.fetch_chunks(peer, PACK, INDEX, chunks, priority, &Progress::default())
}

/// Starts a node.
pub async fn start(config: NodeConfig, store: Store) -> Node {
    Node::start(config, Arc::new(store)).await.unwrap()
}

/// The peers that have something of a blob or pack.
pub async fn providers(node: &Node, digest: Digest) -> Vec<PeerId> {
    let found = node.find_providers(digest, None, HashSet::new());
    found.map(|(peer, _)| peer).collect().await
}

/// Waits until a node is connected to a peer, 10 seconds at most.
pub async fn connected(node: &Node, peer: PeerId) {
    let mut events = node.subscribe();
    let wait = async {
        while !node.peers().iter().any(|info| info.id == peer) {
            let _ = events.recv().await;
        }
    };
    timeout(Duration::from_secs(10), wait)
        .await
        .expect("no connection");
}

/// Waits until a node is not connected to a peer, 10 seconds at most.
pub async fn disconnected(node: &Node, peer: PeerId) {
    let mut events = node.subscribe();
    let wait = async {
        while node.peers().iter().any(|info| info.id == peer) {
            assert_ne!(events.recv().await, Ok(Event::PeerConnected(peer)));
        }
    };
    timeout(Duration::from_secs(10), wait)
        .await
        .expect("still connected");
}

/// A server with this store and a client that is connected to it.
pub async fn pair(store: Store) -> (Node, Node) {
    let server = start(config(), store).await;
    let client = start(config_with_bootstrap(&server), Store::default()).await;
    connected(&client, server.peer_id()).await;
    (server, client)
}

/// Has a node fetch a chunk of a [`store_with_pack`] of chunks of 1,000 bytes from another one.
pub async fn exchange(server: &Node, client: &Node) {
    let mut chunks = fetch(client, server.peer_id(), &[7], Priority::Demand);
    let fetched = timeout(Duration::from_secs(10), chunks.next()).await;
    assert_eq!(
        fetched.unwrap().unwrap().unwrap(),
        (7, Some(chunk(7, 1000)))
    );
}

/// The address of a relay before this one, which delays in both directions.
pub fn delayed(address: &Multiaddr, delay: Duration) -> Multiaddr {
    over(address, Line { delay, rate: None })
}

/// The address of a relay before this one, over such a line.
pub fn over(address: &Multiaddr, line: Line) -> Multiaddr {
    address
        .iter()
        .map(|part| match part {
            Protocol::Tcp(port) => Protocol::Tcp(relay::tcp(port, line)),
            other => other,
        })
        .collect()
}

/// Ten seconds from now.
pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}
