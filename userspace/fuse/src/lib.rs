// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Mounts of images through FUSE, where the kernel has no peerfs: what is in the store is read and verified here, what is
//! missing is asked of the daemon that fills the store.
//!
//! | module | noun |
//! |---|---|
//! | [`Mount`] | a mount and the threads that serve it |
//! | `filesystem`, `attributes`, `directory` | what the kernel asks, and is told |
//! | `served` | an image of which what is missing is fetched before it is read again |
//! | `reader` | the store as such an image reads it |
//! | `uses` | which chunks were read, for the daemon to know |
//! | [`Daemon`] | asks the daemon for what is missing, however often it is started anew |

#![forbid(unsafe_code)]
#![warn(clippy::missing_errors_doc)]

mod attributes;
mod daemon;
mod directory;
mod filesystem;
mod mount;
mod reader;
mod served;
mod uses;

pub use daemon::{Daemon, FetchError};
pub use mount::{Mount, MountError, Options};
