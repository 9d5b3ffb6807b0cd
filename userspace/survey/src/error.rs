// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The errors of the measurements.

use std::io;

/// An error of a measurement.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Building an image failed.
    #[error(transparent)]
    Build(#[from] peerfs_build::Error),
    /// A store could not be read.
    #[error(transparent)]
    Store(#[from] peerfs_store::Error),
    /// The store holds something else than an image.
    #[error(transparent)]
    Format(#[from] peerfs_format::Error),
    /// A message of Cap'n Proto could not be read.
    #[error(transparent)]
    Message(#[from] capnp::Error),
    /// Standard input could not be read, or zstd failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// An image has nothing that could be divided into packs.
    #[error("the image has no chunks")]
    NoChunks,
    /// A line of standard input is no range.
    #[error("not OFFSET LENGTH PATH: {0}")]
    Range(String),
    /// A search did not find what is there.
    #[error("{found} of {wanted} were found")]
    NotFound {
        /// The value that was found.
        found: u32,
        /// The value that should have been.
        wanted: u32,
    },
}

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;
