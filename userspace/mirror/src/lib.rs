// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A registry that has nothing of its own: what is pulled through it comes from peers or from a registry, and stays for a
//! while. It is for what is not in peerfs form.
//!
//! | module | noun |
//! |---|---|
//! | [`Blobs`] | the blobs that are here: a folder with a bound |
//! | [`Mirror`] | what can be asked for, wherever it comes from |
//! | `flight` | a blob that is just being brought here, once for all who want it |
//! | `swarm` | peers to fetch from |
//! | [`Upstreams`] | the registries to fetch from, and no others |
//! | `tags` | what tags stood for when they were last asked for |
//! | `question` | what a client asks for, as it writes it |
//! | [`serve`] | what it is answered |
//! | [`Served`] | the same blobs, as peers get them |

#![forbid(unsafe_code)]
#![warn(clippy::missing_errors_doc)]

mod blobs;
mod flight;
mod mirror;
mod question;
mod served;
mod server;
mod swarm;
mod tags;
mod upstreams;

pub use blobs::Blobs;
pub use mirror::Mirror;
pub use served::Served;
pub use server::serve;
pub use upstreams::{InvalidUpstream, Upstreams};
