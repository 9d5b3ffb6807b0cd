// SPDX-License-Identifier: GPL-2.0

//! The store: opened packs and blobs, verification, decoding. Knows no inodes; what is not in the
//! store it asks its [`Origin`] for.
//!
//! Nothing that is read here is trusted: metadata is checked against the digest that leads to it,
//! a chunk's stored bytes against the digest in its pack's index, before they are looked at.
#![forbid(unsafe_code)]

mod blob;
mod cache;
mod chunk;
mod content;
mod decode;
mod decoding;
mod kept;
mod origin;
mod pack;
mod places;
mod readahead;
mod realm;
mod signature;
mod statistics;
mod stored;
mod usage;
mod view;

use kernel::alloc::flags::GFP_KERNEL_ACCOUNT;
use kernel::cred::Credential;
use kernel::ffi::c_int;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::rbtree::RBTree;
use kernel::str::CString;
use kernel::sync::aref::ARef;
use kernel::sync::{Arc, Mutex, SetOnce};
use peerfs_format::upcall::BlobKind;
use peerfs_format::{
    BlobTable, BlobTableLayout, Digest, InodeRecord, Iv, Manifest, PackIndexLayout, PackRecord,
    Root, ShardLayout,
};

use crate::rust::cred::override_credential;
use crate::rust::fs::{Directory, Found};
use crate::rust::mm::Shrinker;
use crate::rust::ratelimit::Reporter;
use blob::{Blob, Expected};
use cache::Caches;
use decoding::Decoding;
use kept::{Kept, KeptValues};
use pack::{Opener, Pack};
use places::DataFiles;
use readahead::{OwnWork, Sequence};
use realm::Realm;

pub(crate) use blob::OpenError;

/// An inode shard in memory.
pub(crate) type ShardBlob = Blob<ShardLayout>;
/// An inode shard that stays in memory.
pub(crate) type KeptShard = Kept<u32, ShardBlob>;
/// A pack index in memory.
type IndexBlob = Blob<PackIndexLayout>;
pub(crate) use origin::{BlobRequest, ChunksRequest, Fetched, FetchedPlaces, Missed, Origin};
pub(crate) use readahead::{ahead, lengthened, widened, Runs, Workers};
pub(crate) use signature::verify_signature;
pub(crate) use statistics::Statistics;
pub(crate) use usage::Usage;
pub(crate) use view::{PackView, Views};

/// The store of a mount, read for one image.
#[pin_data]
pub(crate) struct Store<O: Origin> {
    /// The path that it was mounted with, for messages.
    name: CString,
    log: Pin<KBox<Reporter>>,
    // Before the directory, by which it knows the store.
    origin: O,
    directory: Directory,
    /// The mounter's, with which everything in the store is opened.
    credential: ARef<Credential>,
    statistics: Arc<Statistics>,
    manifest_digest: Digest,
    manifest: Manifest,
    /// Of an encrypted image.
    realm: Option<Realm>,
    root: InodeRecord,
    /// Read when something is looked up for the first time: a mount does without.
    blob_table: SetOnce<Blob<BlobTableLayout>>,
    #[pin]
    packs: Mutex<RBTree<u32, Arc<Pack>>>,
    /// Indexes that were asked for ahead of those who come to their packs, by the numbers of these. A leaf.
    #[pin]
    asked_indexes: Mutex<RBTree<u32, O::AskedBlob>>,
    caches: Arc<Caches>,
    /// Those that inodes have their extents in.
    kept_shards: Arc<KeptValues<u32, ShardBlob>>,
    /// Those that packs have chunks in.
    data_files: Arc<DataFiles>,
    _shrinker: Shrinker<Caches>,
    #[pin]
    decoding: Decoding,
    sequence: Sequence,
    workers: Arc<Workers>,
    /// What its readers have still to do.
    work: Arc<OwnWork>,
}

impl<O: Origin> Store<O> {
    /// Opens the store for the image with this manifest, which it reads.
    pub(crate) fn open(
        name: CString,
        directory: Directory,
        credential: ARef<Credential>,
        manifest_digest: Digest,
        origin: O,
        workers: Arc<Workers>,
        is_privileged: bool,
    ) -> core::result::Result<Arc<Self>, OpenError> {
        let log =
            KBox::pin_init(Reporter::new(is_privileged), GFP_KERNEL).map_err(OpenError::Read)?;
        let work = OwnWork::new(is_privileged).map_err(OpenError::Read)?;
        let depth = directory.stack_depth().saturating_add(1);
        let statistics = Arc::new(Statistics::new(), GFP_KERNEL)?;
        let caches = Caches::new(depth).map_err(OpenError::Read)?;
        let kept_shards = KeptValues::new().map_err(OpenError::Read)?;
        let data_files = DataFiles::new().map_err(OpenError::Read)?;
        let shrinker = Shrinker::new(c"peerfs-caches", caches.clone()).map_err(OpenError::Read)?;
        let manifest = Blob::<Manifest>::open(
            &Expected {
                store: &name,
                log: &log,
                statistics: &statistics,
                digest: &manifest_digest,
                length: None,
            },
            || open_blob(&directory, &credential, &manifest_digest),
            |again| {
                origin.fetch_blob(&BlobRequest {
                    digest: manifest_digest,
                    manifest: manifest_digest,
                    kind: BlobKind::Manifest,
                    length: 0,
                    again,
                })
            },
            |bytes| Manifest::parse(bytes),
        )?;
        let (realm, root) = match &manifest.view().root {
            Root::Plain(record) => (None, *record),
            Root::Encrypted(root) => {
                let id = root.key_id;
                let realm = Realm::find(&id).map_err(|error| match error {
                    ENOMEM => OpenError::Read(ENOMEM),
                    error => OpenError::Key(id, error),
                })?;
                let record = root.decrypt(&realm).map_err(OpenError::Format)?;
                (Some(realm), record)
            }
        };
        Arc::pin_init(
            pin_init!(Store {
                name,
                log,
                origin,
                directory,
                credential,
                statistics,
                manifest_digest,
                manifest: *manifest.view(),
                realm,
                root,
                blob_table: SetOnce::new(),
                packs <- new_mutex!(RBTree::new(), "peerfs packs"),
                asked_indexes <- new_mutex!(RBTree::new(), "peerfs asked indexes"),
                _shrinker: shrinker,
                caches,
                kept_shards,
                data_files,
                decoding <- Decoding::new(depth),
                sequence: Sequence::new(),
                workers,
                work,
            }),
            GFP_KERNEL,
        )
        .map_err(OpenError::Read)
    }

    /// The path that the store was mounted with.
    pub(crate) fn name(&self) -> &CString {
        &self.name
    }

    /// What was counted since it was opened.
    pub(crate) fn statistics(&self) -> &Arc<Statistics> {
        &self.statistics
    }

    /// How many filesystems are stacked on each other below a filesystem over this store.
    pub(crate) fn stack_depth(&self) -> c_int {
        self.directory.stack_depth().saturating_add(1)
    }

    /// Whether its files may share their pages with those of other mounts: only if nobody can be made to wait for
    /// pages of this mount by filling those that are shared (see `rust/fs/pages.rs`).
    pub(crate) fn shares_pages(&self) -> bool {
        self.directory.is_local()
    }

    /// Waits for what its readers have still to do, but not for ever: what is left then has the store until it is done.
    pub(crate) fn wait_for_work(&self) {
        self.work.wait();
    }

    /// The digest of the image's manifest.
    pub(crate) fn manifest_digest(&self) -> &Digest {
        &self.manifest_digest
    }

    /// The image's manifest.
    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The record of the image's root directory.
    pub(crate) fn root(&self) -> &InodeRecord {
        &self.root
    }

    /// What a chunk with this initialization vector is decrypted with.
    fn encryption(&self, iv: Option<Iv>) -> Option<(&Realm, Iv)> {
        self.realm.as_ref().zip(iv)
    }

    /// The image's blob table. May open it by path.
    fn blob_table(&self) -> Result<BlobTable<'_>> {
        if let Some(table) = self.blob_table.as_ref() {
            return Ok(table.view());
        }
        let Manifest {
            inode_count,
            blob_table: digest,
            blob_table_length: length,
            ..
        } = self.manifest;
        let table = self.blob_by_path(BlobKind::BlobTable, digest, length, |bytes| {
            BlobTableLayout::parse(bytes, inode_count)
        })?;
        // Another task may have been faster: its table is as good.
        self.blob_table.populate(table);
        Ok(self.blob_table.as_ref().ok_or(EIO)?.view())
    }

    /// The index in the blob table of the shard that holds an inode. May open that by path.
    pub(crate) fn shard_of(&self, inode: u64) -> Result<u32> {
        let shard = self.blob_table()?.shard_of(inode);
        shard.ok_or_else(|| {
            let error = peerfs_format::Error::Malformed("inode number");
            self.refused(&self.manifest.blob_table, error)
        })
    }

    /// An inode shard, by its index in the blob table. May open it by path.
    pub(crate) fn shard(&self, number: u32) -> Result<Arc<ShardBlob>> {
        if let Some(shard) = self.caches.shards.get(&number) {
            self.statistics.blobs.cached.count();
            return Ok(shard);
        }
        if let Some(shard) = self.kept_shards.get(number) {
            self.statistics.blobs.cached.count();
            self.caches.shards.insert(number, shard.clone());
            return Ok(shard);
        }
        let record = self.blob_table()?.shard(number);
        let record = record.map_err(|error| self.refused(&self.manifest.blob_table, error))?;
        let shard = self.blob_by_path(
            BlobKind::InodeShard,
            record.digest,
            record.length,
            |bytes| {
                if let Some(realm) = &self.realm {
                    realm.decrypt_shard(bytes)?;
                }
                ShardLayout::parse(bytes, &record)
            },
        )?;
        let shard = Arc::new(shard, GFP_KERNEL)?;
        self.caches.shards.insert(number, shard.clone());
        Ok(shard)
    }

    /// Keeps a shard, or the copy of it that somebody keeps already.
    pub(crate) fn keep_shard(&self, number: u32, shard: &Arc<ShardBlob>) -> Result<KeptShard> {
        self.kept_shards.keep(number, shard)
    }

    /// Opens a pack and its index by path, as far as the store has them: to be called where a path
    /// may be walked, so that reading never has to. Says whether the whole pack and its index are open: then
    /// nothing of them is to be opened any more.
    pub(crate) fn open_pack(&self, number: u32) -> Result<bool> {
        let pack = self.pack(number)?;
        let opener = Opener {
            store: &self.name,
            log: &self.log,
            directory: &self.directory,
            data_files: &self.data_files,
        };
        override_credential(&self.credential, || pack.open(&opener))
    }

    /// The image's blob table; EIO if nothing was looked up yet.
    pub(crate) fn known_blob_table(&self) -> Result<BlobTable<'_>> {
        Ok(self.blob_table.as_ref().ok_or(EIO)?.view())
    }

    /// Says in the log what is wrong with a blob of the image, whose digest is right: it was made like this.
    #[cold]
    pub(crate) fn refused(&self, blob: &Digest, error: peerfs_format::Error) -> Error {
        self.report(blob, core::format_args!("refused: {error}"));
        EIO
    }

    /// As [`Store::refused`], about an object that is in the shard of this index in the blob table.
    #[cold]
    pub(crate) fn refused_in(
        &self,
        shard: u32,
        object: core::fmt::Arguments<'_>,
        error: peerfs_format::Error,
    ) -> Error {
        let record = self.blob_table().map(|table| table.shard(shard));
        let digest = match record {
            Ok(Ok(record)) => record.digest,
            _ => self.manifest_digest,
        };
        self.report(&digest, core::format_args!("{object}: refused: {error}"));
        EIO
    }

    /// A metadata blob, opened by path, or from the origin.
    fn blob_by_path<L>(
        &self,
        kind: BlobKind,
        digest: Digest,
        length: u32,
        parse: impl Fn(&mut KVVec<u8>) -> peerfs_format::Result<L>,
    ) -> Result<Blob<L>> {
        let blob = Blob::open(
            &self.expected(&digest, length),
            || open_blob(&self.directory, &self.credential, &digest),
            |again| {
                self.origin.fetch_blob(&BlobRequest {
                    digest,
                    manifest: self.manifest_digest,
                    kind,
                    length: length.into(),
                    again,
                })
            },
            parse,
        );
        blob.map_err(|error| self.not_opened(&digest, error))
    }

    /// Says in the log why a blob cannot be had, unless that was told: what is damaged or refused is.
    #[cold]
    fn not_opened(&self, digest: &Digest, error: OpenError) -> Error {
        if let OpenError::Missing(_) | OpenError::Read(_) = error {
            self.report(digest, core::format_args!("{error}"));
        }
        error.into()
    }

    #[cold]
    fn report(&self, blob: &Digest, what: core::fmt::Arguments<'_>) {
        self.log.report(fmt!(
            "{}: blob {}: {what}\n",
            self.name.to_str().unwrap_or("store"),
            Hex(blob)
        ));
    }

    fn expected<'a>(&'a self, digest: &'a Digest, length: u32) -> Expected<'a> {
        Expected {
            store: &self.name,
            log: &self.log,
            statistics: &self.statistics,
            digest,
            length: Some(length),
        }
    }

    /// The pack of this index in the blob table, which whoever found the file has read: no path is walked.
    fn pack(&self, number: u32) -> Result<Arc<Pack>> {
        let mut packs = self.packs.lock();
        if let Some(pack) = packs.get(&number) {
            return Ok(pack.clone());
        }
        let record = self.known_blob_table()?.pack(number);
        let record = record.map_err(|error| self.refused(&self.manifest.blob_table, error))?;
        let pack = Pack::new(number, record)?;
        packs.try_create_and_insert(number, pack.clone(), GFP_KERNEL_ACCOUNT)?;
        Ok(pack)
    }

    /// The index of a pack, or EAGAIN if it would have to be fetched.
    fn index_if_here(&self, pack: &Pack) -> Result<Arc<IndexBlob>> {
        match self.caches.indexes.get(&pack.number) {
            Some(index) => Ok(index),
            None if pack.index_file().is_some() || self.has_index_come(pack) => self.index(pack),
            None => Err(EAGAIN),
        }
    }

    /// Asks for the index of a pack without waiting, so that it is here when somebody comes to the pack.
    pub(crate) fn prefetch_index(&self, number: u32) -> Result {
        let pack = self.pack(number)?;
        if self.asked_indexes.lock().get(&number).is_some() {
            return Ok(());
        }
        if let Some(asked) = self.origin.prefetch_blob(&self.index_request(&pack, false)) {
            let mut asked_indexes = self.asked_indexes.lock();
            asked_indexes.try_create_and_insert(number, asked, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(())
    }

    /// Takes the index of a pack that was asked for, if it has come; says whether it has.
    fn has_index_come(&self, pack: &Pack) -> bool {
        let came = {
            let mut asked = self.asked_indexes.lock();
            let came = asked
                .get(&pack.number)
                .and_then(|asked| self.origin.came(asked));
            // One that failed is asked for again.
            came.map(|came| (came, asked.remove(&pack.number)))
        };
        match came {
            Some((Ok(file), _asked)) => {
                pack.set_index_file(file);
                true
            }
            _ => false,
        }
    }

    fn index_request(&self, pack: &Pack, again: bool) -> BlobRequest {
        BlobRequest {
            digest: pack.record.index_digest,
            manifest: self.manifest_digest,
            kind: BlobKind::PackIndex,
            length: pack.record.index_length.into(),
            again,
        }
    }

    /// The index of a pack; never opened by path here.
    fn index(&self, pack: &Pack) -> Result<Arc<IndexBlob>> {
        if let Some(index) = self.caches.indexes.get(&pack.number) {
            self.statistics.blobs.cached.count();
            return Ok(index);
        }
        let record: &PackRecord = &pack.record;
        let opened = Blob::open(
            &self.expected(&record.index_digest, record.index_length),
            || Ok(pack.index_file().map_or(Found::Nothing, Found::File)),
            |again| {
                let file = self.origin.fetch_blob(&self.index_request(pack, again))?;
                pack.set_index_file(file.clone());
                Ok(file)
            },
            |bytes| {
                let index = PackIndexLayout::parse(bytes, record)?;
                match index.view(bytes).is_encrypted() == self.realm.is_some() {
                    true => Ok(index),
                    false => Err(peerfs_format::Error::Malformed(OTHER_ENCRYPTION)),
                }
            },
        );
        let index = opened.map_err(|error| self.not_opened(&record.index_digest, error))?;
        let index = Arc::new(index, GFP_KERNEL)?;
        pack.note_use_in(self.origin.usage());
        self.caches.indexes.insert(pack.number, index.clone());
        Ok(index)
    }
}

/// What is wrong with the index of a pack that is encrypted in an image that is not, or the other way round.
const OTHER_ENCRYPTION: &str =
    "pack index: its chunks are encrypted and the image is not, or it alone is";

/// Opens a complete blob by path.
fn open_blob(directory: &Directory, credential: &Credential, digest: &Digest) -> Result<Found> {
    let path = blob_path(digest)?;
    override_credential(credential, || directory.open_file(&path))
}

/// Where a complete blob is in the store.
fn blob_path(digest: &Digest) -> Result<CString> {
    CString::try_from_fmt(fmt!("blobs/sha256/{}", Hex(digest)))
}

/// A digest for the kernel's formatting.
pub(crate) struct Hex<'a>(pub(crate) &'a Digest);

impl kernel::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        f.write_str(core::str::from_utf8(&self.0.to_hex()).unwrap_or_default())
    }
}
