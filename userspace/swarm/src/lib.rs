// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The key of a private swarm, which all its nodes have and nobody else ([`SwarmKey`]), and the file that it is in
//! ([`read`], [`create`]). What a node does with it is `peerfs_peer`'s.

#![forbid(unsafe_code)]
#![warn(clippy::missing_errors_doc)]

mod file;
mod key;

pub use file::{create, read, read_credential, read_of_anybody, KeyFileError};
pub use key::{Fingerprint, InvalidSwarmKey, SwarmKey};
