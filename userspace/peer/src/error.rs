// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What can go wrong.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use peerfs_exchange::Violation;

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The key file could not be read or written.
    #[error("cannot read or create the node's key {}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The key file holds something else.
    #[error("{} is not an ed25519 key in libp2p's encoding; move it away to get a new identity", path.display())]
    KeyEncoding {
        /// The file.
        path: PathBuf,
        /// Why.
        source: libp2p::identity::DecodingError,
    },
    /// The list of banned peers could not be read.
    #[error("cannot read the list of banned peers {}", path.display())]
    BanList {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An encrypted transport could not be set up.
    #[error("cannot set up the transport")]
    Transport(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// mDNS could not be set up.
    #[error("cannot set up mDNS; it can be switched off")]
    Mdns(#[source] io::Error),
    /// None of the listen addresses could be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The last one that was tried.
        address: Multiaddr,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why a request to a peer failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The peer is banned; it was not asked.
    #[error("peer {0} is banned")]
    Banned(PeerId),
    /// No connection or stream to the peer could be opened.
    #[error("cannot reach peer {peer}: {reason}")]
    Unreachable {
        /// The peer.
        peer: PeerId,
        /// What the network said.
        reason: String,
    },
    /// The connection ended while the request was outstanding.
    #[error("the connection to the peer ended")]
    Disconnected,
    /// No byte of an answer came for this long although the peer could have sent it, or no frame was completed.
    #[error("the peer sent nothing for {0:?}")]
    Stalled(Duration),
    /// The caller's deadline passed.
    #[error("the deadline passed")]
    DeadlineExceeded,
    /// The peer does not have the blob.
    #[error("the peer does not have it")]
    NotFound,
    /// The peer has too much to do.
    #[error("the peer is busy and wants to be left alone for {retry_after:?}")]
    Busy {
        /// For how long: at most [`RETRY_MAX`](peerfs_exchange::limits::RETRY_MAX).
        retry_after: Duration,
    },
    /// The peer does not answer such requests.
    #[error("the peer does not serve such requests")]
    NotServed,
    /// What the peer sent as a zstd frame is none, or not of a blob as long as it said.
    #[error("the peer sent a blob that cannot be decoded")]
    Undecodable,
    /// The blob is longer than the caller allowed.
    #[error("the blob has {length} bytes, more than the {maximum} allowed")]
    TooLarge {
        /// Bytes of the blob, as the peer says.
        length: u64,
        /// Bytes that were allowed.
        maximum: u64,
    },
    /// The peer broke the protocol.
    #[error("the peer broke the protocol")]
    Violation(#[from] Violation),
    /// The node is shutting down.
    #[error("the node is shutting down")]
    ShuttingDown,
}
