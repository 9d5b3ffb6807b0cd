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
    /// No image is called so.
    #[error("there is no image{}; there are: {known}", name.as_ref().map(|name| format!(" called {name}")).unwrap_or_default())]
    NoSuchImage {
        /// What was asked for.
        name: Option<String>,
        /// The names that there are.
        known: String,
    },
    /// There are several images, and nothing says which one is meant.
    #[error("there are several images, and one must be named: {0}")]
    SeveralImages(String),
    /// There is no image for a platform.
    #[error("there is no image for {wanted}; there are some for: {offered}")]
    WrongPlatform {
        /// The platform that was asked for.
        wanted: String,
        /// Those that there are.
        offered: String,
    },
    /// A manifest is not that of an image of a container.
    #[error("{0}")]
    NotAContainer(&'static str),
    /// An image has something that is not supported.
    #[error("{0}, which is not supported")]
    Unsupported(&'static str),
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
