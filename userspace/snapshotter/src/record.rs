// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is known of a snapshot beside its files.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use peerfs_format::Digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What may be done with a snapshot.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It can be written.
    Active,
    /// It can be read, by whoever made it.
    View,
    /// It never changes, and others lie over it.
    Committed,
}

impl Kind {
    /// The word that containerd has for it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Active => "active",
            Kind::View => "view",
            Kind::Committed => "committed",
        }
    }
}

/// What a snapshot takes on the disk.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Usage {
    /// In bytes.
    pub size: u64,
    /// In inodes.
    pub inodes: u64,
}

/// The peerfs image that a snapshot is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Image {
    /// Its manifest.
    #[serde(serialize_with = "to_text", deserialize_with = "from_text")]
    pub manifest: Digest,
    /// What it was pulled as, if containerd has said so: a registry that may have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

fn to_text<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(digest)
}

fn from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

/// What is known of a snapshot beside its files.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Record {
    /// What it is called.
    pub key: String,
    /// The committed snapshot that it lies over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// What may be done with it.
    pub kind: Kind,
    /// When it was made, since 1970.
    pub created: Duration,
    /// When it was changed last.
    pub updated: Duration,
    /// What others have noted.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What of a committed one is no files of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// What a committed one with files of its own takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

impl Record {
    /// A record of what is made now.
    pub fn new(
        kind: Kind,
        key: &str,
        parent: Option<&str>,
        labels: BTreeMap<String, String>,
        now: SystemTime,
    ) -> Self {
        let now = since_1970(now);
        Record {
            key: key.to_owned(),
            parent: parent.map(str::to_owned),
            kind,
            created: now,
            updated: now,
            labels,
            image: None,
            usage: None,
        }
    }
}

/// A time as records have it.
pub fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}
