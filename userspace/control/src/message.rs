// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What goes over the control socket.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The longest line that either side accepts, in bytes, newline included.
pub const LINE_MAX: u64 = 16 * 1024 * 1024;

/// What a client asks: `{"command":"status"}`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Request {
    /// How the daemon is doing.
    Status,
}

/// What the daemon answers: `{"status":{...}}` or `{"error":"..."}`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The answer to [`Request::Status`].
    Status(Status),
    /// The request was not understood or could not be answered: why.
    Error(String),
}

/// How a daemon is doing.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// The hash of the node's public key.
    pub node_id: String,
    /// Where other nodes reach it, as multiaddresses.
    pub listen_addresses: Vec<String>,
    /// The nodes that it is connected to.
    pub peers: Vec<PeerStatus>,
    /// The images of its store and those that are mounted from it.
    pub images: Vec<ImageStatus>,
    /// The images that the configuration wants complete, those that nobody has too.
    #[serde(default)]
    pub pins: Vec<PinStatus>,
    /// Requests of the kernel that are not answered yet.
    pub requests_in_flight: u64,
    /// Bytes fetched since the daemon started, by the name of the source.
    pub bytes_by_source: BTreeMap<String, u64>,
    /// Sources that sent wrong bytes since the daemon started, and are not asked any more.
    pub lying_sources: u64,
}

/// A node that the daemon is connected to.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct PeerStatus {
    /// The hash of its public key.
    pub id: String,
    /// Where it was reached, as a multiaddress.
    pub address: String,
    /// Round-trip time in milliseconds, once it was measured.
    pub rtt_ms: Option<f64>,
    /// Bytes received from it.
    pub bytes_received: u64,
}

/// An image in the daemon's store.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ImageStatus {
    /// The hexadecimal digest of its manifest.
    pub manifest: String,
    /// The tags that name it.
    pub tags: Vec<String>,
    /// Bytes of its packs, as stored.
    pub total_bytes: u64,
    /// Those of them that are in the store.
    pub present_bytes: u64,
}

/// An image that is to be kept complete.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct PinStatus {
    /// The hexadecimal digest of its manifest.
    pub image: String,
    /// How it is doing, for people.
    pub state: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_is_the_documented_one() {
        let request = serde_json::to_string(&Request::Status).unwrap();
        assert_eq!(request, r#"{"command":"status"}"#);
        let reply: Reply = serde_json::from_str(r#"{"error":"no"}"#).unwrap();
        assert_eq!(reply, Reply::Error("no".into()));
    }
}
