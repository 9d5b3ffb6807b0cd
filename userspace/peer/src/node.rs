//! The handle of a running node.

use std::sync::Arc;

use bytes::Bytes;
use libp2p::{Multiaddr, PeerId};
use peerfs_format::Digest;
use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::{
    ChunkStream, Error, Event, Have, NodeConfig, PeerInfo, Priority, Provider, RequestError,
};

/// A running node: finds peers, asks them, and serves what its [`Provider`] has. Clones are handles
/// of the same node, which runs until [`Node::shutdown`] or until the last handle is dropped.
///
/// Nothing that a peer sends is verified here: whoever asked checks it against its digest, and
/// calls [`Node::ban`] when it is wrong. Every call is bounded in time and may be cancelled by
/// dropping its future.
#[derive(Clone)]
pub struct Node {
    _inner: Arc<()>,
}

impl Node {
    /// Starts a node: listens, looks for peers, and serves `provider`. Must be called within a
    /// tokio runtime.
    pub async fn start(config: NodeConfig, provider: Arc<dyn Provider>) -> Result<Node, Error> {
        unimplemented!("{config:?} {}", Arc::strong_count(&provider))
    }

    /// The node's id.
    pub fn peer_id(&self) -> PeerId {
        unimplemented!()
    }

    /// The addresses that the node listens on, without its id.
    pub fn listen_addresses(&self) -> Vec<Multiaddr> {
        unimplemented!()
    }

    /// The peers that are connected now.
    pub fn peers(&self) -> Vec<PeerInfo> {
        unimplemented!()
    }

    /// Changes among the connected peers from now on. A receiver that lags behind loses the oldest
    /// ones.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        unimplemented!()
    }

    /// Connects to a peer at this address, with or without `/p2p/<peer id>` at its end, once and
    /// in the background; [`Event::PeerConnected`] tells when it worked.
    pub async fn connect(&self, address: Multiaddr) {
        unimplemented!("{address}")
    }

    /// The peers that have all or a part of a blob or pack, the nearest first: connected ones that
    /// say so, and those that the DHT names if they can be reached. Takes as long as the first
    /// answers take, and 3 seconds at most; the answer is remembered for a short time.
    pub async fn find_providers(&self, digest: Digest) -> Vec<PeerId> {
        unimplemented!("{digest}")
    }

    /// Announces in the DHT that this node has a manifest or a pack (at least some chunks), now and
    /// regularly until [`Node::stop_providing`].
    pub async fn provide(&self, digest: Digest) {
        unimplemented!("{digest}")
    }

    /// Stops announcing; the records at other nodes expire.
    pub async fn stop_providing(&self, digest: Digest) {
        unimplemented!("{digest}")
    }

    /// Asks a peer how much it has of a blob or pack.
    pub async fn have(
        &self,
        peer: PeerId,
        digest: Digest,
        deadline: Instant,
    ) -> Result<Have, RequestError> {
        unimplemented!("{peer} {digest} {deadline:?}")
    }

    /// Fetches a whole blob of at most `maximum` bytes.
    pub async fn fetch_blob(
        &self,
        peer: PeerId,
        digest: Digest,
        maximum: u64,
        priority: Priority,
        deadline: Instant,
    ) -> Result<Bytes, RequestError> {
        unimplemented!("{peer} {digest} {maximum} {priority:?} {deadline:?}")
    }

    /// Fetches chunks of `pack`, which the pack index `index` describes. They are delivered as they
    /// arrive, in any order. Bytes that arrived and were not taken hold up other transfers from the
    /// peer with the same urgency, so take them promptly. Dropping the stream cancels the rest.
    pub fn fetch_chunks(
        &self,
        peer: PeerId,
        pack: Digest,
        index: Digest,
        chunks: &[u32],
        priority: Priority,
    ) -> ChunkStream {
        unimplemented!("{peer} {pack} {index} {chunks:?} {priority:?}")
    }

    /// Disconnects a peer and has nothing to do with it any more: it is neither asked nor served.
    /// Remembered for the life of the process, and beyond if the node has a ban list.
    pub async fn ban(&self, peer: PeerId, reason: &str) {
        unimplemented!("{peer} {reason}")
    }

    /// Ends all connections and tasks, and waits for that, 3 seconds at most. Outstanding requests
    /// fail with [`RequestError::ShuttingDown`] or [`RequestError::Disconnected`].
    pub async fn shutdown(&self) {
        unimplemented!()
    }
}
