// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A publisher's name for an image.

use std::fmt;
use std::str::FromStr;

use peerfs_format::Digest;
use peerfs_oci::{PublisherKey, Reference};
use sha2::{Digest as _, Sha256};

/// What tells the topic of a name from other digests.
const TOPIC_DOMAIN: &[u8] = b"peerfs-name-1\0";

/// A publisher's name for an image: `KEY/NAME`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Name {
    key: PublisherKey,
    text: String,
}

/// A text that is no name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is no name of a publisher: KEY/NAME is expected, as `peerfs key list` and `peerfs publish` print it")]
pub struct InvalidName(String);

impl Name {
    /// This key's name.
    ///
    /// # Errors
    /// If the text is not what Documentation/references.md allows.
    pub fn new(key: PublisherKey, text: &str) -> Result<Self, InvalidName> {
        format!("{key}/{text}").parse()
    }

    /// The key of who may say what it stands for.
    pub fn key(&self) -> PublisherKey {
        self.key
    }

    /// The text behind the key: 1 to 255 bytes.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What nodes ask each other for in place of the name: its SHA-256.
    pub fn topic(&self) -> Digest {
        let mut hash = Sha256::new();
        hash.update(TOPIC_DOMAIN);
        hash.update(self.key.0);
        hash.update(self.text.as_bytes());
        Digest(hash.finalize().into())
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        match text.parse() {
            Ok(Reference::Published { key, name }) => Ok(Name { key, text: name }),
            _ => Err(InvalidName(text.chars().take(320).collect())),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.key, self.text)
    }
}
