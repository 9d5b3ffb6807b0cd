// SPDX-License-Identifier: GPL-2.0 OR MIT

//! SHA-256 digests as names of blobs.

use core::fmt;
use core::str::FromStr;

use crate::{Error, Result};

/// A SHA-256 digest. Computing one is left to the user of this crate.
#[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Digest(pub [u8; Digest::SIZE]);

impl Digest {
    /// Bytes of a digest.
    pub const SIZE: usize = 32;
    /// Hexadecimal digits of a digest.
    pub const HEX_SIZE: usize = 64;

    /// The lower-case hexadecimal digits, as in the name of a blob's file.
    pub fn to_hex(&self) -> [u8; Digest::HEX_SIZE] {
        let mut digits = [0; Digest::HEX_SIZE];
        // Cannot fail: the lengths match. If it did, zero bytes name no file.
        let _ = hex::encode_to_slice(self.0, &mut digits);
        digits
    }
}

impl FromStr for Digest {
    type Err = Error;

    /// Accepts 64 hexadecimal digits, with or without OCI's `sha256:` before them.
    fn from_str(text: &str) -> Result<Self> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let mut bytes = [0; Digest::SIZE];
        hex::decode_to_slice(digits, &mut bytes)
            .map_err(|_| Error::Malformed("digest (64 hexadecimal digits expected)"))?;
        Ok(Digest(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
