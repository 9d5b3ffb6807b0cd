// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A store and its blobs.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, SystemTime};

use peerfs_format::{Digest, Manifest, PackRecord, METADATA_MAX};
use rustix::fs::{flock, FlockOperation};

use crate::layout::Layout;
use crate::lock::lock;
use crate::tags::TagIndex;
use crate::{sha256, whole_file, BlobWriter, Error, Pack, Result, TaggedImage};

/// How old a file in `tmp/` that nobody has locked must be to count as abandoned.
const ABANDONED_AFTER: Duration = Duration::from_secs(60);

/// The most bytes of an `oci-layout` file that are read.
const LAYOUT_MAX: u64 = 64 * 1024;

const OCI_LAYOUT: &str = "{\"imageLayoutVersion\":\"1.0.0\"}\n";

/// A store. Any number of processes may read and add blobs at the same time; one at a time fills
/// packs. All methods block on the disk.
pub struct Store {
    layout: Layout,
    /// The packs that are open for filling, so that there is one of each.
    packs: Mutex<HashMap<Digest, Weak<Pack>>>,
    /// The lock file, locked, once a pack was opened for filling.
    filling: Mutex<Option<File>>,
}

/// How much a store holds, in bytes on the disk.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Complete blobs.
    pub blobs: u64,
    /// Bytes that complete blobs occupy.
    pub blob_bytes: u64,
    /// Packs that are being filled.
    pub partial_packs: u64,
    /// Bytes that they occupy.
    pub partial_bytes: u64,
}

impl Store {
    /// Opens the store in `root_dir` and changes nothing.
    ///
    /// # Errors
    /// [`Error::NotAStore`], [`Error::Layout`] or [`Error::Io`].
    pub fn open(root_dir: &Path) -> Result<Self> {
        let layout = Layout::new(root_dir);
        let path = layout.oci_layout();
        let text = whole_file::read(&path, LAYOUT_MAX).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                Error::NotAStore(root_dir.to_owned())
            }
            _ => Error::io("read", &path)(source),
        })?;
        let version = serde_json::from_slice::<oci_spec::image::OciLayout>(&text)
            .map(|layout| layout.image_layout_version().clone());
        match version {
            Ok(version) if version.starts_with("1.") => (),
            Ok(version) => {
                return Err(Error::Layout {
                    path,
                    reason: format!("image layout version {version:?} is not known"),
                })
            }
            Err(error) => {
                return Err(Error::Layout {
                    path,
                    reason: error.to_string(),
                })
            }
        }
        Ok(Store {
            layout,
            packs: Mutex::default(),
            filling: Mutex::default(),
        })
    }

    /// Opens the store in `root_dir` to write to it, and makes it if there is nothing there yet.
    ///
    /// # Errors
    /// [`Error::NotEmpty`], [`Error::Layout`] or [`Error::Io`].
    pub fn create(root_dir: &Path) -> Result<Self> {
        let layout = Layout::new(root_dir);
        fs::create_dir_all(root_dir).map_err(Error::io("create", root_dir))?;
        let is_new = !layout.oci_layout().exists();
        if is_new && !is_unused(root_dir).map_err(Error::io("read", root_dir))? {
            return Err(Error::NotEmpty(root_dir.to_owned()));
        }
        for directory in [layout.blobs(), layout.partials(), layout.tmp()] {
            fs::create_dir_all(&directory).map_err(Error::io("create", &directory))?;
        }
        if is_new {
            // What makes it a store comes last.
            TagIndex::create(&layout)?;
            let path = layout.oci_layout();
            whole_file::replace(&layout.tmp(), &path, OCI_LAYOUT.as_bytes())
                .map_err(Error::io("create", &path))?;
        }
        let store = Self::open(root_dir)?;
        store.remove_abandoned()?;
        Ok(store)
    }

    /// The directory of the store.
    pub fn root_dir(&self) -> &Path {
        self.layout.root_dir()
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Where a complete blob is or would be.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.layout.blob(digest)
    }

    /// Whether a complete blob is there; its content is not verified.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.layout.blob(digest).is_file()
    }

    /// A complete blob's file, open for reading, its content not verified; None if it is not there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open_blob(&self, digest: &Digest) -> Result<Option<File>> {
        let path = self.layout.blob(digest);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("open", &path)(error)),
        }
    }

    /// A metadata blob of at most `limit` bytes, verified.
    ///
    /// # Errors
    /// [`Error::BlobMissing`], [`Error::BlobDamaged`], [`Error::BlobTooLarge`] or [`Error::Io`].
    pub fn read_metadata(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let file = self.open_blob(digest)?.ok_or(Error::BlobMissing(*digest))?;
        let mut bytes = Vec::new();
        (&file)
            .take(limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(Error::io("read", &self.layout.blob(digest)))?;
        if bytes.len() as u64 > limit {
            return Err(Error::BlobTooLarge {
                digest: *digest,
                length: file.metadata().map_or(limit, |metadata| metadata.size()),
                limit,
            });
        }
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
        BlobWriter::new(&self.layout)
    }

    /// A pack, to read and to fill it; a partial one without chunks is made if there is nothing of
    /// it. `index` is the blob that the record names as its index. The same pack is one object.
    ///
    /// # Errors
    /// [`Error::InUse`] if another process fills packs of this store; [`Error::BlobDamaged`] or
    /// [`Error::Format`] if the index is not the pack's or not valid; [`Error::Io`].
    pub fn pack(&self, record: &PackRecord, index: Vec<u8>) -> Result<Arc<Pack>> {
        self.lock_for_filling()?;
        // Held while the pack is opened, so that there are not two of it.
        let mut packs = lock(&self.packs);
        if let Some(pack) = packs.get(&record.digest).and_then(Weak::upgrade) {
            if pack.record() == record {
                return Ok(pack);
            }
        }
        let pack = Arc::new(Pack::open(&self.layout, record, index)?);
        packs.retain(|_, pack| pack.strong_count() > 0);
        packs.insert(record.digest, Arc::downgrade(&pack));
        Ok(pack)
    }

    /// A pack as far as it is there, to read it only; None if there is nothing of it.
    ///
    /// # Errors
    /// As for [`Store::pack`], without [`Error::InUse`].
    pub fn find_pack(&self, record: &PackRecord, index: Vec<u8>) -> Result<Option<Pack>> {
        Pack::find(&self.layout, record, index)
    }

    /// Makes this process the one that fills packs, until the store is dropped. [`Store::pack`]
    /// does so by itself; a daemon calls this at its start to fail early.
    ///
    /// # Errors
    /// [`Error::InUse`] if another process does so already; [`Error::Io`].
    pub fn lock_for_filling(&self) -> Result<()> {
        let mut filling = lock(&self.filling);
        if filling.is_some() {
            return Ok(());
        }
        let path = self.layout.lock();
        let file = File::create(&path).map_err(Error::io("create", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => *filling = Some(file),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Error::InUse(self.root_dir().to_owned()))
            }
            Err(errno) => return Err(Error::io("lock", &path)(errno.into())),
        }
        Ok(())
    }

    /// The digest of the manifest that a user means with `name`: a tag, or a digest.
    ///
    /// # Errors
    /// [`Error::UnknownImage`], and those of [`Store::images`].
    pub fn resolve(&self, name: &str) -> Result<Digest> {
        TagIndex::read(&self.layout)?.resolve(self, name)
    }

    /// The images of the store by their manifests, those that were added without a tag too.
    ///
    /// # Errors
    /// [`Error::Layout`] if `index.json` is not valid; [`Error::Io`].
    pub fn images(&self) -> Result<Vec<TaggedImage>> {
        TagIndex::read(&self.layout)?.images(self)
    }

    /// Adds an image whose manifest is a blob of `length` bytes to [`Store::images`], without a tag:
    /// for one that was fetched by its digest. Does nothing if it is there already.
    ///
    /// # Errors
    /// As for [`Store::images`].
    pub fn remember_image(&self, manifest: &Digest, length: u64) -> Result<()> {
        if self
            .images()?
            .iter()
            .any(|image| image.manifest == *manifest)
        {
            return Ok(());
        }
        TagIndex::change(&self.layout, |index| index.add_manifest(manifest, length))
    }

    /// The complete blobs, in no order.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn blobs(&self) -> Result<Vec<Digest>> {
        digests_in(&self.layout.blobs())
    }

    /// The packs that are being filled, in no order.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn partial_packs(&self) -> Result<Vec<Digest>> {
        digests_in(&self.layout.partials())
    }

    /// How much the store holds.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn usage(&self) -> Result<Usage> {
        let (blobs, blob_bytes) = occupied(&self.layout.blobs())?;
        let (_, partial_bytes) = occupied(&self.layout.partials())?;
        Ok(Usage {
            blobs,
            blob_bytes,
            partial_packs: self.partial_packs()?.len() as u64,
            partial_bytes,
        })
    }

    /// Removes what processes that died left in `tmp/`.
    fn remove_abandoned(&self) -> Result<()> {
        let tmp = self.layout.tmp();
        for entry in fs::read_dir(&tmp).map_err(Error::io("read", &tmp))? {
            let path = entry.map_err(Error::io("read", &tmp))?.path();
            // It may vanish at any time, and what can't be judged now can be at the next start.
            let is_old = fs::metadata(&path)
                .and_then(|metadata| metadata.modified())
                .is_ok_and(|modified| {
                    SystemTime::now()
                        .duration_since(modified)
                        .is_ok_and(|age| age > ABANDONED_AFTER)
                });
            let is_locked = || {
                File::open(&path).is_ok_and(|file| {
                    flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
                })
            };
            if is_old && !is_locked() {
                let _ = fs::remove_file(&path);
            }
        }
        Ok(())
    }
}

/// Whether nothing but what a new file system holds is in a directory, or a store whose making was
/// interrupted.
fn is_unused(directory: &Path) -> io::Result<bool> {
    const OWN: [&str; 5] = ["lost+found", "blobs", "partial", "tmp", "index.json"];
    for entry in fs::read_dir(directory)? {
        if !OWN
            .iter()
            .any(|own| entry.as_ref().is_ok_and(|entry| entry.file_name() == *own))
        {
            return Ok(false);
        }
    }
    Ok(true)
}

fn digests_in(directory: &Path) -> Result<Vec<Digest>> {
    let names = fs::read_dir(directory).map_err(Error::io("read", directory))?;
    let mut digests = Vec::new();
    for entry in names {
        let name = entry.map_err(Error::io("read", directory))?.file_name();
        digests.extend(name.to_str().and_then(|name| name.parse::<Digest>().ok()));
    }
    Ok(digests)
}

/// The files in a directory and the bytes on the disk that they occupy.
fn occupied(directory: &Path) -> Result<(u64, u64)> {
    let (mut files, mut bytes) = (0, 0);
    for entry in fs::read_dir(directory).map_err(Error::io("read", directory))? {
        let metadata = match entry.and_then(|entry| entry.metadata()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            metadata => metadata.map_err(Error::io("read", directory))?,
        };
        files += 1;
        bytes += metadata.blocks() * 512;
    }
    Ok((files, bytes))
}
