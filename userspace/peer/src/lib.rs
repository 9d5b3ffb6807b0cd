//! The peer node: finds other nodes, asks them for blobs and chunks, and serves its own.
//!
//! It knows nothing of filesystems, kernels or stores. What it serves comes from a [`Provider`],
//! what it fetches goes to whoever asked, who verifies it. The protocol is described in
//! `Documentation/peer-protocol.md`.
//!
//! | module | noun |
//! |---|---|
//! | [`frame`] | the frames of an exchange stream as bytes |

#![forbid(unsafe_code)]

mod chunk_map;
mod chunk_stream;
mod config;
mod error;
mod event;
pub mod frame;
mod identity;
pub mod limits;
mod node;
mod peer_info;
mod priority;
mod provider;

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
