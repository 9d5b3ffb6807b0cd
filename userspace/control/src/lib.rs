// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The control socket of a running peerfsd: what `peerfs status` asks and what it is told.
//!
//! A client sends one [`Request`] as a line of JSON and gets one [`Reply`] as a line of JSON; it may
//! then send the next.

#![forbid(unsafe_code)]

mod client;
mod message;

pub use client::{ask, Error};
pub use message::{ImageStatus, PeerStatus, PinStatus, Reply, Request, Status, LINE_MAX};

/// Where peerfsd listens unless it is told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/peerfs/peerfsd.sock";
