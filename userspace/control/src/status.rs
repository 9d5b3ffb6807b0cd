// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How a daemon and what it cares for are doing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{PeerStatus, Reachability};

/// How a daemon is doing.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// The hash of the node's public key.
    pub node_id: String,
    /// Where other nodes reach it, as multiaddresses.
    pub listen_addresses: Vec<String>,
    /// The fingerprint of its swarm's key; none if the swarm is not private.
    #[serde(default)]
    pub private_swarm: Option<String>,
    /// The public key of the swarm whose members it speaks with; none if its nodes need no certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member_of: Option<String>,
    /// How others reach it; none on a local network, where that is not looked at.
    #[serde(default)]
    pub reachability: Option<Reachability>,
    /// The nodes that it is connected to.
    pub peers: Vec<PeerStatus>,
    /// The images of its store and those that are mounted from it.
    pub images: Vec<ImageStatus>,
    /// The images that are to be kept complete, those that nobody has too.
    #[serde(default)]
    pub pins: Vec<PinStatus>,
    /// The images of which all is being brought into the store, for pins or for clients.
    #[serde(default)]
    pub pulls: Vec<PullStatus>,
    /// Requests of the kernel that are not answered yet.
    pub requests_in_flight: u64,
    /// Bytes fetched since the daemon started, by the name of the source.
    pub bytes_by_source: BTreeMap<String, u64>,
    /// Sources that sent wrong bytes since the daemon started, and are not asked any more.
    pub lying_sources: u64,
}

/// What a collection has given up, or would.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Collected {
    /// Blobs that were removed.
    pub blobs: u64,
    /// Tables of places that were removed.
    pub tables: u64,
    /// Packs and loose files of which a part was given up.
    pub thinned: u64,
    /// Bytes on the disk that are free now; of a dry run those of what would be removed as a whole.
    pub bytes: u64,
}

/// An image in the daemon's store.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ImageStatus {
    /// The hexadecimal digest of its manifest.
    pub manifest: String,
    /// The tags that name it.
    pub tags: Vec<String>,
    /// Bytes of its packs, as stored.
    pub total_bytes: u64,
    /// Those of them that are in the store.
    pub present_bytes: u64,
}

/// An image that is to be kept complete.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct PinStatus {
    /// What it is called there: a tag or the hexadecimal digest of its manifest.
    pub image: String,
    /// Who wants it to be kept.
    #[serde(default)]
    pub origin: PinOrigin,
    /// How it is doing, for people.
    pub state: String,
}

/// Who wants an image to be kept complete.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PinOrigin {
    /// The daemon's configuration.
    #[default]
    Configuration,
    /// A client, by the command `pin`.
    Command,
    /// A publisher, whose images are kept here for others.
    Replica,
}

/// A mount over the daemon's store, in the mount namespace of the daemon.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct MountStatus {
    /// The hexadecimal digest of its manifest.
    pub manifest: String,
    /// The tags that name the image.
    pub tags: Vec<String>,
    /// Where it is mounted; what is no UTF-8 of it is replaced.
    pub mountpoint: String,
    /// Bytes of the image's packs that are not in the store; none if that is not known yet.
    pub missing_bytes: Option<u64>,
}

/// How it is going with bringing all of an image into the store.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct PullStatus {
    /// The hexadecimal digest of its manifest.
    pub image: String,
    /// What is being done.
    pub state: PullState,
    /// Why nothing comes, or why it failed, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Bytes of all its blobs, once that is known.
    pub total_bytes: Option<u64>,
    /// Those of them that are in the store.
    pub present_bytes: u64,
    /// Chunks of its packs, once that is known.
    pub total_chunks: Option<u64>,
    /// Those of them that are in the store.
    pub present_chunks: u64,
    /// Bytes that were fetched for it meanwhile, by the name of the source.
    pub bytes_by_source: BTreeMap<String, u64>,
    /// What it has to do with the ordinary image that was asked for; absent if none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversion: Option<Conversion>,
}

/// What an image has to do with an ordinary one.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Conversion {
    /// It was made of it.
    Made,
    /// It had been made of it before.
    Known,
}

/// What is being done to bring all of an image into the store.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PullState {
    /// It is being fetched, or what is here is being checked.
    #[default]
    Fetching,
    /// Something of it does not come.
    Waiting,
    /// It is being made of an ordinary image, of whose layers the bytes are.
    Converting,
    /// What mounting it needs is here, which is all that was asked for.
    Mountable,
    /// All of it is here.
    Complete,
    /// It failed, and is tried again for a pin.
    Retried,
    /// It can never be complete.
    Failed,
}
