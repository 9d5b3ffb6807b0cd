// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A build as a whole.

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use peerfs_format::encryption::{self, Kind};
use peerfs_format::{
    Digest, EncryptedRoot, Error as FormatError, Manifest, PackRecord, Root, ShardLayout,
    ShardRecord, Table, METADATA_MAX, ROOT_INODE,
};
use peerfs_store::{
    write_converted, write_image, Architecture, Error as StoreError, ImageBlobs, RuntimeConfig,
    Store, Tag,
};

use crate::base::BaseChunks;
use crate::content::{Contents, PackPlaces};
use crate::known_files::KnownFiles;
use crate::metadata;
use crate::pipeline::{self, Found};
use crate::shard_plan::{self, ShardSource};
use crate::tree::{NodeKind, Tree};
use crate::xattrs::XattrSets;
use crate::{shard_writer, Error, NewlySeen, Options, Result, TreeSource};

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
    /// The files of the source, if they were to be remembered ([`Options::remember`]).
    pub seen: Arc<NewlySeen>,
    /// Keeps what was built from being collected before it has a name.
    _building: Arc<File>,
}

impl BuiltImage {
    /// Makes the image known in the store under a tag, as one whose programs are for this architecture, and returns
    /// the digest of its OCI image index.
    ///
    /// # Errors
    /// A full or failing disk, or an `index.json` that is not valid; the tag is as before then.
    pub fn tag(&self, store: &Store, architecture: &Architecture, tag: &Tag) -> Result<Digest> {
        self.tag_with(store, architecture, &RuntimeConfig::default(), tag)
    }

    /// As [`BuiltImage::tag`], of an image whose programs are run with this configuration.
    ///
    /// # Errors
    /// Those of [`BuiltImage::tag`].
    pub fn tag_with(
        &self,
        store: &Store,
        architecture: &Architecture,
        config: &RuntimeConfig,
        tag: &Tag,
    ) -> Result<Digest> {
        let manifest = store.read_metadata(&self.manifest, METADATA_MAX)?;
        let blobs = self.blobs(&manifest);
        Ok(write_image(store, &blobs, architecture, config, tag)?)
    }

    /// As [`BuiltImage::tag_with`], of an image that was made of an ordinary one with these OCI indexes and manifests; it needs
    /// no tag.
    ///
    /// # Errors
    /// Those of [`BuiltImage::tag`].
    pub fn tag_converted(
        &self,
        store: &Store,
        (architecture, config): (&Architecture, &RuntimeConfig),
        tag: Option<&Tag>,
        originals: &[Digest],
    ) -> Result<Digest> {
        let manifest = store.read_metadata(&self.manifest, METADATA_MAX)?;
        let blobs = self.blobs(&manifest);
        let written = write_converted(store, &blobs, architecture, config, tag, originals);
        Ok(written?)
    }

    fn blobs<'a>(&'a self, manifest: &'a [u8]) -> ImageBlobs<'a> {
        ImageBlobs {
            manifest,
            blob_table: self.blob_table,
            blob_table_length: self.blob_table_length,
            shards: &self.shards,
            packs: &self.packs,
        }
    }
}

/// The progress of a build, for whoever watches it from another thread.
#[derive(Debug, Default)]
pub struct Progress {
    files_found: AtomicU64,
    bytes_found: AtomicU64,
    is_walk_done: AtomicBool,
    files_done: AtomicU64,
    bytes_done: AtomicU64,
}

impl Progress {
    /// Regular files found in the tree so far, and their bytes.
    pub fn found(&self) -> (u64, u64) {
        (
            self.files_found.load(Ordering::Relaxed),
            self.bytes_found.load(Ordering::Relaxed),
        )
    }

    /// Whether all files have been found.
    pub fn is_walk_done(&self) -> bool {
        self.is_walk_done.load(Ordering::Relaxed)
    }

    /// Regular files read so far, and bytes of them.
    pub fn done(&self) -> (u64, u64) {
        (
            self.files_done.load(Ordering::Relaxed),
            self.bytes_done.load(Ordering::Relaxed),
        )
    }

    pub(crate) fn add_found(&self, bytes: u64) {
        self.files_found.fetch_add(1, Ordering::Relaxed);
        self.bytes_found.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn finish_walk(&self) {
        self.is_walk_done.store(true, Ordering::Relaxed);
    }

    pub(crate) fn add_done(&self, files: u64, bytes: u64) {
        self.files_done.fetch_add(files, Ordering::Relaxed);
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Builds an image from a tree, and writes its blobs to the store. The same tree, with the same compression and
/// base, makes the same image, whatever the machine and the number of threads; and whatever the source, if
/// it hands files over in the tree's order (see [`TreeSource`]).
///
/// # Errors
/// See [`Error`]. Blobs that were complete by then stay in the store, which a later build of the
/// same tree makes use of; nothing else does.
pub fn build<S: TreeSource>(
    source: S,
    store: &Arc<Store>,
    options: &Options,
    progress: &Progress,
) -> Result<BuiltImage> {
    if !options.layout.chunks.are_valid() {
        return Err(Error::ChunkSizes(options.layout.chunks));
    }
    let root = source.path().to_owned();
    let xattrs = XattrSets::default();
    let building = Arc::new(store.lock_for_building()?);
    let started = SystemTime::now();
    store.rebuild_catalogue(|| options.give_up.is_due());
    let base = BaseChunks::read(store, options)?;
    let known_files = match options.usable_update() {
        Some(seen) => Some(KnownFiles::open(
            store,
            seen,
            &base,
            options.realm.as_ref(),
        )?),
        None => None,
    };
    let features = base.features() | options.features();
    let mut packs = base.packs().to_vec();
    let Found {
        tree,
        seen,
        contents,
        new_packs,
        unusable_chunks,
    } = pipeline::run(
        source,
        store,
        options,
        base,
        known_files.as_ref(),
        progress,
        &xattrs,
    )?;
    packs.extend(new_packs);
    let (places, packs) = PackPlaces::new(&packs, &contents);
    let shards = ShardSource {
        tree: &tree,
        contents: &contents,
        packs: &places,
        xattrs: &xattrs,
    };
    let shards = shard_plan::plan(&shards, options.layout.shard, &root)
        .and_then(|planned| shard_writer::write_all(&shards, &planned, store, options, &root));
    let content_bytes = content_bytes(&tree, &contents);
    // What could not be read back looks like what is not there.
    tree.check()?;
    contents.check()?;
    let shards = shards?;
    let blob_table = metadata::encode_blob_table(&packs, &shards);
    if blob_table.len() as u64 > METADATA_MAX {
        return Err(Error::TooLarge {
            what: "bytes in its list of packs and shards",
            path: root,
            count: blob_table.len() as u64,
            limit: METADATA_MAX,
        });
    }
    let manifest = Manifest {
        features,
        inode_count: tree.nodes.len() as u64,
        content_bytes,
        stored_bytes: packs.iter().map(|pack| pack.stored_length).sum(),
        root: read_root(store, &shards, options)?,
        blob_table: store.add_blob(&blob_table)?,
        blob_table_length: blob_table.len() as u32,
    };
    let blob = metadata::encode_manifest(&manifest);
    let digest = store.add_blob(&blob)?;
    let seen = NewlySeen {
        manifest: digest,
        settings: options.settings(),
        started: time_before(started),
        files: seen,
    };
    Ok(BuiltImage {
        manifest: digest,
        manifest_length: blob.len() as u64,
        blob_table: manifest.blob_table,
        blob_table_length: blob_table.len() as u64,
        inode_count: manifest.inode_count,
        content_bytes: manifest.content_bytes,
        stored_bytes: manifest.stored_bytes,
        packs,
        shards,
        unusable_chunks,
        seen: Arc::new(seen),
        _building: building,
    })
}

/// A time that is surely before `now` by the clock of a filesystem, which may be behind by what its times are rounded to.
fn time_before(now: SystemTime) -> (i64, u32) {
    const BEHIND: Duration = Duration::from_secs(2);
    let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let before = since_epoch.saturating_sub(BEHIND);
    (before.as_secs() as i64, before.subsec_nanos())
}

/// The root directory's record, which the manifest repeats, from the shard that has it.
fn read_root(store: &Store, shards: &[ShardRecord], options: &Options) -> Result<Root> {
    let first = shards.first().expect("a tree has a root");
    let mut blob = store.read_metadata(&first.digest, first.length.into())?;
    let mut read = || {
        let blob = match &options.realm {
            Some(realm) => encryption::decrypt(&mut blob, realm, "inode shard")?,
            None => &mut blob,
        };
        // A directory lies in no pack.
        let packs = Table::new(&[], "pack list")?;
        let root = ShardLayout::parse(blob, first)?;
        let root = root.view(blob).inode(ROOT_INODE, &packs)?;
        let Some(realm) = &options.realm else {
            return Ok(Root::Plain(root));
        };
        let record = realm.encrypt(Kind::Root, &metadata::table(&[root]));
        let record = <[u8; EncryptedRoot::SIZE]>::try_from(record)
            .map_err(|_| FormatError::Malformed("root directory"))?;
        Ok(Root::Encrypted(EncryptedRoot {
            key_id: realm.id(),
            record,
        }))
    };
    Ok(read().map_err(StoreError::format(first.digest))?)
}

/// Bytes that regular files hold, holes not counted; each inode once.
fn content_bytes(tree: &Tree, contents: &Contents) -> u64 {
    let files = tree.nodes.iter().filter_map(|node| match node.kind {
        NodeKind::Regular(file) => contents.file(file),
        _ => None,
    });
    files.map(|file| file.allocated).sum()
}
