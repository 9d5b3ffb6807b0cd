// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a daemon says of images that are kept for others.

use serde::{Deserialize, Serialize};

/// What is kept for others, and what others keep.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct ReplicasStatus {
    /// Bytes that are kept for others at most; none if this node keeps nothing for them.
    pub willing_bytes: Option<u64>,
    /// Bytes that are.
    pub used_bytes: u64,
    /// The nodes that are known to keep images for others, this one included.
    pub willing_nodes: u64,
    /// The publishers whose accounts are known.
    pub publishers: Vec<PublisherStatus>,
}

/// A publisher's account.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct PublisherStatus {
    /// The publisher's key.
    pub publisher: String,
    /// The sequence of the record that names the account; none if there is none that counts.
    pub sequence: Option<u64>,
    /// Bytes of its images that are kept here at most; none if none are to be kept here.
    pub granted_bytes: Option<u64>,
    /// What is wrong with it, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The images of the account, in the order in which they were added.
    pub images: Vec<ReplicaStatus>,
}

/// An image that is to be kept.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct ReplicaStatus {
    /// The hexadecimal digest of its manifest.
    pub image: String,
    /// Bytes of its packs, as the publisher says.
    pub bytes: u64,
    /// How many nodes are to keep it.
    pub copies: u64,
    /// How many others have proven that they do; none if this node does not look after it.
    pub proven: Option<u64>,
    /// What is here of it for others.
    pub here: ReplicaHere,
    /// Whether it is over what the publisher is granted here.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub refused: bool,
}

/// What a node has of an image for others.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaHere {
    /// Nothing: others keep it.
    #[default]
    No,
    /// It is being brought.
    Coming,
    /// It is kept.
    Kept,
    /// It has more bytes than the account says, and is not kept.
    TooLarge,
}
