// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is known of a connected peer.

use std::time::Duration;

use libp2p::{Multiaddr, PeerId};

/// A connected peer.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// Its id.
    pub id: PeerId,
    /// Its address on the latest connection.
    pub address: Multiaddr,
    /// The round-trip time, once it was measured.
    pub rtt: Option<Duration>,
    /// Bytes of blobs and chunks that it sent since it connected.
    pub bytes_received: u64,
    /// Bytes of blobs and chunks that it was sent since it connected.
    pub bytes_sent: u64,
}
