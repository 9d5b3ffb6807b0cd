// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The peers that are connected.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};

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

    pub(crate) fn measured(&self, id: PeerId, rtt: Duration) {
        if let Some(entry) = self.lock().get_mut(&id) {
            entry.info.rtt = Some(rtt);
        }
    }

    pub(crate) fn received(&self, id: PeerId, bytes: u32) {
        if let Some(entry) = self.lock().get_mut(&id) {
            let info = &mut entry.info;
            info.bytes_received = info.bytes_received.saturating_add(u64::from(bytes));
        }
    }

    pub(crate) fn sent(&self, id: PeerId, bytes: u32) {
        if let Some(entry) = self.lock().get_mut(&id) {
            let info = &mut entry.info;
            info.bytes_sent = info.bytes_sent.saturating_add(u64::from(bytes));
        }
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

#[cfg(test)]
mod tests {
    use super::*;

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
