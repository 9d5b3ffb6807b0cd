// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a node tells its owner unasked.

use libp2p::PeerId;

/// A change among the connected peers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// The first connection to this peer is there: what waits for a source may try again.
    PeerConnected(PeerId),
    /// The last connection to this peer has ended.
    PeerDisconnected(PeerId),
}
