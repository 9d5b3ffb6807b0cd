// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Gets what a store lacks: from whoever has it, verified.
//!
//! | module | noun |
//! |---|---|
//! | [`Repository`] | what is in the store or can be got |
//! | [`Fetcher`] | carries out what the scheduler decides: searches, transfers, verification, storing |
//! | [`source`] | places to fetch from, and ways to find them |
//! | [`Pulls`] | images of which all is being brought into the store |
//! | [`Pins`] | images that are kept complete |
//! | [`Disk`], [`Packs`], [`images`] | the store, used from asynchronous code |
//! | [`read_policy`] | which images need whose signature |
//! | [`Traffic`] | counts what was fetched |
//!
//! A new kind of source is a [`source::Source`], and, if it is not one that is always there, a [`source::Discovery`].

#![forbid(unsafe_code)]

mod disk;
mod fetcher;
pub mod images;
mod packs;
mod pins;
mod policy_file;
mod pulls;
mod repository;
pub mod source;
mod traffic;

pub use disk::{Disk, DiskError};
pub use fetcher::Fetcher;
pub use packs::{pack_record, Packs};
pub use pins::{PinInfo, PinOrigin, Pins};
pub use policy_file::{check_stored, read_policy, PolicyError, DEFAULT_POLICY};
pub use pulls::{Amount, Awaited, Progress, Pull, PullState, Pulls};
pub use repository::{Announce, BeginError, GetError, Purpose, Repository};
pub use traffic::{ImageTraffic, Traffic};
