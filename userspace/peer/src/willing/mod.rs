// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Announcements of willing nodes among connected peers: each is told all that the other one knows, at once and whenever there
//! is another one.

mod client;
mod server;
#[cfg(test)]
mod tests;
mod wire;

use std::sync::Arc;

use libp2p::identity::{ed25519, PublicKey};
use libp2p::{PeerId, StreamProtocol};
use peerfs_replica::willing::{NodeKey, SignedWilling};
use tokio::sync::broadcast;

pub(crate) use client::{Listening, PEERS_MAX};
pub(crate) use server::WillingServer;

/// The protocol of the streams.
pub(crate) const WILLING_PROTOCOL: StreamProtocol = StreamProtocol::new("/peerfs/willing/1");

/// What the owner of a node knows of willing nodes.
pub trait WillingBook: Send + Sync {
    /// The announcements that hold.
    fn announcements(&self) -> Vec<SignedWilling>;

    /// Takes an announcement that a peer has sent. Its signature holds; whether it is new is not known.
    fn offer(&self, announcement: SignedWilling);

    /// The announcements that are new, as they come.
    fn changes(&self) -> broadcast::Receiver<Arc<SignedWilling>>;
}

/// The id of the node with this key; none if it is no key.
pub fn peer_id_of(node: &NodeKey) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(&node.0).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}
