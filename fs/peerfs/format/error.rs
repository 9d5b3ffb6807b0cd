// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What can be wrong with a blob or a message.

use core::fmt;

use crate::{FEATURE_ENCRYPTION, FEATURE_LZ4};

/// The result of reading a blob or a message.
pub type Result<T> = core::result::Result<T, Error>;

/// Why a blob or a message was refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Error {
    /// Not the encoding that it should be: names the part that is damaged.
    Malformed(&'static str),
    /// A manifest of a format version that this reader does not know.
    UnsupportedVersion(u32),
    /// A manifest with incompatible features that this reader does not have (their bits).
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
            Error::UnsupportedFeatures(bits) => write_features(*bits, f),
            Error::TooLarge(limit) => write!(f, "larger than {limit} allows"),
        }
    }
}

/// Says which features an image needs that this reader does not have.
fn write_features(bits: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const NAMES: [(u64, &str); 2] = [(FEATURE_ENCRYPTION, "encryption"), (FEATURE_LZ4, "LZ4")];
    let (mut separator, mut unnamed) = ("unsupported features: ", bits);
    for (feature, name) in NAMES {
        if bits & feature != 0 {
            write!(f, "{separator}{name}")?;
            separator = ", ";
        }
        unnamed &= !feature;
    }
    match unnamed {
        0 => Ok(()),
        bits => write!(f, "{separator}{bits:#x}"),
    }
}

impl core::error::Error for Error {}
