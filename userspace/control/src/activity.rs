// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a daemon is busy with: all that can be told without a look at its store's disk.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{PeerStatus, PullStatus};

/// What a daemon is busy with. Numbers that only grow are counted since it started.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Activity {
    /// The daemon's version.
    pub version: String,
    /// The hash of the node's public key.
    pub node_id: String,
    /// Milliseconds since the daemon started.
    pub uptime_ms: u64,
    /// The kernel's requests.
    pub requests: RequestStatus,
    /// Bytes fetched, by the name of the source.
    pub bytes_by_source: BTreeMap<String, u64>,
    /// Bytes sent to peers.
    pub bytes_sent: u64,
    /// What was given out by HTTP.
    pub served_by_http: HttpStatus,
    /// How often a source sent wrong bytes.
    pub lying_sources: u64,
    /// The nodes that it is connected to, the nearest first.
    pub peers: Vec<PeerStatus>,
    /// The images of which all is being brought into the store.
    pub pulls: Vec<PullStatus>,
    /// How it is connected.
    pub network: NetworkStatus,
    /// Images that are kept for others, and that others keep.
    pub replicas: ReplicaCounts,
    /// The daemon's open files, and how many it may have.
    pub open_files: u64,
    /// See [`Activity::open_files`].
    pub open_files_max: u64,
}

/// What a daemon has given out by HTTP, as a copy of its store.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct HttpStatus {
    /// Requests that were answered with what they asked for.
    pub answered: u64,
    /// Those for what was not there.
    pub missing: u64,
    /// Those that were refused for another reason.
    pub refused: u64,
    /// Bytes of blobs and packs.
    pub bytes: u64,
}

/// How many images are kept for others, and what others keep.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct ReplicaCounts {
    /// Nodes that are known to keep images for others.
    pub willing_nodes: u64,
    /// Images that are kept here for others.
    pub kept: u64,
    /// Bytes of them, and of those that are being brought.
    pub bytes: u64,
    /// Copies that are wanted of images that this node looks after, and not proven.
    pub missing: u64,
}

/// The requests of the kernel.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct RequestStatus {
    /// Those that are not answered yet.
    pub waiting: u64,
    /// Those that were answered with what they asked for.
    pub filled: u64,
    /// Those that were answered with an error.
    pub failed: u64,
    /// Those for chunks.
    pub chunks: u64,
    /// Those of them for which all was in the store already.
    pub chunks_here: u64,
}

/// How others reach a node on the Internet.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reachability {
    /// Nobody has tried yet.
    #[default]
    Unknown,
    /// They can connect to it.
    Direct,
    /// Through a relay.
    Relayed,
    /// Not at all.
    Not,
}

impl fmt::Display for Reachability {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Reachability::Unknown => "no peer has tried yet whether it reaches this node",
            Reachability::Direct => "others reach this node",
            Reachability::Relayed => "others reach this node through a relay",
            Reachability::Not => "others do not reach this node",
        })
    }
}

/// How a daemon is connected.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct NetworkStatus {
    /// Where it listens, as multiaddresses.
    pub listen_addresses: Vec<String>,
    /// The fingerprint of its swarm's key; none if the swarm is not private.
    pub private_swarm: Option<String>,
    /// How others reach it; none on a local network, where that is not looked at.
    pub reachability: Option<Reachability>,
    /// The peers that multicast DNS has found; none if it is switched off.
    pub neighbours: Option<u64>,
    /// The nodes of its routing table of the DHT.
    pub dht_nodes: u64,
    /// Messages of the DHT, in both directions.
    pub dht_messages: u64,
    /// The bootstrap peers of its configuration.
    pub bootstrap: u64,
    /// Those of them that it is connected to.
    pub bootstrap_connected: u64,
    /// The peers that it has banned.
    pub banned: u64,
}
