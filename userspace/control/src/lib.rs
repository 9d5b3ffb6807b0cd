// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The control socket of a running peerfsd: what clients ask and what they are told (Documentation/control.md).
//!
//! A client sends a [`Request`] as a line of JSON and gets a [`Reply`] as a line of JSON; it may then send the
//! next. To `pull` and `events` there are many replies, after which the daemon closes the connection.

#![forbid(unsafe_code)]
#![warn(clippy::missing_errors_doc)]

mod activity;
mod client;
mod event;
mod message;
mod names;
mod peers;
mod replicas;
mod status;

pub use activity::{
    Activity, HttpStatus, NetworkStatus, Reachability, ReplicaCounts, RequestStatus,
};
pub use client::{ask, connect, Connection, Error, Next};
pub use event::{Event, EventKind};
pub use message::{FetchLine, Reply, Request, COMMANDS, LINE_MAX, REQUEST_MAX};
pub use names::{NameRecord, NameStatus};
pub use peers::{BanStatus, PeerClass, PeerDirection, PeerStatus, Peers};
pub use replicas::{PublisherStatus, ReplicaHere, ReplicaStatus, ReplicasStatus};
pub use status::{
    Collected, Conversion, ImageStatus, MountStatus, PinOrigin, PinStatus, PullState, PullStatus,
    Status,
};

/// Where peerfsd listens unless it is told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/peerfs/peerfsd.sock";
