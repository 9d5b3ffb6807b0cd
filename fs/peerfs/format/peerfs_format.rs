// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The peerfs image format and the upcall messages.
//!
//! Readers that check everything, allocate nothing and do no I/O, so that the kernel and userspace
//! share them. They assume that the blob's digest was verified, and nothing about who made it: a
//! reader returns an error or an empty answer on any input, and never panics.
//!
//! All of an image is one Merkle tree:
//! manifest digest -> blob table digest -> pack index and inode shard digests -> stored chunk digests
//! -> bytes.

#![cfg_attr(not(CONFIG_RUST), no_std)]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[cfg(test)]
extern crate std;

mod bitmap;
mod blob_table;
mod chunks;
mod digest;
pub mod encryption;
mod error;
mod extents;
mod limits;
mod manifest;
mod message;
mod pack_index;
mod places;
mod record;
mod shard;
mod signed;
mod table;
pub mod upcall;
mod used;

/// Readers and builders generated from `peerfs.capnp`.
#[allow(
    missing_docs,
    clippy::all,
    unreachable_pub,
    dead_code,
    unused_qualifications
)]
pub mod peerfs_capnp {
    #[cfg(not(CONFIG_RUST))]
    include!(concat!(env!("OUT_DIR"), "/peerfs_capnp.rs"));
    #[cfg(CONFIG_RUST)]
    include!("peerfs_capnp.rs");
}

pub use bitmap::Bitmap;
pub use blob_table::{BlobTable, BlobTableLayout};
pub use chunks::{ChunkPart, ChunkParts};
pub use digest::Digest;
pub use encryption::{Cipher, Iv, KeyId};
pub use error::{Error, Result};
pub use extents::{first_data, first_hole, pieces, ExtentList, Piece, Pieces, Source};
pub use limits::*;
pub use manifest::{EncryptedRoot, Manifest, Root};
pub use pack_index::{PackIndex, PackIndexLayout};
pub use places::{
    DataFile, Place, PlacesHeader, DATA_FILE_MAX, LOOSE_MAX, PLACES_HEADER_SIZE, PLACE_SIZE,
    SLOTS_MAX, SLOT_SIZE,
};
pub use record::{
    ChunkRecord, Codec, EntryRecord, ExtentRecord, FileType, InodeRecord, PackRecord, ShardRecord,
    SpanRecord, XattrRecord, XattrSetRecord, NO_XATTRS,
};
pub use shard::{is_xattr_name, Shard, ShardLayout, ShardTables};
pub use signed::{signed_text, SignedFile, SIGNED_COUNT_MAX, SIGNED_MAX};
pub use table::{Record, Table};
