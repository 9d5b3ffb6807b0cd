// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Looks for the newest record of a name.

use std::time::{Duration, SystemTime};

use peerfs_names::Name;
use peerfs_peer::{NameBook, Node};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{sleep_until, Instant};

use super::{Interest, NameError, Names};

/// How long a name is looked for of which nothing is known.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a newer record than the one that is known is looked for.
const SETTLE: Duration = Duration::from_millis(300);
/// How often the DHT is asked for what is followed: peers that are connected tell it by themselves.
const DHT_INTERVAL: Duration = Duration::from_secs(120);

impl Names {
    /// Asks connected peers and the DHT for a name: for a few hundred milliseconds if something is known or as soon as it
    /// is, for a few seconds otherwise. Without peers nobody is waited for.
    pub async fn search(&self, name: &Name, node: &Node) {
        let _interest = self.want(name);
        let (topic, mut changes) = (name.topic(), self.changes());
        let has_something = || !self.records(&topic).is_empty();
        let begun = Instant::now();
        let patience = match has_something() {
            true if node.peers().is_empty() => return,
            true => SETTLE,
            false => SEARCH_TIMEOUT,
        };
        let mut deadline = begun + patience;
        let mut found = Some(node.find_name(topic).await);
        loop {
            tokio::select! {
                () = sleep_until(deadline) => return,
                record = next_of(&mut found) => match record {
                    Some(record) => self.offer(record).await,
                    None => found = None,
                },
                changed = changes.recv() => match changed {
                    Ok(other) if other != topic => (),
                    Err(RecvError::Closed) => return,
                    _ => deadline = deadline.min(Instant::now() + SETTLE),
                },
            }
        }
    }

    /// Follows a name, at all peers and in the DHT, until what is returned is dropped.
    pub fn follow(&self, name: &Name, node: &Node) -> Following {
        Following {
            _interest: self.want(name),
            changes: self.changes(),
            names: self.clone(),
            name: name.clone(),
            node: node.clone(),
            ask_dht_at: Instant::now(),
        }
    }
}

/// The next record, if any are looked for.
async fn next_of<T>(found: &mut Option<tokio::sync::mpsc::Receiver<T>>) -> Option<T> {
    match found {
        Some(found) => found.recv().await,
        None => std::future::pending().await,
    }
}

/// A name that is followed.
pub struct Following {
    _interest: Interest,
    changes: tokio::sync::broadcast::Receiver<peerfs_format::Digest>,
    names: Names,
    name: Name,
    node: Node,
    ask_dht_at: Instant,
}

impl Following {
    /// What is known of it now.
    ///
    /// # Errors
    /// [`NameError::Damaged`].
    pub fn status(&self) -> Result<peerfs_control::NameStatus, NameError> {
        self.names.status(&self.name)
    }

    /// Waits until something else may be known of it, or its record expires; a minute at most. May be dropped.
    pub async fn changed(&mut self) {
        let topic = self.name.topic();
        let until = Instant::now() + self.lasts();
        let mut found = None;
        loop {
            let now = Instant::now();
            if now >= self.ask_dht_at {
                self.ask_dht_at = now + DHT_INTERVAL;
                found = Some(self.node.find_name(topic).await);
            }
            tokio::select! {
                () = sleep_until(until) => return,
                record = next_of(&mut found) => match record {
                    Some(record) => self.names.offer(record).await,
                    None => found = None,
                },
                changed = self.changes.recv() => match changed {
                    Ok(other) if other != topic => (),
                    // What was missed is seen now.
                    _ => return,
                },
            }
        }
    }

    /// How long what is known now lasts at most.
    fn lasts(&self) -> Duration {
        const MINUTE: Duration = Duration::from_secs(60);
        let known = self.names.known(&self.name).ok();
        let expiry = known.and_then(|known| Some(known.newest()?.record.record().expiry()));
        let left = expiry.and_then(|expiry| expiry.duration_since(SystemTime::now()).ok());
        // Not before it has expired.
        left.map_or(MINUTE, |left| {
            (left + Duration::from_millis(10)).min(MINUTE)
        })
    }
}
