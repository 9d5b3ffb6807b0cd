// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The nodes that a daemon is connected to, and those that it is not to be.

use serde::{Deserialize, Serialize};

/// The nodes that a daemon is connected to, and those that it has banned.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Peers {
    /// Those that it is connected to, the nearest first.
    pub peers: Vec<PeerStatus>,
    /// Those that are banned, the one whose ban ends first before the others.
    pub banned: Vec<BanStatus>,
}

/// A node that the daemon is connected to.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct PeerStatus {
    /// The hash of its public key.
    pub id: String,
    /// Where it was reached, as a multiaddress.
    pub address: String,
    /// Who made the connection.
    #[serde(default)]
    pub direction: PeerDirection,
    /// How near it is.
    #[serde(default)]
    pub class: PeerClass,
    /// Round-trip time in milliseconds, once it was measured.
    pub rtt_ms: Option<f64>,
    /// Milliseconds since it connected.
    #[serde(default)]
    pub connected_ms: u64,
    /// Bytes received from it.
    pub bytes_received: u64,
    /// Bytes sent to it.
    #[serde(default)]
    pub bytes_sent: u64,
    /// Bytes a second that are received from it, over the last seconds.
    #[serde(default)]
    pub receive_rate: u64,
    /// Bytes a second that are sent to it, over the last seconds.
    #[serde(default)]
    pub send_rate: u64,
    /// The images for which it sent something, by the hexadecimal digests of their manifests, the latest first.
    #[serde(default)]
    pub gives: Vec<String>,
}

/// Who made a connection.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerDirection {
    /// The peer.
    #[default]
    Inbound,
    /// The daemon.
    Outbound,
}

/// How near a peer is.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerClass {
    /// Not measured yet.
    #[default]
    Unknown,
    /// On the same link, or as near.
    Link,
    /// Farther away.
    Wide,
}

/// A node that the daemon has banned.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct BanStatus {
    /// The hash of its public key.
    pub id: String,
    /// When that ends, in milliseconds since 1970 in UTC.
    pub until_ms: u64,
    /// How often it was banned, this time included.
    pub times: u32,
    /// Why, for people.
    pub reason: String,
}
