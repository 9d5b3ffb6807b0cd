// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The peer node: finds other nodes, asks them for blobs and chunks, and serves its own.
//!
//! It knows nothing of filesystems, kernels or stores. What it serves comes from a [`Provider`],
//! what it fetches goes to whoever asked, who verifies it. The protocol is described in
//! `Documentation/peer-protocol.md`.
//!
//! Decisions are apart from effects. These modules decide, and are tested without a network:
//! `frame`, `requester`, `responder`, `dialer`, `announcer`, `token_bucket`. These act:
//! `lane` and `client` ask, `server` answers, `driver` owns the swarm, `lookup` finds, and `node`
//! is the handle of it all.

#![forbid(unsafe_code)]

mod announcer;
mod ban_list;
mod behaviour;
mod chunk_map;
mod chunk_stream;
mod client;
mod codec;
mod config;
mod delivered;
mod dialer;
mod driver;
mod error;
mod event;
pub mod frame;
mod identity;
mod inbound;
mod lane;
pub mod limits;
mod lookup;
mod node;
mod peer_info;
mod peer_table;
mod priority;
mod provider;
mod requester;
mod resolver;
mod responder;
mod server;
mod token_bucket;
mod want;

pub use chunk_map::ChunkMap;
pub use chunk_stream::ChunkStream;
pub use config::NodeConfig;
pub use error::{Error, RequestError, Violation};
pub use event::Event;
pub use identity::Identity;
pub use libp2p::{Multiaddr, PeerId};
pub use node::Node;
pub use peer_info::PeerInfo;
pub use priority::Priority;
pub use provider::{Have, Provider};
