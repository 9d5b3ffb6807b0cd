// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The media types of an image's blobs.

/// What they all begin with.
pub(crate) const PREFIX: &str = "application/vnd.peerfs.";
/// The artifact as a whole.
pub const IMAGE: &str = "application/vnd.peerfs.image.v1";
/// The manifest.
pub const MANIFEST: &str = "application/vnd.peerfs.manifest.v1";
/// The blob table.
pub const BLOB_TABLE: &str = "application/vnd.peerfs.blob-table.v1";
/// An inode shard.
pub const INODE_SHARD: &str = "application/vnd.peerfs.inode-shard.v1";
/// A pack index.
pub const PACK_INDEX: &str = "application/vnd.peerfs.pack-index.v1";
/// What the chunks of a pack have as their content, for builders.
pub const PACK_CONTENTS: &str = "application/vnd.peerfs.pack-contents.v1";
/// A pack.
pub const PACK: &str = "application/vnd.peerfs.pack.v1";
