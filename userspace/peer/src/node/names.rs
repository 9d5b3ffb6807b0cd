// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a node does for names.

use std::sync::Arc;

use libp2p::StreamProtocol;
use peerfs_format::Digest;
use peerfs_names::SignedRecord;
use tokio::sync::mpsc;

use super::Node;
use crate::at_peers::AtPeers;
use crate::driver::Command;
use crate::names::{self, Follower, NameBook, NAMES_PROTOCOL};

/// The records of a name that a lookup in the DHT gives at most.
const FOUND_MAX: usize = 32;

impl Node {
    /// Streams of a protocol with connected peers, so many at a time at most.
    pub(super) fn at_peers(&self, protocol: StreamProtocol, most: usize) -> AtPeers {
        let inner = &self.inner;
        let (control, peers) = (inner.control.clone(), inner.peers.clone());
        AtPeers::new(control, protocol, most, peers, inner.events.subscribe())
    }

    /// Tells peers what this book knows of names, and follows at them what it wants, from now on. The first book counts.
    pub fn carry_names(&self, book: Arc<dyn NameBook>) {
        let inner = &self.inner;
        if inner.names.open(Arc::clone(&book)) {
            let follower = Follower {
                at: self.at_peers(NAMES_PROTOCOL, names::PEERS_MAX),
                book,
            };
            self.spawn(follower.run());
        }
    }

    /// Puts a record of a name into the DHT, where it stays for a day and a half.
    pub async fn put_name(&self, record: SignedRecord) {
        self.command(Command::PutName(Box::new(record))).await;
    }

    /// The records of a name that the DHT has, as they are found, closed when there are no more.
    pub async fn find_name(&self, topic: Digest) -> mpsc::Receiver<SignedRecord> {
        let (found, finding) = mpsc::channel(FOUND_MAX);
        self.command(Command::FindName { topic, found }).await;
        finding
    }
}
