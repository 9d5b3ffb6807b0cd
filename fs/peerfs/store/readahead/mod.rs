// SPDX-License-Identifier: GPL-2.0

//! What is read, decoded and asked for before somebody needs it, and by whom.
#![forbid(unsafe_code)]

mod run;
mod segment;
mod sequence;
mod window;
mod workers;

pub(crate) use run::Runs;
pub(super) use segment::Segments;
pub(super) use sequence::Sequence;
pub(crate) use window::{ahead, lengthened, widened};
pub(super) use workers::OwnWork;
pub(crate) use workers::Workers;
