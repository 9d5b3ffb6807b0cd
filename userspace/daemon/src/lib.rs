// SPDX-License-Identifier: GPL-2.0 OR MIT

//! peerfsd: serves `/dev/peerfs` for a store and fetches what is missing.
//!
//! | module | noun |
//! |---|---|
//! | [`arguments`], [`config`], `source_config`, [`logging`], `log_limit` | what the daemon is told, and what it tells |
//! | [`daemon`] | all parts together |
//! | [`upcall`] | the kernel's requests |
//! | `attachment` | the store, attached to the kernel |
//! | `requests` | what the kernel's requests mean |
//! | `lazy_pulls` | images that are read and are fetched whole |
//! | `provider`, `announcer` | the store as peers see it |
//! | [`reload`] | what a changed configuration changes at once |
//! | [`manager`] | systemd, that has started the daemon |
//! | [`state`] | what is this node's own: its key |
//! | `control`, `commands` | the control socket, and what its clients can have done |
//! | `status`, `events` | how the daemon is doing, and what happens |
//! | `mirror` | a registry for what is not in peerfs form |
//! | `monitor` | the page and the metrics |
//! | `serve` | the store over HTTP |
//! | `saved_pins` | what clients have pinned |
//! | `names` | what this machine knows of publishers' names |
//! | `cache`, `uses` | that what can be fetched again stays within a size, by what was used |
//! | `replicas` | images that are kept for others, and that others keep |
//!
//! What is missing is got by the crate `peerfs_fetch`.

#![forbid(unsafe_code)]
#![warn(clippy::missing_errors_doc)]

mod announcer;
pub mod arguments;
mod attachment;
mod cache;
mod commands;
pub mod config;
mod control;
pub mod daemon;
mod events;
mod lazy_pulls;
mod log_limit;
pub mod logging;
pub mod manager;
mod mirror;
mod monitor;
mod names;
mod names_config;
mod node_config;
mod peer_config;
mod provider;
pub mod reload;
mod replicas;
mod replicate_config;
mod requests;
mod revocations;
mod saved_pins;
mod serve;
mod source_config;
pub mod state;
mod state_file;
mod status;
mod traces;
pub mod upcall;
mod uses;
