// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Records of names among connected peers: who follows a name at a peer is sent its newest record, at once and whenever
//! there is another one.

mod client;
mod server;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use libp2p::StreamProtocol;
use peerfs_format::Digest;
use peerfs_names::SignedRecord;
use tokio::sync::{broadcast, watch};

pub(crate) use client::{Follower, PEERS_MAX};
pub(crate) use server::NameServer;

/// The protocol of the streams.
pub(crate) const NAMES_PROTOCOL: StreamProtocol = StreamProtocol::new("/peerfs/names/1");

/// What the owner of a node knows of names, by their topics.
#[async_trait]
pub trait NameBook: Send + Sync {
    /// The newest record, and the other one for its place if the name is forked; none if nothing is known.
    fn records(&self, topic: &Digest) -> Vec<SignedRecord>;

    /// Takes a record that a peer has sent. Its signature holds; whether it is new is not known.
    async fn offer(&self, record: SignedRecord);

    /// The topics of which something new is known, as that happens.
    fn changes(&self) -> broadcast::Receiver<Digest>;

    /// The topics that are to be followed at all connected peers.
    fn wanted(&self) -> watch::Receiver<Arc<BTreeSet<Digest>>>;
}
