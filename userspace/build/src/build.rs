// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A build as a whole.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use flume::bounded;
use peerfs_format::{
    Digest, InodeRecord, Manifest, PackRecord, ShardLayout, ShardRecord, Table, METADATA_MAX,
    ROOT_INODE,
};
use peerfs_store::{write_image, Error as StoreError, ImageBlobs, Store};

use crate::base::BaseChunks;
use crate::content::{Contents, PackPlaces};
use crate::manifest;
use crate::message::ReadContext;
use crate::sequence::ChunkQueue;
use crate::shard_plan::{self, ShardSource};
use crate::threads::{join, spawn};
use crate::tree::{Kind, Tree};
use crate::unreadable::Unreadable;
use crate::walk::ReadQueue;
use crate::xattrs::XattrSets;
use crate::{
    compress, file_reader, pack_writer, sequence, shard_writer, walk, Error, Options, Progress,
    Result,
};

/// Jobs that wait for a reading thread, and as many for the sequencer.
const READS_WAITING: usize = 16;
/// Chunks that wait for a compressing thread.
const CHUNKS_WAITING: usize = 64;
/// Compressed chunks, and those being compressed, that wait for the packer.
const STORED_WAITING: usize = 256;

/// An image that was built: all of it is in the store.
#[derive(Clone, Debug)]
pub struct BuiltImage {
    /// The manifest's digest, which is what a mount is given.
    pub manifest: Digest,
    /// The manifest's bytes.
    pub manifest_length: u64,
    /// The blob table's digest.
    pub blob_table: Digest,
    /// The blob table's bytes.
    pub blob_table_length: u64,
    /// Inodes of the image.
    pub inode_count: u64,
    /// Bytes that regular files hold, holes not counted.
    pub content_bytes: u64,
    /// Bytes of the packs.
    pub stored_bytes: u64,
    /// The packs.
    pub packs: Vec<PackRecord>,
    /// The inode shards.
    pub shards: Vec<ShardRecord>,
    /// Chunks of the base that would have been used, were they not missing or damaged.
    pub unusable_chunks: u64,
}

impl BuiltImage {
    /// Makes the image known in the store under a tag, and returns the digest of its OCI image
    /// manifest.
    ///
    /// # Errors
    /// A full or failing disk, or an `index.json` that is not valid; the tag is as before then.
    pub fn tag(&self, store: &Store, tag: &str) -> Result<Digest> {
        let blobs = ImageBlobs {
            manifest: self.manifest,
            manifest_length: self.manifest_length,
            blob_table: self.blob_table,
            blob_table_length: self.blob_table_length,
            shards: &self.shards,
            packs: &self.packs,
        };
        Ok(write_image(store, &blobs, tag)?)
    }
}

/// Builds an image from the directory tree at `root`, and writes its blobs to the store. The same
/// tree, with the same compression and base, makes the same image, whatever the machine and the
/// number of threads.
///
/// # Errors
/// See [`Error`]. Blobs that were complete by then stay in the store, which a later build of the
/// same tree makes use of; nothing else does.
pub fn build(
    root: &Path,
    store: &Arc<Store>,
    options: &Options,
    progress: &Progress,
) -> Result<BuiltImage> {
    if !options.layout.chunks.are_valid() {
        return Err(Error::ChunkSizes(options.layout.chunks));
    }
    let xattrs = XattrSets::default();
    let base = BaseChunks::read(store, options)?;
    let mut packs = base.packs().to_vec();
    let Found {
        tree,
        contents,
        new_packs,
        unusable_chunks,
    } = read_tree(root, store, options, base, progress, &xattrs)?;
    packs.extend(new_packs);
    let (places, packs) = PackPlaces::new(&packs, &contents);
    let source = ShardSource {
        tree: &tree,
        contents: &contents,
        packs: &places,
        xattrs: &xattrs,
    };
    let planned = shard_plan::plan(&source, options.layout.shard, root)?;
    let shards = shard_writer::write_all(&source, &planned, store, options, root)?;
    let blob_table = manifest::encode_blob_table(&packs, &shards);
    if blob_table.len() as u64 > METADATA_MAX {
        return Err(Error::TooLarge {
            what: "bytes in its list of packs and shards",
            path: root.to_owned(),
            count: blob_table.len() as u64,
            limit: METADATA_MAX,
        });
    }
    let manifest = Manifest {
        inode_count: tree.nodes.len() as u64,
        content_bytes: content_bytes(&tree, &contents),
        stored_bytes: packs.iter().map(|pack| pack.stored_length).sum(),
        root: read_root(store, &shards)?,
        blob_table: store.add_blob(&blob_table)?,
        blob_table_length: blob_table.len() as u32,
    };
    let blob = manifest::encode(&manifest);
    Ok(BuiltImage {
        manifest: store.add_blob(&blob)?,
        manifest_length: blob.len() as u64,
        blob_table: manifest.blob_table,
        blob_table_length: blob_table.len() as u64,
        inode_count: manifest.inode_count,
        content_bytes: manifest.content_bytes,
        stored_bytes: manifest.stored_bytes,
        packs,
        shards,
        unusable_chunks,
    })
}

/// The root directory's record, which the manifest repeats, from the shard that has it.
fn read_root(store: &Store, shards: &[ShardRecord]) -> Result<InodeRecord> {
    let first = shards.first().expect("a tree has a root");
    let blob = store.read_metadata(&first.digest, first.length.into())?;
    let root = ShardLayout::parse(&blob, first).and_then(|layout| {
        // A directory lies in no pack.
        let packs = Table::new(&[], "pack list")?;
        layout.view(&blob).inode(ROOT_INODE, &packs)
    });
    Ok(root.map_err(StoreError::format(first.digest))?)
}

/// What the stages from the walk to the packs make.
struct Found {
    tree: Tree,
    contents: Contents,
    new_packs: Vec<PackRecord>,
    unusable_chunks: u64,
}

/// Runs the stages from the walk to the packs.
fn read_tree(
    root: &Path,
    store: &Store,
    options: &Options,
    base: BaseChunks,
    progress: &Progress,
    xattrs: &XattrSets,
) -> Result<Found> {
    let layout = &options.layout;
    let unreadable = Unreadable::default();
    let (read_requests, to_read) = bounded(READS_WAITING);
    let (read_results, to_sequence) = bounded(READS_WAITING);
    let (compress_requests, to_compress) = bounded(CHUNKS_WAITING);
    let (stored_results, to_pack) = bounded(STORED_WAITING);
    let found = thread::scope(|scope| -> Result<Found> {
        let read_queue = ReadQueue {
            requests: read_requests,
            results: read_results,
        };
        let context = ReadContext {
            options,
            xattrs,
            progress,
            unreadable: &unreadable,
        };
        let walker = spawn(scope, move || {
            walk::walk(root, store.root_dir(), read_queue, context)
        })?;
        for _ in 0..options.threads.get() {
            let to_read = to_read.clone();
            spawn(scope, move || file_reader::run(&to_read, context))?;
        }
        drop(to_read);
        let chunk_queue = ChunkQueue {
            requests: compress_requests,
            results: stored_results,
        };
        let sequencer = spawn(scope, move || {
            sequence::run(&to_sequence, chunk_queue, base, layout)
        })?;
        let compressors = (0..options.threads.get())
            .map(|_| {
                let to_compress = to_compress.clone();
                spawn(scope, move || compress::run(&to_compress, options))
            })
            .collect::<Result<Vec<_>>>()?;
        drop(to_compress);
        let new_packs = pack_writer::run(to_pack, store, options);
        // A stage that stops early makes those before it stop without an error of their own, so
        // the error is that of the last stage that has one.
        let contents = join(sequencer);
        let tree = join(walker);
        let compressed = compressors.into_iter().try_for_each(join);
        let new_packs = new_packs?;
        compressed?;
        let contents = contents?;
        let tree = tree?;
        match (tree, contents) {
            (Some(tree), Some((contents, unusable_chunks))) => Ok(Found {
                tree,
                contents,
                new_packs,
                unusable_chunks,
            }),
            _ => unreachable!("a stage stops early only because a later one fails"),
        }
    })?;
    unreadable.check()?;
    Ok(found)
}

/// Bytes that regular files hold, holes not counted; each inode once.
fn content_bytes(tree: &Tree, contents: &Contents) -> u64 {
    let files = tree.nodes.iter().filter_map(|node| match node.kind {
        Kind::Regular(file) => contents.file(file),
        _ => None,
    });
    files.map(|file| file.allocated).sum()
}
