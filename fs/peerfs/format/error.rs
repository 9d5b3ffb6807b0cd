// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What can be wrong with a blob or a message.

use core::fmt;

/// The result of reading a blob or a message.
pub type Result<T> = core::result::Result<T, Error>;

/// Why a blob or a message was refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Error {
    /// Not the encoding that it should be: names the part that is damaged.
    Malformed(&'static str),
    /// A manifest of a format version that this reader does not know.
    UnsupportedVersion(u32),
    /// A manifest with incompatible features that this reader does not know (the unknown bits).
    UnsupportedFeatures(u64),
    /// Larger than the format allows: names the limit.
    TooLarge(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Malformed(part) => write!(f, "malformed {part}"),
            Error::UnsupportedVersion(version) => write!(
                f,
                "format version {version} is not supported (this is version {})",
                crate::FORMAT_VERSION
            ),
            Error::UnsupportedFeatures(bits) => {
                write!(f, "unknown incompatible features {bits:#x}")
            }
            Error::TooLarge(limit) => write!(f, "larger than {limit} allows"),
        }
    }
}

impl core::error::Error for Error {}
