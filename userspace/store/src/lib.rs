// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The store: `root_dir`, an OCI image layout, and beside it the chunks of packs that are not whole, each once. What is
//! where in it is in `Documentation/store.md`.
//!
//! A file in `blobs/` is whole: it got its name after its digest was checked and it was on disk.
//! Nobody trusts that it stayed so: everything that is read is verified again.

#![forbid(unsafe_code)]
#![warn(clippy::missing_errors_doc)]

mod access;
mod blob_writer;
mod catalogue;
mod chunk;
mod collect;
mod copy;
mod difference;
mod digest;
mod directory;
mod envelopes;
mod error;
mod findings;
mod image;
mod images;
mod index_file;
mod inode;
mod inventory;
mod known_chunks;
mod layout;
mod lock;
mod mounts;
mod oci_form;
mod pack;
mod pack_writer;
mod places;
mod programs;
mod reader;
mod signatures;
mod signed;
mod store;
mod stub;
mod temporary_file;
#[cfg(test)]
mod tests;
mod traces;
mod verify;
mod whole_file;

pub use blob_writer::BlobWriter;
pub use chunk::{decode_chunk, StoredChunk};
pub use collect::{Collect, Collected, Evicted, ImageShare, Keep, Recency, Shares};
pub use copy::{CopyBlob, CopyDocument, ImageCopy};
pub use difference::{difference, transfer, Aspect, Change, Difference, Transfer, Unseen};
pub use digest::{sha256, Sha256Writer};
pub use error::{Error, Result};
pub use image::{Entry, Image};
pub use images::{write_converted, write_image, Converted, TaggedImage};
pub use inode::Inode;
pub use inventory::{BlobKind, BlobPresence, Inventory};
pub use known_chunks::{ContentId, KnownChunk, KnownChunks};
pub use mounts::StoreMount;
pub use pack::{LentPack, Pack, PackFiles, Watcher};
pub use pack_writer::{MadeChunk, PackWriter};
pub use peerfs_oci::{
    Architecture, ImageBlobs, InvalidReference, Reference, RegistryReference, RuntimeConfig, Tag,
};
pub use peerfs_realm::{Envelope, Grant, RealmKey};
pub use peerfs_text::{printable, printable_bytes, Printable};
pub use reader::{ChunkReader, PackReader};
pub use signatures::NotedSignature;
pub use store::{is_store, Store, Usage};
pub use stub::unpacked_stub;
pub use temporary_file::TemporaryFile;
pub use verify::{verify, Damage, VerifyProgress, VerifyReport};

/// The place of the store unless the user says otherwise.
pub const DEFAULT_ROOT_DIR: &str = "/var/lib/peerfs";
