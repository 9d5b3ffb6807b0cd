// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Looks for the newest record of a name.

use std::time::Duration;

use futures::stream::{self, StreamExt};
use peerfs_names::Name;
use peerfs_peer::{NameBook, Node};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{sleep_until, Instant};

use super::{Interest, NameError, Names};

/// How long a name is looked for of which nothing is known.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a newer record than the one that is known is looked for.
const SETTLE: Duration = Duration::from_millis(300);
/// How often the DHT and registries are asked for what is followed: peers that are connected tell it by themselves.
const ASK_INTERVAL: Duration = Duration::from_secs(120);

impl Names {
    /// Asks connected peers, the DHT and registries for a name: for a few hundred milliseconds if something is known or as soon
    /// as it is and the registries have answered, for a few seconds otherwise. Without peers and registries nobody is waited
    /// for.
    pub async fn search(&self, name: &Name, node: &Node) {
        let _interest = self.want(name);
        let (topic, mut changes) = (name.topic(), self.changes());
        let has_something = || !self.records(&topic).is_empty();
        let begun = Instant::now();
        let mut is_asking = !self.0.registries.is_empty();
        let patience = match has_something() {
            true if node.peers().is_empty() && !is_asking => return,
            true if !is_asking => SETTLE,
            _ => SEARCH_TIMEOUT,
        };
        let mut deadline = begun + patience;
        let mut found = Some(node.find_name(topic).await);
        let mut asked = self.0.registries.find(topic);
        loop {
            tokio::select! {
                () = sleep_until(deadline) => return,
                answer = asked.next(), if is_asking => match answer {
                    Some(record) => self.offer(record).await,
                    None => {
                        is_asking = false;
                        if has_something() {
                            deadline = deadline.min(Instant::now() + SETTLE);
                        }
                    }
                },
                record = next_of(&mut found) => match record {
                    Some(record) => self.offer(record).await,
                    None => found = None,
                },
                changed = changes.recv() => match changed {
                    Ok(other) if other != topic => (),
                    Err(RecvError::Closed) => return,
                    _ if is_asking => (),
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
            ask_at: Instant::now(),
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
    /// When the DHT and registries are asked again.
    ask_at: Instant,
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
        let mut asked = stream::empty().boxed();
        loop {
            let now = Instant::now();
            if now >= self.ask_at {
                self.ask_at = now + ASK_INTERVAL;
                found = Some(self.node.find_name(topic).await);
                asked = self.names.0.registries.find(topic);
            }
            tokio::select! {
                () = sleep_until(until) => return,
                Some(record) = asked.next() => self.names.offer(record).await,
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
        let left = expiry.and_then(|expiry| expiry.duration_since(self.names.now()).ok());
        // Not before it has expired.
        left.map_or(MINUTE, |left| {
            (left + Duration::from_millis(10)).min(MINUTE)
        })
    }
}
