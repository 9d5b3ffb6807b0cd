// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Builds an image from a tree: a directory, or what another [`TreeSource`] has.
//!
//! The stages run at the same time, with bounded queues in between; what they make depends on the
//! tree alone and not on their timing:
//!
//! ```text
//! walk      one thread    names and inodes, in order            -> files to read
//! read      all CPUs      content, its digest, big files' chunks -> in the order of the files
//! sequence  one thread    small files' chunks, deduplication    -> chunks with a place
//! compress  all CPUs      stored bytes and their digest          -> in the order of the places
//! pack      one thread    packs and their indexes
//! ```
//!
//! After them come the inode shards and the manifest.
//!
//! # Example
//! ```
//! use std::sync::Arc;
//!
//! use peerfs_build::{build, DirectorySource, Options, Progress};
//! use peerfs_store::Store;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let (tree, store) = (folder.path().join("tree"), folder.path().join("store"));
//! # std::fs::create_dir(&tree)?;
//! std::fs::write(tree.join("hello"), "Hello.\n")?;
//! let store = Arc::new(Store::create(&store)?);
//! let source = DirectorySource::new(tree, &store);
//! let image = build(source, &store, &Options::default(), &Progress::default())?;
//! assert_eq!((image.inode_count, image.content_bytes), (2, 7));
//! image.tag(&store, &"amd64".parse()?, &"example".parse()?)?;
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod base;
mod borders;
mod build;
mod chunker;
mod compressor;
mod content;
mod error;
mod known_files;
#[cfg(test)]
mod many_files;
mod metadata;
mod options;
mod pack;
mod pipeline;
mod read;
mod seen;
mod sequence;
mod shard_plan;
mod shard_writer;
mod source;
mod table;
mod tree;
mod tree_builder;
mod xattrs;

/// The reader of `puzzlefs.capnp`, as the compiler of schemas writes it.
#[allow(missing_docs, dead_code, clippy::all)]
mod puzzlefs_capnp {
    include!(concat!(env!("OUT_DIR"), "/puzzlefs_capnp.rs"));
}

pub use borders::{PackBorders, PackSizes};
pub use build::{build, BuiltImage, Progress};
pub use error::{Error, Result};
pub use options::{ChunkSizes, Compression, GiveUp, Layout, Options};
pub use read::{QueuedFile, ReadQueue};
pub use seen::{FileIdentity, NewlySeen, SeenFiles};
pub use source::{
    ArchiveFile, ArchiveTree, Attributes, Blob, DeviceNumber, DirectorySource, FileReader, Kind,
    Layer, LayersSource, Limits, Metadata, Owner, PatternError, Promise, PuzzleFile,
    PuzzleFsSource, ReadBlob, ReadProgress, SourceFile, TreeSource,
};
pub use tree::Tree;
pub use tree_builder::TreeBuilder;
pub use xattrs::XattrSet;
