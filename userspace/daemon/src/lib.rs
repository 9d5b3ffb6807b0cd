// SPDX-License-Identifier: GPL-2.0 OR MIT

//! peerfsd: serves `/dev/peerfs` for a store and fetches what is missing.

#![forbid(unsafe_code)]

pub mod scheduler;
