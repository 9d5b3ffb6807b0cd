// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What can go wrong.

use std::io;

/// Why a measurement failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Building an image failed.
    #[error(transparent)]
    Build(#[from] peerfs_build::Error),
    /// A store could not be read.
    #[error(transparent)]
    Store(#[from] peerfs_store::Error),
    /// What the store holds is no image.
    #[error(transparent)]
    Format(#[from] peerfs_format::Error),
    /// A message of Cap'n Proto could not be read.
    #[error(transparent)]
    Message(#[from] capnp::Error),
    /// Standard input could not be read, or zstd failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A line of standard input is no range.
    #[error("not OFFSET LENGTH PATH: {0}")]
    Range(String),
    /// A search did not find what is there.
    #[error("{found} of {wanted} were found")]
    NotFound {
        /// What was.
        found: u32,
        /// What should have been.
        wanted: u32,
    },
}

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;
