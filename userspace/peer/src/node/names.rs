// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a node does for names.

use std::sync::Arc;

use peerfs_format::Digest;
use peerfs_names::SignedRecord;
use tokio::sync::mpsc;

use super::Node;
use crate::driver::Command;
use crate::names::{Follower, NameBook};

/// The records of a name that a lookup in the DHT gives at most.
const FOUND_MAX: usize = 32;

impl Node {
    /// Tells peers what this book knows of names, and follows at them what it wants, from now on. The first book counts.
    pub fn carry_names(&self, book: Arc<dyn NameBook>) {
        let inner = &self.inner;
        if inner.names.open(Arc::clone(&book)) {
            let follower = Follower {
                control: inner.control.clone(),
                peers: inner.peers.clone(),
                events: inner.events.subscribe(),
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
