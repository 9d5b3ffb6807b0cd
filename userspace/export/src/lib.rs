// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Images out of a store: into a directory, a tar archive, an ordinary OCI image. What is written was verified by
//! [`Image`](peerfs_store::Image), and is the same bytes for the same image wherever it is done.
//!
//! | module | what is in it |
//! |---|---|
//! | `walk` | the order in which all of these go through a tree, and which paths of it are wanted |
//! | `extract` | into a directory |
//! | `tar` | as a tar archive |
//! | `oci` | as an OCI image, whose layer is such an archive |
//! | `compress` | its compression, by several threads |

#![forbid(unsafe_code)]
#![warn(clippy::missing_errors_doc)]

mod compress;
mod error;
mod extract;
mod oci;
mod tar;
mod walk;

pub use compress::{InvalidCompression, LayerCompression};
pub(crate) use error::Stop;
pub use error::{Error, Result};
pub use extract::{extract, ExtractOptions, Extracted, Progress};
pub use oci::{write_oci, OciOptions, OciPlace};
pub use tar::write_tar;
pub use walk::Selection;
