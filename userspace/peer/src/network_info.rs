// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How a node is connected.

use std::net::SocketAddr;

use crate::Reachability;

/// How a node is connected, besides to whom.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NetworkInfo {
    /// The peers that multicast DNS has found on the link; None if it is switched off.
    pub neighbours: Option<usize>,
    /// The nodes of the DHT's routing table.
    pub dht_nodes: usize,
    /// Messages of the DHT since the node started, in both directions.
    pub dht_messages: u64,
    /// How others reach it; None if that is not looked at, as on a local network.
    pub reachability: Option<Reachability>,
    /// The bootstrap peers that were configured.
    pub bootstrap: usize,
    /// Those of them that are connected.
    pub bootstrap_connected: usize,
    /// Where others are told that they reach it, without a relay.
    pub told: Vec<SocketAddr>,
}
