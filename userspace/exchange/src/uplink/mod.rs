// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Who is sent what next, when a node is asked for more than its line carries.
//!
//! | noun | decides |
//! |---|---|
//! | [`Turns`] | whose frame is written next, with a limit on the rate |
//! | [`Slots`] | which peers are sent at the same time what nobody waits for |
//! | [`Copies`] | which chunk comes first of those that a peer asks for |
//! | [`Allotments`] | which chunks a peer is to ask for, of what nobody else has |

mod allotments;
mod copies;
mod slots;
mod turns;

pub use allotments::Allotments;
pub use copies::Copies;
pub use slots::Slots;
pub use turns::{Turn, Turns};
