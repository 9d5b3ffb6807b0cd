// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What can go wrong with what OCI's tools read.

use peerfs_format::METADATA_MAX;

/// The result of reading or writing it.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a file that OCI defines.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not what OCI says it should be.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// A layout of a version that is not known.
    #[error("image layout version {0:?} is not known")]
    LayoutVersion(String),
    /// It names a blob in a way that is not understood.
    #[error("it can't be followed: {0}")]
    Descriptor(String),
    /// A file that is to be written would be refused by those who read it.
    #[error("{what} would have {length} bytes, more than the {METADATA_MAX} that are read: there are too many {of}")]
    TooLarge {
        /// The file.
        what: &'static str,
        /// The things in it that are too many.
        of: &'static str,
        /// Its bytes.
        length: u64,
    },
}

/// Refuses to write what would not be read.
pub(crate) fn check_length(what: &'static str, of: &'static str, text: Vec<u8>) -> Result<Vec<u8>> {
    let length = text.len() as u64;
    if length > METADATA_MAX {
        return Err(Error::TooLarge { what, of, length });
    }
    Ok(text)
}
