// SPDX-License-Identifier: GPL-2.0 OR MIT

//! peerfsd: serves `/dev/peerfs` for a store and fetches what is missing.
//!
//! | module | noun |
//! |---|---|
//! | [`arguments`], [`config`], [`logging`], `log_limit` | what the daemon is told, and what it tells |
//! | [`daemon`] | all parts together |
//! | [`upcall`] | the kernel's requests |
//! | `attachment` | the store, attached to the kernel |
//! | `requests` | what the kernel's requests mean |
//! | `library` | what is in the store or can be got |
//! | `fetcher` | carries them out: searches, transfers, verification, storing |
//! | `source` | a peer or another store, to fetch from |
//! | `provider`, `announcer` | the store as peers see it |
//! | `mirror` | an image that is kept complete |
//! | `disk`, `packs` | the store, used from asynchronous code |
//! | [`state`] | what is this node's own: its key |
//! | `control`, `status`, `traffic` | how the daemon is doing |

#![forbid(unsafe_code)]

mod announcer;
pub mod arguments;
mod attachment;
pub mod config;
mod control;
pub mod daemon;
pub mod disk;
mod fetcher;
mod images;
mod library;
mod log_limit;
pub mod logging;
mod mirror;
mod packs;
mod provider;
mod requests;
mod source;
pub mod state;
mod status;
pub mod traffic;
pub mod upcall;
