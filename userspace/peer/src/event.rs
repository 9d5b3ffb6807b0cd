// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a node tells its owner unasked.

use std::time::Duration;

use libp2p::PeerId;

/// A change among the connected peers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// The first connection to this peer is there: what waits for a source may try again.
    PeerConnected(PeerId),
    /// The last connection to this peer has ended.
    PeerDisconnected(PeerId),
    /// A packet to this peer and back took so long.
    PeerMeasured(PeerId, Duration),
}
