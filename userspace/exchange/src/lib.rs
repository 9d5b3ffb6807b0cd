// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What nodes say to each other, and who asks whom for what.
//!
//! Decisions only: no network, no tasks, no clock. Whoever owns one of these state machines tells it what happened
//! and what time it is, and does what it says; so all of it runs in a simulation as it does in a node.
//!
//! | module | noun |
//! |---|---|
//! | [`frame`], [`limits`], [`Priority`], [`ChunkMap`], [`Have`], [`Suggestion`], [`Violation`] | the protocol, as `Documentation/peer-protocol.md` has it |
//! | [`Requester`], [`Responder`] | the two ends of a stream |
//! | [`Arrivals`] | what has come into a store, for those who follow it |
//! | [`Progress`] | when something last came of what was asked for |
//! | [`Ledger`] | what a node does for others |
//! | [`uplink`] | who is sent what next |
//! | [`Republisher`] | when what is announced |
//! | [`scheduler`] | which source is asked for which parts |

#![forbid(unsafe_code)]

mod arrivals;
mod chunk_map;
pub mod frame;
mod have;
mod ledger;
pub mod limits;
mod priority;
mod progress;
mod republisher;
mod requester;
mod responder;
pub mod scheduler;
mod suggestion;
pub mod uplink;
mod violation;

pub use arrivals::{Arrival, Arrivals};
pub use chunk_map::ChunkMap;
pub use have::Have;
pub use ledger::{Ledger, Refused, QUESTION};
pub use priority::Priority;
pub use progress::Progress;
pub use republisher::Republisher;
pub use requester::{Abandoned, Answer, Requester, SentBlob, Waiter, Wanted};
pub use responder::{BlobForm, BlobStep, Found, Outgoing, Responder, Step};
pub use suggestion::Suggestion;
pub use violation::Violation;
