// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Traces: what is missed of an image when something of it is started, in the order in which it is missed, so that the next
//! machine has it on the way before anybody asks. A trace is a hint: whoever has written one decides what is fetched early,
//! up to a bound, and nothing else. See `Documentation/traces.md`.
//!
//! Decisions and parsing, without I/O, tasks and clock.

#![forbid(unsafe_code)]
#![warn(clippy::missing_errors_doc)]

mod sessions;
mod trace;

pub use sessions::{Noted, Sessions, Touch};
pub use trace::{NoTrace, Part, Step, Trace, TraceError, STEPS_MAX, TRACE_MAX};
