// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A store and its blobs.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, SystemTime};

use peerfs_format::{Digest, Manifest, PackRecord, METADATA_MAX};
use peerfs_text::Causes;
use rustix::fs::{flock, FlockOperation};

use crate::directory::{StoreDirectory, PRIVATE};
use crate::lock::lock;
use crate::pack::{PackStore, Watcher};
use crate::temporary_file::TemporaryFile;
use crate::{
    index_file, layout, sha256, whole_file, BlobWriter, Error, LentPack, Pack, PackWriter, Result,
};

/// The age at which a file in `tmp/` that nobody has locked counts as abandoned.
const ABANDONED_AFTER: Duration = Duration::from_secs(60);

/// The most bytes of an `oci-layout` file that are read.
const LAYOUT_MAX: u64 = 64 * 1024;

/// A store. Any number of processes may read and add blobs at the same time; one at a time fills
/// packs. All methods block on the disk.
///
/// ```
/// use peerfs_store::{Error, Store};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let root_dir = folder.path().join("store");
/// let store = Store::create(&root_dir)?;
/// let digest = store.add_blob(b"something")?;
/// assert_eq!(store.read_metadata(&digest, 1000)?, b"something");
/// // What is read is verified, whoever has changed it.
/// std::fs::write(store.blob_path(&digest), "another thing")?;
/// assert!(matches!(store.read_metadata(&digest, 1000), Err(Error::BlobDamaged(_))));
/// // An image has a name, or its digest is one.
/// assert!(store.images()?.is_empty());
/// assert!(matches!(store.resolve(&"debian:12".parse()?), Err(Error::UnknownImage { .. })));
/// assert_eq!(store.resolve(&digest.to_string().parse()?)?, digest);
/// # Ok(())
/// # }
/// ```
pub struct Store {
    directory: Arc<StoreDirectory>,
    shared: Arc<PackStore>,
    /// The packs that are open for filling, each by its digest and that of its index, so that there is
    /// one of each.
    packs: Mutex<HashMap<(Digest, Digest), Weak<Pack>>>,
    /// The lock file, locked, once a pack was opened for filling.
    filling: Mutex<Option<File>>,
}

/// The room that a store takes, in bytes on the disk.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Complete blobs.
    pub blobs: u64,
    /// Bytes that complete blobs occupy.
    pub blob_bytes: u64,
    /// Partial packs.
    pub partial_packs: u64,
    /// Bytes that they occupy.
    pub partial_bytes: u64,
    /// Files of chunks that came one after the other.
    pub loose_files: u64,
    /// Bytes that they occupy.
    pub loose_bytes: u64,
    /// Packs whose chunks are where a table of places says.
    pub placed_packs: u64,
    /// Bytes that the tables occupy.
    pub table_bytes: u64,
}

impl Store {
    /// Opens the store in `root_dir` and changes nothing.
    ///
    /// # Errors
    /// [`Error::NotAStore`], [`Error::Layout`] or [`Error::Io`].
    pub fn open(root_dir: &Path) -> Result<Self> {
        let directory = StoreDirectory::open(root_dir).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                Error::NotAStore(root_dir.to_owned())
            }
            _ => Error::io("open", root_dir)(error),
        })?;
        Self::in_directory(Arc::new(directory))
    }

    /// Opens the store in `root_dir` to write to it, and makes it if there is nothing there yet.
    ///
    /// # Errors
    /// [`Error::NotEmpty`], [`Error::Layout`] or [`Error::Io`].
    pub fn create(root_dir: &Path) -> Result<Self> {
        let directory = StoreDirectory::create(root_dir).map_err(Error::io("create", root_dir))?;
        let directory = Arc::new(directory);
        let is_new = directory
            .metadata(layout::OCI_LAYOUT)
            .map_err(directory.failed("read", layout::OCI_LAYOUT))?
            .is_none();
        if is_new && !is_unused(&directory)? {
            return Err(Error::NotEmpty(root_dir.to_owned()));
        }
        directory.make_directories()?;
        if is_new {
            // What makes it a store comes last.
            index_file::create(&directory)?;
            whole_file::replace(
                &directory,
                layout::OCI_LAYOUT,
                peerfs_oci::LAYOUT.as_bytes(),
            )?;
        }
        let store = Self::in_directory(directory)?;
        store.remove_abandoned()?;
        Ok(store)
    }

    fn in_directory(directory: Arc<StoreDirectory>) -> Result<Self> {
        let text = whole_file::read(&directory, layout::OCI_LAYOUT, LAYOUT_MAX)?
            .ok_or_else(|| Error::NotAStore(directory.root_dir().to_owned()))?;
        peerfs_oci::check_layout(&text).map_err(Error::oci(directory.path(layout::OCI_LAYOUT)))?;
        Ok(Store {
            shared: Arc::new(PackStore::new(&directory)),
            directory,
            packs: Mutex::default(),
            filling: Mutex::default(),
        })
    }

    /// Has somebody told how packs are filled by this process from now on; only the first one who asks for it.
    pub fn watch(&self, watcher: Arc<dyn Watcher>) {
        // Whoever comes later hears nothing.
        let _ = self.shared.watcher.set(watcher);
    }

    /// The directory of the store.
    pub fn root_dir(&self) -> &Path {
        self.directory.root_dir()
    }

    pub(crate) fn directory(&self) -> &Arc<StoreDirectory> {
        &self.directory
    }

    /// What the packs of the store have in common.
    pub(crate) fn shared(&self) -> &Arc<PackStore> {
        &self.shared
    }

    /// The path of a complete blob, if it is there or not.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.directory.path(&layout::blob(digest))
    }

    /// Whether a complete blob is there. Its content is not verified; a pack that was found to be damaged and has
    /// not changed since counts as absent.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        let found = self.directory.metadata(&layout::blob(digest));
        found.is_ok_and(|found| {
            found.is_some_and(|metadata| {
                metadata.is_file() && !self.shared.findings.is_damaged(digest, &metadata)
            })
        })
    }

    /// Whether there is a table of places of a pack, as this index describes it.
    pub(crate) fn has_places(&self, pack: &Digest, index: &Digest) -> bool {
        self.directory.has_file(&layout::places(pack, index))
    }

    /// A complete blob's file, open for reading, its content not verified; None if it is not there.
    ///
    /// # Errors
    /// [`Error::NotARegularFile`] or [`Error::Io`].
    pub fn open_blob(&self, digest: &Digest) -> Result<Option<File>> {
        self.directory.read(&layout::blob(digest))
    }

    /// A metadata blob of at most `limit` bytes, verified.
    ///
    /// # Errors
    /// [`Error::BlobMissing`], [`Error::BlobDamaged`], [`Error::BlobTooLarge`],
    /// [`Error::NotARegularFile`] or [`Error::Io`].
    pub fn read_metadata(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let file = self.open_blob(digest)?.ok_or(Error::BlobMissing(*digest))?;
        let bytes = whole_file::read_all(&file, limit).map_err(|error| match error.kind() {
            io::ErrorKind::FileTooLarge => Error::BlobTooLarge {
                digest: *digest,
                length: file.metadata().map_or(limit, |metadata| metadata.size()),
                limit,
            },
            _ => Error::io("read", &self.blob_path(digest))(error),
        })?;
        if sha256(&bytes) != *digest {
            return Err(Error::BlobDamaged(*digest));
        }
        Ok(bytes)
    }

    /// The manifest of an image, verified.
    ///
    /// # Errors
    /// Those of [`Store::read_metadata`], and [`Error::Format`].
    pub fn read_manifest(&self, digest: &Digest) -> Result<Manifest> {
        let bytes = self.read_metadata(digest, METADATA_MAX)?;
        Manifest::parse(&bytes).map_err(Error::format(*digest))
    }

    /// Stores a blob whose digest is known, and replaces a damaged one.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the bytes have another digest; [`Error::Io`] if the disk is full.
    /// Nothing has changed then.
    pub fn put_blob(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        let actual = sha256(bytes);
        if actual != *digest {
            return Err(Error::Mismatch {
                expected: *digest,
                actual,
            });
        }
        self.add_blob(bytes).map(|_| ())
    }

    /// Stores a blob and returns its digest.
    ///
    /// # Errors
    /// [`Error::Io`] if the disk is full; nothing has changed then.
    pub fn add_blob(&self, bytes: &[u8]) -> Result<Digest> {
        let mut writer = self.blob_writer()?;
        writer.append(bytes)?;
        writer.finish()
    }

    /// Begins to write a blob that does not fit in memory.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn blob_writer(&self) -> Result<BlobWriter> {
        BlobWriter::new(&self.directory)
    }

    /// A file for what is needed for a while, with which it goes.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn temporary_file(&self) -> Result<TemporaryFile> {
        TemporaryFile::create(&self.directory)
            .map_err(self.directory.failed("create a file in", layout::TMP))
    }

    /// Begins to write a pack of which the store may have chunks already; one that becomes a blob all the same if
    /// `is_whole`.
    pub fn pack_writer(&self, is_whole: bool) -> PackWriter {
        PackWriter::new(self, is_whole)
    }

    /// A pack, to read and to fill it; a partial one without chunks is made if there is nothing of
    /// it. `index` is the blob that the record names as its index. The same pack with the same index is
    /// one object.
    ///
    /// # Errors
    /// [`Error::InUse`] if another process fills packs of this store; [`Error::BlobDamaged`] or
    /// [`Error::Format`] if the index is not the pack's or not valid; [`Error::NotARegularFile`];
    /// [`Error::Io`].
    pub fn pack(&self, record: &PackRecord, index: Vec<u8>) -> Result<Arc<Pack>> {
        self.lock_for_filling()?;
        let key = (record.digest, record.index_digest);
        // Held while the pack is opened, so that there are not two of it.
        let mut packs = lock(&self.packs);
        let open = packs.get(&key).and_then(Weak::upgrade);
        // An index allows one record but for the contents: with another one the pack can't be opened.
        if let Some(pack) = open.filter(|pack| pack.record().is_same_pack(record)) {
            return Ok(pack);
        }
        let pack = Pack::open(&self.shared, record, index)?;
        let pack = Arc::new(pack);
        packs.retain(|_, pack| pack.strong_count() > 0);
        packs.insert(key, Arc::downgrade(&pack));
        drop(packs);
        // That may take as long as reading all of it, for which those who open other packs need not wait.
        match pack.settle() {
            // The log has it.
            Ok(()) | Err(Error::WrongIndex { .. }) => (),
            // It is tried again when the pack is opened the next time. What is there of it can be read.
            Err(error) => {
                let error = Causes(&error);
                tracing::warn!(pack = %record.digest, %error, "cannot end what was left undone of a pack");
            }
        }
        Ok(pack)
    }

    /// A pack by an index that is not in the store, to read what of it is in other packs. Nothing is made or changed.
    ///
    /// # Errors
    /// [`Error::BlobTooLarge`], [`Error::BlobDamaged`] or [`Error::Format`] if the index is not what the record says.
    pub fn lent_pack(&self, record: &PackRecord, index: Vec<u8>) -> Result<LentPack> {
        LentPack::new(&self.shared, record, index)
    }

    /// A pack that is open for filling already.
    pub fn open_pack(&self, pack: &Digest, index: &Digest) -> Option<Arc<Pack>> {
        lock(&self.packs).get(&(*pack, *index))?.upgrade()
    }

    /// Forgets which packs are open for filling, and which data files: who opens one from now on looks again.
    pub(crate) fn forget_open(&self) {
        lock(&self.packs).clear();
        self.shared.data_files.forget_all();
    }

    /// A pack as far as it is there, to read it only; None if there is nothing of it.
    ///
    /// # Errors
    /// As for [`Store::pack`], without [`Error::InUse`].
    pub fn find_pack(&self, record: &PackRecord, index: Vec<u8>) -> Result<Option<Pack>> {
        Pack::find(&self.shared, record, index)
    }

    /// As [`Store::find_pack`], of what a table of places has, even beside a whole pack.
    pub(crate) fn find_places(&self, record: &PackRecord, index: Vec<u8>) -> Result<Option<Pack>> {
        Pack::find_places(&self.shared, record, index)
    }

    /// Makes this process the one that fills packs, until the store is dropped. [`Store::pack`]
    /// does so by itself; a daemon calls this at its start to fail early.
    ///
    /// # Errors
    /// [`Error::InUse`] if another process does so already; [`Error::NotARegularFile`];
    /// [`Error::Io`].
    pub fn lock_for_filling(&self) -> Result<()> {
        let mut filling = lock(&self.filling);
        if filling.is_some() {
            return Ok(());
        }
        // Whoever may read a file may lock it.
        let file = self.directory.write_or_create(layout::LOCK, PRIVATE)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => *filling = Some(file),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Error::InUse(self.root_dir().to_owned()))
            }
            Err(errno) => return Err(self.directory.failed("lock", layout::LOCK)(errno.into())),
        }
        Ok(())
    }

    /// Keeps collections out while an image is built, of which nothing is named yet, until the file is dropped. A store
    /// that can't be written to is left to the build to complain of.
    ///
    /// # Errors
    /// [`Error::Locked`] if a collection goes on for long; [`Error::NotARegularFile`]; [`Error::Io`].
    pub fn lock_for_building(&self) -> Result<File> {
        let file = self.directory.write_or_create(layout::BUILDS, PRIVATE)?;
        self.directory.lock_shared(layout::BUILDS, &file)?;
        Ok(file)
    }

    /// Keeps builds out until the file is dropped.
    pub(crate) fn lock_out_builds(&self) -> Result<File> {
        let file = self.directory.write_or_create(layout::BUILDS, PRIVATE)?;
        self.directory.lock(layout::BUILDS, &file)?;
        Ok(file)
    }

    /// Whether this process is the one that fills packs.
    pub fn is_locked_for_filling(&self) -> bool {
        lock(&self.filling).is_some()
    }

    /// The complete blobs, in no order.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn blobs(&self) -> Result<Vec<Digest>> {
        let names = self.directory.names(layout::BLOBS)?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// The packs that have a table of places, each with the index that describes it, in no order: those that are being
    /// filled, and those whose chunks are in several files.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn placed_packs(&self) -> Result<Vec<(Digest, Digest)>> {
        let names = self.directory.names(layout::PLACES)?;
        let packs = names.iter().filter_map(|name| layout::parse_pair(name));
        Ok(packs.collect())
    }

    /// The room that the store takes.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn usage(&self) -> Result<Usage> {
        let (blobs, blob_bytes) = self.occupied(layout::BLOBS)?;
        let (partial_packs, partial_bytes) = self.occupied(layout::PARTIALS)?;
        let (loose_files, loose_bytes) = self.occupied(layout::LOOSE)?;
        let (placed_packs, table_bytes) = self.occupied(layout::PLACES)?;
        Ok(Usage {
            blobs,
            blob_bytes,
            partial_packs,
            partial_bytes,
            loose_files,
            loose_bytes,
            placed_packs,
            table_bytes,
        })
    }

    /// The files in a directory and the bytes on the disk that they occupy.
    fn occupied(&self, directory: &str) -> Result<(u64, u64)> {
        let (mut files, mut bytes) = (0, 0);
        for name in self.directory.names(directory)? {
            let name = format!("{directory}/{name}");
            let metadata = self.directory.metadata(&name);
            // It may have vanished.
            if let Some(metadata) = metadata.map_err(self.directory.failed("read", &name))? {
                if metadata.is_file() {
                    files += 1;
                    bytes += metadata.blocks() * 512;
                }
            }
        }
        Ok((files, bytes))
    }

    /// Removes what processes that died left in `tmp/`.
    pub(crate) fn remove_abandoned(&self) -> Result<()> {
        for name in self.directory.names(layout::TMP)? {
            let path = format!("{}/{name}", layout::TMP);
            if !layout::is_temporary(&name) {
                continue;
            }
            // It may vanish at any time, and what can't be judged now can be at the next start.
            if let Some(_lock) = self.lock_if_abandoned(&path, SystemTime::now()) {
                let _ = self.directory.remove(&path);
            }
        }
        Ok(())
    }

    /// A file in `tmp/` if it is old and in nobody's use. As long as it is open nobody else takes it for abandoned, so that
    /// its name is not removed twice, which may be that of a new file by then.
    fn lock_if_abandoned(&self, name: &str, now: SystemTime) -> Option<File> {
        let file = self.directory.read(name).ok()??;
        let modified = file.metadata().and_then(|metadata| metadata.modified());
        // One from the future was made before the clock was set back.
        let age = match now.duration_since(modified.ok()?) {
            Ok(age) => age,
            Err(future) => future.duration(),
        };
        // One that is being made is not locked yet, and must not find it locked by somebody else.
        if age < ABANDONED_AFTER {
            return None;
        }
        flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
        let has_name = file.metadata().ok()?.nlink() > 0;
        has_name.then_some(file)
    }
}

/// Whether a directory is that of a store, and not of another OCI image layout.
pub fn is_store(root_dir: &Path) -> bool {
    root_dir.join(layout::OCI_LAYOUT).is_file()
        && layout::DIRECTORIES
            .iter()
            .all(|name| root_dir.join(name).is_dir())
}

/// Whether nothing but what a new file system holds is in a directory, or a store whose making was
/// interrupted.
fn is_unused(directory: &StoreDirectory) -> Result<bool> {
    let own = [
        "lost+found",
        layout::BLOBS_PARENT,
        layout::PARTIALS,
        layout::LOOSE,
        layout::PLACES,
        layout::CATALOGUE,
        layout::TMP,
        layout::INDEX,
    ];
    let names = directory.names(".")?;
    Ok(names.iter().all(|name| own.contains(&name.as_str())))
}
