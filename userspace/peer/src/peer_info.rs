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
    /// Who made the latest connection.
    pub direction: Direction,
    /// How near it is.
    pub class: PeerClass,
    /// How long it has been connected.
    pub connected: Duration,
    /// The round-trip time, once it was measured.
    pub rtt: Option<Duration>,
    /// Bytes of blobs and chunks that it sent since it connected.
    pub bytes_received: u64,
    /// Bytes of blobs and chunks that it was sent since it connected.
    pub bytes_sent: u64,
    /// Bytes a second of those, over the last seconds.
    pub receive_rate: u64,
    /// Bytes a second of those, over the last seconds.
    pub send_rate: u64,
}

/// Who made a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// The peer.
    Inbound,
    /// This node.
    Outbound,
}

/// How near a peer is: the round-trip time decides, not the address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PeerClass {
    /// Not measured yet.
    Unknown,
    /// On the same link, or as near: below [`PeerClass::LINK_RTT`].
    Link,
    /// Farther away.
    Wide,
}

impl PeerClass {
    /// The round-trip time from which on a peer is not near.
    pub const LINK_RTT: Duration = Duration::from_millis(3);

    /// That of a peer with this shortest round-trip time so far.
    pub(crate) fn of(shortest: Option<Duration>) -> Self {
        match shortest {
            None => PeerClass::Unknown,
            Some(rtt) if rtt < PeerClass::LINK_RTT => PeerClass::Link,
            Some(_) => PeerClass::Wide,
        }
    }
}
