// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The peers that are connected.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use libp2p::{Multiaddr, PeerId};

use peerfs_exchange::frame::PeerRecord;

use crate::followers::record;
use crate::PeerInfo;

/// The connected peers, shared by all parts of a node.
#[derive(Debug, Default)]
pub(crate) struct PeerTable {
    peers: Mutex<HashMap<PeerId, Entry>>,
}

#[derive(Debug)]
struct Entry {
    info: PeerInfo,
    connections: u32,
    /// The streams on which somebody waits for something.
    waiting: u32,
    /// When bytes of blobs or chunks last came or went.
    useful: Option<Instant>,
    /// Where it listens, as it says.
    listens_at: Vec<Multiaddr>,
}

/// How much a peer is in use.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Activity {
    /// Whether this node or the peer waits for an answer of the other.
    pub(crate) waiting: bool,
    /// When bytes of blobs or chunks last came or went.
    pub(crate) useful: Option<Instant>,
}

impl PeerTable {
    fn lock(&self) -> MutexGuard<'_, HashMap<PeerId, Entry>> {
        // Nothing that is done under the lock leaves the table half changed.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a new connection; true if it is the peer's first one.
    pub(crate) fn connected(&self, id: PeerId, address: Multiaddr) -> bool {
        let mut peers = self.lock();
        let entry = peers.entry(id).or_insert_with(|| Entry {
            info: PeerInfo {
                id,
                address: address.clone(),
                rtt: None,
                bytes_received: 0,
                bytes_sent: 0,
            },
            connections: 0,
            waiting: 0,
            useful: None,
            listens_at: Vec::new(),
        });
        entry.info.address = address;
        entry.connections = entry.connections.saturating_add(1);
        entry.connections == 1
    }

    /// Counts a connection that ended; true if it was the peer's last one.
    pub(crate) fn disconnected(&self, id: PeerId) -> bool {
        let mut peers = self.lock();
        match peers.get_mut(&id) {
            Some(entry) if entry.connections > 1 => {
                entry.connections -= 1;
                false
            }
            Some(_) => peers.remove(&id).is_some(),
            None => false,
        }
    }

    /// A peer said where it listens.
    pub(crate) fn introduced(&self, id: PeerId, listens_at: Vec<Multiaddr>) {
        if let Some(entry) = self.lock().get_mut(&id) {
            entry.listens_at = listens_at;
        }
    }

    /// What `asker` is told of these peers, as far as they are connected.
    pub(crate) fn records(&self, asker: PeerId, peers: &[PeerId]) -> Vec<PeerRecord> {
        let table = self.lock();
        let Some(to) = table.get(&asker) else {
            return Vec::new();
        };
        let others = peers.iter().filter(|peer| **peer != asker);
        others
            .filter_map(|peer| record(*peer, &table.get(peer)?.listens_at, &to.info.address))
            .collect()
    }

    pub(crate) fn measured(&self, id: PeerId, rtt: Duration) {
        if let Some(entry) = self.lock().get_mut(&id) {
            entry.info.rtt = Some(rtt);
        }
    }

    pub(crate) fn received(&self, id: PeerId, bytes: u32) {
        self.carried(id, bytes, |info| &mut info.bytes_received);
    }

    pub(crate) fn sent(&self, id: PeerId, bytes: u32) {
        self.carried(id, bytes, |info| &mut info.bytes_sent);
    }

    fn carried(&self, id: PeerId, bytes: u32, counter: fn(&mut PeerInfo) -> &mut u64) {
        if bytes == 0 {
            return;
        }
        if let Some(entry) = self.lock().get_mut(&id) {
            let counter = counter(&mut entry.info);
            *counter = counter.saturating_add(u64::from(bytes));
            entry.useful = Some(Instant::now());
        }
    }

    /// How much a peer is in use; not at all, if it is not connected.
    pub(crate) fn activity(&self, id: PeerId) -> Activity {
        self.lock()
            .get(&id)
            .map_or(Activity::default(), |entry| Activity {
                waiting: entry.waiting > 0,
                useful: entry.useful,
            })
    }

    /// The connected peers, the nearest first; those that were not measured yet last.
    pub(crate) fn infos(&self) -> Vec<PeerInfo> {
        let mut infos: Vec<_> = self
            .lock()
            .values()
            .map(|entry| entry.info.clone())
            .collect();
        infos.sort_by_key(|info| (info.rtt.unwrap_or(Duration::MAX), info.id));
        infos
    }

    pub(crate) fn is_connected(&self, id: PeerId) -> bool {
        self.lock().contains_key(&id)
    }
}

/// Tells the table whether somebody waits for something on a stream.
pub(crate) struct Waiting {
    peers: Arc<PeerTable>,
    id: PeerId,
    waiting: bool,
}

impl Waiting {
    /// On a new stream nobody does.
    pub(crate) fn new(peers: Arc<PeerTable>, id: PeerId) -> Self {
        Waiting {
            peers,
            id,
            waiting: false,
        }
    }

    pub(crate) fn set(&mut self, waiting: bool) {
        if self.waiting == waiting {
            return;
        }
        self.waiting = waiting;
        if let Some(entry) = self.peers.lock().get_mut(&self.id) {
            // A peer that was gone meanwhile was counted anew.
            entry.waiting = match waiting {
                true => entry.waiting.saturating_add(1),
                false => entry.waiting.saturating_sub(1),
            };
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_in_use_while_a_stream_waits() {
        let (table, id) = (Arc::new(PeerTable::default()), PeerId::random());
        table.connected(id, Multiaddr::empty());
        let mut stream = Waiting::new(table.clone(), id);
        assert_eq!(table.activity(id), Activity::default());
        stream.set(true);
        stream.set(true);
        assert!(table.activity(id).waiting);
        drop(stream);
        table.sent(id, 0);
        assert_eq!(table.activity(id), Activity::default());
        table.sent(id, 1);
        assert!(table.activity(id).useful.is_some());
    }

    #[test]
    fn a_peer_is_there_from_its_first_to_its_last_connection() {
        let (table, id) = (PeerTable::default(), PeerId::random());
        assert!(table.connected(id, Multiaddr::empty()));
        assert!(!table.connected(id, Multiaddr::empty()));
        table.received(id, 5);
        assert!(!table.disconnected(id));
        assert_eq!(
            table.infos().first().map(|info| info.bytes_received),
            Some(5)
        );
        assert!(table.disconnected(id));
        assert!(!table.disconnected(id));
        assert!(table.infos().is_empty());
    }
}
