// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The peers that are connected.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use libp2p::{Multiaddr, PeerId};

use peerfs_exchange::frame::PeerRecord;

use crate::followers::record;
use crate::network::Network;
use crate::rate::Rate;
use crate::{Direction, PeerClass, PeerInfo};

/// The connected peers, shared by all parts of a node.
#[derive(Debug, Default)]
pub(crate) struct PeerTable {
    peers: Mutex<HashMap<PeerId, Entry>>,
    /// Bytes of blobs and chunks that were sent to all peers, those that are gone too.
    sent: AtomicU64,
}

#[derive(Debug)]
struct Entry {
    address: Multiaddr,
    direction: Direction,
    connections: u32,
    since: Instant,
    rtt: Option<Duration>,
    shortest_rtt: Option<Duration>,
    received: Carried,
    sent: Carried,
    /// The streams on which somebody waits for something.
    waiting: u32,
    /// When bytes of blobs or chunks last came or went.
    useful: Option<Instant>,
    /// Where it listens, as it says.
    listens_at: Vec<Multiaddr>,
}

/// Bytes of blobs and chunks in one direction.
#[derive(Debug)]
struct Carried {
    bytes: u64,
    rate: Rate,
}

impl Carried {
    fn new(now: Instant) -> Self {
        Carried {
            bytes: 0,
            rate: Rate::new(now),
        }
    }
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
    pub(crate) fn connected(&self, id: PeerId, address: Multiaddr, direction: Direction) -> bool {
        let now = Instant::now();
        let mut peers = self.lock();
        let entry = peers.entry(id).or_insert_with(|| Entry {
            address: Multiaddr::empty(),
            direction,
            connections: 0,
            since: now,
            rtt: None,
            shortest_rtt: None,
            received: Carried::new(now),
            sent: Carried::new(now),
            waiting: 0,
            useful: None,
            listens_at: Vec::new(),
        });
        entry.address = address;
        entry.direction = direction;
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

    /// Its address on the latest connection, if it is connected.
    pub(crate) fn address(&self, id: PeerId) -> Option<Multiaddr> {
        self.lock().get(&id).map(|entry| entry.address.clone())
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
            .filter_map(|peer| record(*peer, &table.get(peer)?.listens_at, &to.address))
            .collect()
    }

    pub(crate) fn measured(&self, id: PeerId, rtt: Duration) {
        if let Some(entry) = self.lock().get_mut(&id) {
            entry.rtt = Some(rtt);
            let shortest = entry.shortest_rtt.map_or(rtt, |shortest| shortest.min(rtt));
            entry.shortest_rtt = Some(shortest);
        }
    }

    pub(crate) fn received(&self, id: PeerId, bytes: u32) {
        self.carried(id, bytes, |entry| &mut entry.received);
    }

    pub(crate) fn sent(&self, id: PeerId, bytes: u32) {
        self.sent.fetch_add(u64::from(bytes), Ordering::Relaxed);
        self.carried(id, bytes, |entry| &mut entry.sent);
    }

    /// Bytes of blobs and chunks that were sent to all peers, those that are gone too.
    pub(crate) fn bytes_sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn carried(&self, id: PeerId, bytes: u32, which: fn(&mut Entry) -> &mut Carried) {
        if bytes == 0 {
            return;
        }
        if let Some(entry) = self.lock().get_mut(&id) {
            let now = Instant::now();
            let carried = which(entry);
            carried.bytes = carried.bytes.saturating_add(u64::from(bytes));
            carried.rate.add(bytes, now);
            entry.useful = Some(now);
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
        let now = Instant::now();
        let peers = self.lock();
        let mut infos: Vec<_> = peers
            .iter()
            .map(|(id, entry)| PeerInfo {
                id: *id,
                address: entry.address.clone(),
                direction: entry.direction,
                class: PeerClass::of(entry.shortest_rtt),
                connected: now.saturating_duration_since(entry.since),
                rtt: entry.rtt,
                bytes_received: entry.received.bytes,
                bytes_sent: entry.sent.bytes,
                receive_rate: entry.received.rate.per_second(now),
                send_rate: entry.sent.rate.per_second(now),
            })
            .collect();
        drop(peers);
        infos.sort_by_key(|info| (info.rtt.unwrap_or(Duration::MAX), info.id));
        infos
    }

    /// Whether a peer is near, or its address is one of a local network: who is there is not just anybody.
    pub(crate) fn is_neighbour(&self, id: PeerId) -> bool {
        let entries = self.lock();
        entries.get(&id).is_some_and(|entry| {
            let is_near = PeerClass::of(entry.shortest_rtt) == PeerClass::Link;
            is_near || Network::outside(&entry.address).is_none()
        })
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
        table.connected(id, Multiaddr::empty(), Direction::Inbound);
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
        table.measured(id, Duration::from_millis(1));
        table.measured(id, Duration::from_millis(50));
        let info = table.infos().pop().unwrap();
        assert_eq!((info.class, info.bytes_sent), (PeerClass::Link, 1));
        assert!(table.disconnected(id) && table.bytes_sent() == 1);
    }

    #[test]
    fn a_peer_is_there_from_its_first_to_its_last_connection() {
        let (table, id) = (PeerTable::default(), PeerId::random());
        assert!(table.connected(id, Multiaddr::empty(), Direction::Inbound));
        assert!(!table.connected(id, Multiaddr::empty(), Direction::Inbound));
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
