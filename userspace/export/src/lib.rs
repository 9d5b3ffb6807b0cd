// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Images out of a store: into a directory, a tar archive, an ordinary OCI image. What is written was verified by
//! [`Image`](peerfs_store::Image), and is the same bytes for the same image wherever it is done.
//!
//! | module | what is in it |
//! |---|---|
//! | `walk` | the order in which all of these go through a tree, and which paths of it are wanted |
//! | `extract` | into a directory |

#![forbid(unsafe_code)]
#![warn(clippy::missing_errors_doc)]

mod error;
mod extract;
mod walk;

pub use error::{Error, Result};
pub use extract::{extract, ExtractOptions, Extracted, Progress};
pub use walk::Selection;
