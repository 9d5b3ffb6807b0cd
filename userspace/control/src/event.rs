// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What happens in a daemon.

use serde::{Deserialize, Serialize};

use crate::PullStatus;

/// Something that happened.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Event {
    /// When, in milliseconds since 1970 in UTC.
    pub time_ms: u64,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened: `{"kind":"image","image":"..."}`, for example.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventKind {
    /// From now on the client is told what happens. The first one, and nobody else gets it.
    Subscribed {
        /// The daemon's version.
        version: String,
    },
    /// How the pull of an image is doing, of a client's or for a pin: at most once a second for each.
    Pull(PullStatus),
    /// An image has come into the store.
    Image {
        /// The hexadecimal digest of its manifest.
        image: String,
    },
    /// A peer has connected or was connected to.
    PeerConnected {
        /// The hash of its public key.
        peer: String,
    },
    /// The last connection to a peer has ended.
    PeerDisconnected {
        /// The hash of its public key.
        peer: String,
    },
    /// Requests of the kernel that were answered since the last event of this kind, at most once a second.
    Misses {
        /// Those that were answered with what they asked for.
        filled: u64,
        /// Those that were answered with an error.
        failed: u64,
    },
    /// The client was slow, and was not told this many events.
    Lost {
        /// Their number.
        events: u64,
    },
    /// One that this version does not know.
    #[serde(other)]
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_is_the_documented_one() {
        let event = Event {
            time_ms: 1,
            kind: EventKind::Lost { events: 7 },
        };
        let line = r#"{"time_ms":1,"kind":"lost","events":7}"#;
        assert_eq!(serde_json::to_string(&event).unwrap(), line);
        assert_eq!(serde_json::from_str::<Event>(line).unwrap(), event);
        let event = Event {
            time_ms: 2,
            kind: EventKind::Pull(PullStatus::default()),
        };
        let line = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
        let newer = r#"{"time_ms":3,"kind":"eviction","bytes":1}"#;
        let event: Event = serde_json::from_str(newer).unwrap();
        assert_eq!(event.kind, EventKind::Unknown);
    }
}
