// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How names that somebody else chose, and errors with their causes, are shown.

#![forbid(unsafe_code)]

mod causes;
mod printable;

pub use causes::Causes;
pub use printable::{printable, printable_bytes, Printable};
