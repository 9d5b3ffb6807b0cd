// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The peer node: finds other nodes, asks them for blobs and chunks, and serves its own.
//!
//! It knows nothing of filesystems, kernels or stores. What it serves comes from a [`Provider`],
//! what it fetches goes to whoever asked, who verifies it. The protocol is described in
//! `Documentation/peer-protocol.md`.
//!
//! Decisions are apart from effects: those that need to know nothing of libp2p are the crate `peerfs_exchange`.
//! Of the modules here these decide, and are tested without a network: `streams`, `connections`, `dialer`,
//! `heartbeat`, `pauses`, `provider_records`, `name_records`, `shares`, `puts`, `followers`, `blob_encoding`. These act: `lane` and `client` ask, `server`
//! answers, `connection_gate` lets in and closes, `muxer` carries streams, `ping` asks who is there, `names` carries records of names, `driver` owns the swarm, `lookup` finds, and `node` is the handle
//! of it all.

#![forbid(unsafe_code)]

mod addresses;
mod admission;
mod arrivals;
mod at_peers;
mod ban_list;
mod behaviour;
mod blob_encoding;
mod borrowing;
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
mod followers;
mod frames;
mod heartbeat;
mod identity;
mod inbound;
mod internet;
mod lane;
mod links;
mod lookup;
mod muxer;
mod name_records;
mod names;
mod network;
mod network_info;
mod node;
mod pauses;
mod peer_info;
mod peer_table;
mod ping;
mod provider;
mod provider_records;
mod puts;
mod rate;
mod reopening;
mod resolver;
mod server;
mod serving;
mod shares;
mod strangers;
mod streams;
mod twins;
mod upload;
mod want;
mod willing;
mod work;

pub use addresses::{bootstrap_problem, external_problem, listen_problem};
pub use admission::{Membership, NotAMember};
pub use arrivals::ArrivalLog;
pub use ban_list::BanInfo;
pub use chunk_stream::ChunkStream;
pub use config::{InternetConfig, NodeConfig};
pub use error::{Error, RequestError};
pub use event::Event;
pub use identity::Identity;
pub use internet::Reachability;
pub use libp2p::{Multiaddr, PeerId};
pub use names::NameBook;
pub use network_info::NetworkInfo;
pub use node::Node;
pub use peer_info::{Direction, PeerClass, PeerInfo};
pub use provider::{BlobPiece, Provider};
pub use want::{Listener, FOLLOWS_MAX};
pub use willing::{peer_id_of, WillingBook};
pub use work::Work;
