// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The peer node: finds other nodes, asks them for blobs and chunks, and serves its own.
//!
//! It knows nothing of filesystems, kernels or stores. What it serves comes from a [`Provider`],
//! what it fetches goes to whoever asked, who verifies it. The protocol is described in
//! `Documentation/peer-protocol.md`.
//!
//! Decisions are apart from effects. These modules decide, and are tested without a network:
//! `frame`, `requester`, `responder`, `streams`, `work`, `connections`, `dialer`, `announcer`,
//! `provider_records`, `token_bucket`. These act: `lane` and `client` ask, `server` answers,
//! `connection_gate` lets in and closes, `driver` owns the swarm, `lookup` finds, and `node` is the handle
//! of it all.

#![forbid(unsafe_code)]

mod addresses;
mod announcer;
mod ban_list;
mod behaviour;
mod chunk_map;
mod chunk_stream;
mod client;
mod codec;
mod config;
mod connection_gate;
mod connections;
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
mod network;
mod node;
mod peer_info;
mod peer_table;
mod priority;
mod provider;
mod provider_records;
mod requester;
mod resolver;
mod responder;
mod server;
mod streams;
mod token_bucket;
mod twins;
mod want;
mod work;

pub use addresses::{bootstrap_problem, listen_problem};
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
pub use work::Work;
