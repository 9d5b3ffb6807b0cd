// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Reading an image: paths, directories and files' content, as the kernel does.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::atomic::{self, AtomicU64};
use std::sync::{Arc, Mutex};

use lru::LruCache;
use peerfs_format::{
    pieces, BlobTable, BlobTableLayout, Digest, EntryRecord, Error as FormatError, FileType,
    InodeRecord, Manifest, PackRecord, Shard, ShardLayout, Source, METADATA_MAX, ROOT_INODE,
};
use peerfs_realm::RealmKey;

use crate::access::Access;
use crate::inode::ShardBlob;
use crate::lock::lock;
use crate::{ChunkReader, Error, Inode, Pack, PackReader, Result, Store};

/// Shards kept in memory, of a few hundred KiB each.
const SHARDS_KEPT: NonZeroUsize = NonZeroUsize::new(64).unwrap();
/// Packs kept open.
const PACKS_KEPT: NonZeroUsize = NonZeroUsize::new(64).unwrap();
/// Decoded chunks kept in memory: small files share them.
const CHUNKS_KEPT: NonZeroUsize = NonZeroUsize::new(16).unwrap();
/// The most symbolic links that one path may lead through, as in Linux.
const LINKS_MAX: u32 = 40;

/// An image, to be read: of a store what of it is there, or what another [`ChunkReader`] has. All methods block on the
/// disk, may be called from many threads, and verify everything that they return. Of an encrypted image whose key is not
/// given the blob table can be read, and what leads to the stored bytes; all else is [`Error::KeyNeeded`].
///
/// ```no_run
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use peerfs_store::{Error, Image, Store};
///
/// # fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
/// let store = Arc::new(Store::open(Path::new("/var/lib/peerfs"))?);
/// let manifest = store.resolve(&"debian:12".parse()?)?;
/// let image = Image::open(store, &manifest)?;
/// let file = image.lookup(b"/etc/hostname", true)?;
/// let mut content = Vec::new();
/// image.read(&file, 0, file.record().size, |part| {
///     content.extend_from_slice(part);
///     Ok::<_, Error>(())
/// })?;
/// # Ok(())
/// # }
/// ```
pub struct Image<R: ChunkReader = Store> {
    reader: Arc<R>,
    digest: Digest,
    manifest: Manifest,
    manifest_length: u64,
    access: Access,
    table: Vec<u8>,
    table_layout: BlobTableLayout,
    shards: Mutex<LruCache<u32, Arc<ShardBlob>>>,
    /// Number of shards read, some of them again.
    shards_read: AtomicU64,
    /// And their bytes.
    shard_bytes_read: AtomicU64,
    packs: Mutex<LruCache<u32, Arc<R::Pack>>>,
    chunks: Mutex<ChunkCache>,
}

/// Decoded chunks by pack and number.
type ChunkCache = LruCache<(u32, u32), Arc<Vec<u8>>>;

/// An entry of a directory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Its name.
    pub name: Vec<u8>,
    /// The inode that it names.
    pub inode: u64,
    /// The type of that inode.
    pub file_type: FileType,
}

/// An entry of a directory where it is found.
pub(crate) struct FoundEntry<'a> {
    /// The number of its shard in the blob table.
    pub(crate) shard: u32,
    /// Its place among the shard's entries.
    pub(crate) place: usize,
    pub(crate) record: EntryRecord,
    pub(crate) name: &'a [u8],
    pub(crate) file_type: FileType,
}

impl<R: ChunkReader> Image<R> {
    /// Opens the image with this manifest.
    ///
    /// # Errors
    /// [`Error::BlobMissing`], [`Error::BlobDamaged`], [`Error::Format`] or [`Error::Io`].
    pub fn open(reader: Arc<R>, manifest: &Digest) -> Result<Self> {
        Self::open_with(reader, manifest, &[])
    }

    /// Opens the image with this manifest, which may be encrypted with one of these keys.
    ///
    /// # Errors
    /// As for [`Image::open`].
    pub fn open_with(reader: Arc<R>, manifest: &Digest, keys: &[RealmKey]) -> Result<Self> {
        let digest = *manifest;
        let manifest = reader.read_metadata(&digest, METADATA_MAX)?;
        let manifest_length = manifest.len() as u64;
        let manifest = Manifest::parse(&manifest).map_err(Error::format(digest))?;
        let access = Access::new(digest, &manifest, keys)?;
        let table = read_blob(&*reader, &manifest.blob_table, manifest.blob_table_length)?;
        let table_layout = BlobTableLayout::parse(&table, manifest.inode_count)
            .map_err(Error::format(manifest.blob_table))?;
        Ok(Image {
            reader,
            digest,
            manifest,
            manifest_length,
            access,
            table,
            table_layout,
            shards: Mutex::new(LruCache::new(SHARDS_KEPT)),
            shards_read: AtomicU64::new(0),
            shard_bytes_read: AtomicU64::new(0),
            packs: Mutex::new(LruCache::new(PACKS_KEPT)),
            chunks: Mutex::new(LruCache::new(CHUNKS_KEPT)),
        })
    }

    /// The manifest's digest.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The key of an encrypted image, if it was given.
    pub fn key(&self) -> Option<&RealmKey> {
        self.access.key()
    }

    /// The record of the root directory, as the manifest has it.
    ///
    /// # Errors
    /// [`Error::KeyNeeded`].
    pub fn root_record(&self) -> Result<InodeRecord> {
        self.access.root()
    }

    /// The manifest's bytes.
    pub(crate) fn manifest_length(&self) -> u64 {
        self.manifest_length
    }

    /// The blob table.
    pub fn blob_table(&self) -> BlobTable<'_> {
        self.table_layout.view(&self.table)
    }

    /// An inode by its number.
    ///
    /// # Errors
    /// [`Error::Format`] if there is no such inode, and those of reading its shard.
    pub fn inode(&self, number: u64) -> Result<Inode> {
        let shard = self
            .blob_table()
            .shard_of(number)
            .ok_or(FormatError::Malformed("inode number"))
            .map_err(Error::format(self.manifest.blob_table))?;
        let shard = self.shard(shard)?;
        let record = match number {
            ROOT_INODE => self.root_record()?,
            _ => shard
                .view()
                .inode(number, &self.blob_table().packs)
                .map_err(Error::format(shard.digest))?,
        };
        let file_type = record
            .file_type()
            .ok_or(FormatError::Malformed("inode record"))
            .map_err(Error::format(shard.digest))?;
        Ok(Inode {
            number,
            record,
            file_type,
            shard,
        })
    }

    /// The root directory.
    ///
    /// # Errors
    /// As for [`Image::inode`].
    pub fn root(&self) -> Result<Inode> {
        self.inode(ROOT_INODE)
    }

    /// The inode at `path`, from the root whether or not it begins with a slash. Symbolic links are
    /// followed within the image; the last one only if `follow`.
    ///
    /// # Errors
    /// [`Error::NoSuchFile`], [`Error::NotADirectory`] or [`Error::TooManyLinks`], and those of
    /// reading metadata.
    pub fn lookup(&self, path: &[u8], follow: bool) -> Result<Inode> {
        let mut inode = self.root()?;
        // The components still to go, the next one last.
        let mut rest: Vec<Vec<u8>> = components(path);
        let mut links = 0;
        while let Some(name) = rest.pop() {
            if inode.file_type != FileType::Directory {
                return Err(Error::NotADirectory(path.to_vec()));
            }
            if name == b".." {
                inode = self.inode(inode.record.link)?;
                continue;
            }
            let child = self
                .child(&inode, &name)?
                .ok_or_else(|| Error::NoSuchFile(path.to_vec()))?;
            let child = self.inode_of(&inode, &child)?;
            if child.file_type == FileType::SymbolicLink && (follow || !rest.is_empty()) {
                links += 1;
                if links > LINKS_MAX {
                    return Err(Error::TooManyLinks(path.to_vec()));
                }
                let target = child.symlink_target()?;
                if target.starts_with(b"/") {
                    inode = self.root()?;
                }
                rest.extend(components(&target));
                continue;
            }
            inode = child;
        }
        Ok(inode)
    }

    /// The entry of a directory with this name.
    ///
    /// # Errors
    /// Those of reading metadata.
    pub fn child(&self, directory: &Inode, name: &[u8]) -> Result<Option<Entry>> {
        let own = directory.shard.view();
        let Some(span) = directory.span_of(name)? else {
            return Ok(None);
        };
        let shard = self.shard(span.shard)?;
        let view = shard.view();
        let find = || {
            view.check_span_name(&span, own.span_name(&span)?)?;
            let Some(entry) = view.entry(&span, name)? else {
                return Ok(None);
            };
            read_entry(&view, &entry).map(|(name, file_type)| {
                Some(Entry {
                    name: name.to_vec(),
                    inode: entry.inode,
                    file_type,
                })
            })
        };
        find().map_err(Error::format(shard.digest))
    }

    /// The inode that an entry of a directory names, if it is what the entry says, and a directory is in the one
    /// directory that it can be in.
    ///
    /// # Errors
    /// [`Error::Format`], and those of [`Image::inode`].
    pub fn inode_of(&self, directory: &Inode, entry: &Entry) -> Result<Inode> {
        let inode = self.inode(entry.inode)?;
        let is_there = inode.file_type == entry.file_type
            && (inode.file_type != FileType::Directory || inode.record.link == directory.number);
        if is_there {
            Ok(inode)
        } else {
            Err(directory.malformed("directory entry"))
        }
    }

    /// Calls `each` with the entries of a directory, in the order of their names and without `.` and
    /// `..`, until it fails.
    ///
    /// # Errors
    /// [`Error::NotADirectory`], that of `each`, and those of reading metadata.
    pub fn for_each_entry<E: From<Error>>(
        &self,
        directory: &Inode,
        mut each: impl FnMut(Entry) -> Result<(), E>,
    ) -> Result<(), E> {
        self.walk_entries(directory, |found| {
            each(Entry {
                name: found.name.to_vec(),
                inode: found.record.inode,
                file_type: found.file_type,
            })
        })
    }

    /// As [`Image::for_each_entry`], with the inodes that the entries name. An entry that is not what its inode
    /// is, and a directory that is not in this one only, are errors: so nobody who walks a tree comes to a place
    /// a second time.
    ///
    /// # Errors
    /// As for [`Image::for_each_entry`] and [`Image::inode_of`].
    pub fn for_each_child<E: From<Error>>(
        &self,
        directory: &Inode,
        mut each: impl FnMut(Entry, Inode) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut subdirectories = HashSet::new();
        self.for_each_entry(directory, |entry| {
            let inode = self.inode_of(directory, &entry)?;
            if inode.file_type == FileType::Directory && !subdirectories.insert(entry.inode) {
                return Err(directory.malformed("directory with two names").into());
            }
            each(entry, inode)
        })
    }

    /// Calls `each` with a directory's entries, which are in order, and in the spans that the directory says.
    pub(crate) fn walk_entries<E: From<Error>>(
        &self,
        directory: &Inode,
        mut each: impl FnMut(FoundEntry<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if directory.file_type != FileType::Directory {
            return Err(Error::NotADirectory(directory.describe()).into());
        }
        let own = directory.shard.view();
        let own_error = || Error::format(directory.shard.digest);
        let spans = own.spans(&directory.record).map_err(own_error())?;
        own.entry_count(&directory.record).map_err(own_error())?;
        let mut last: Vec<u8> = Vec::new();
        for span in spans.iter() {
            let name = own.span_name(&span).map_err(own_error())?;
            let shard = self.shard(span.shard)?;
            let view = shard.view();
            let error = || Error::format(shard.digest);
            view.check_span_name(&span, name).map_err(error())?;
            let entries = view.entries(&span).map_err(error())?;
            for (place, record) in (span.first_entry as usize..).zip(entries.iter()) {
                let (name, file_type) = read_entry(&view, &record).map_err(error())?;
                // No name is empty.
                if name <= last.as_slice() {
                    return Err(error()(FormatError::Malformed("order of names")).into());
                }
                last.clear();
                last.extend_from_slice(name);
                each(FoundEntry {
                    shard: span.shard,
                    place,
                    record,
                    name,
                    file_type,
                })?;
            }
        }
        Ok(())
    }

    /// Calls `each` with a regular file's content from `offset` on, at most `length` bytes, piece by
    /// piece; holes come as zeros.
    ///
    /// # Errors
    /// [`Error::NotAFile`]; [`Error::ChunkMissing`] or [`Error::BlobMissing`] if it is not all
    /// there; that of `each`; and those of reading.
    pub fn read<E: From<Error>>(
        &self,
        file: &Inode,
        offset: u64,
        length: u64,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if file.file_type != FileType::Regular {
            return Err(Error::NotAFile(file.describe()).into());
        }
        let end = offset.saturating_add(length).min(file.record.size);
        for piece in pieces(&file.extents()?, offset..end) {
            match piece.source {
                Source::Hole => write_zeros(piece.length, &mut each)?,
                Source::Pack { pack, offset } => {
                    self.read_pack(pack, offset, piece.length, &mut each)?;
                }
            }
        }
        Ok(())
    }

    /// Calls `each` with a regular file's content that is in no hole, piece by piece: where in the file each begins, and
    /// its bytes.
    ///
    /// # Errors
    /// As for [`Image::read`].
    pub fn read_data<E: From<Error>>(
        &self,
        file: &Inode,
        mut each: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if file.file_type != FileType::Regular {
            return Err(Error::NotAFile(file.describe()).into());
        }
        for piece in pieces(&file.extents()?, 0..file.record.size) {
            if let Source::Pack { pack, offset } = piece.source {
                let mut place = piece.file_offset;
                self.read_pack(pack, offset, piece.length, &mut |part: &[u8]| {
                    each(place, part)?;
                    place += part.len() as u64;
                    Ok::<_, E>(())
                })?;
            }
        }
        Ok(())
    }

    /// Calls `each` with bytes of a pack's uncompressed address space.
    fn read_pack<E: From<Error>>(
        &self,
        pack: u32,
        offset: u32,
        length: u64,
        each: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut offset, mut rest) = (offset, length);
        while rest > 0 {
            let (content, skip) = self.content_at(pack, offset)?;
            let part = content.get(skip..).unwrap_or_default();
            let part = part.get(..rest as usize).unwrap_or(part);
            each(part)?;
            rest -= part.len() as u64;
            // Beyond any pack at the end of the address space: content_at() refuses it.
            offset = offset.saturating_add(part.len() as u32);
        }
        Ok(())
    }

    /// The decoded chunk that covers an offset of a pack's uncompressed address space, and where in
    /// it the offset is (less than its length).
    fn content_at(&self, pack_number: u32, offset: u32) -> Result<(Arc<Vec<u8>>, usize)> {
        let pack = self.pack(pack_number)?;
        let (chunk, record) = pack.chunk_at(offset)?;
        let skip = (offset - record.logical_offset) as usize;
        let key = (pack_number, chunk);
        if let Some(content) = lock(&self.chunks).get(&key) {
            return Ok((content.clone(), skip));
        }
        let stored = pack.read_chunk(chunk)?;
        if *stored.record() != record {
            return Err(Error::ChunkDamaged {
                pack: self.pack_record(pack_number)?.digest,
                chunk,
            });
        }
        let content = Arc::new(stored.decode(self.access.to_chunk(pack.iv(chunk))?)?);
        lock(&self.chunks).put(key, content.clone());
        Ok((content, skip))
    }

    /// A pack by its number in the blob table, as far as it is there.
    ///
    /// # Errors
    /// [`Error::BlobMissing`] if nothing of it is there, and those of reading its index.
    pub fn pack(&self, number: u32) -> Result<Arc<R::Pack>> {
        if let Some(pack) = lock(&self.packs).get(&number) {
            return Ok(pack.clone());
        }
        let (record, index) = self.pack_index(number)?;
        let pack = Arc::new(self.reader.pack_reader(&record, index)?);
        // A pack has chunks, and either all or none of them are encrypted.
        self.access
            .check_pack(pack.iv(0).is_some())
            .map_err(Error::format(record.index_digest))?;
        lock(&self.packs).put(number, pack.clone());
        Ok(pack)
    }

    /// A pack's record and index blob.
    pub(crate) fn pack_index(&self, number: u32) -> Result<(PackRecord, Vec<u8>)> {
        let record = self.pack_record(number)?;
        let index = read_blob(&*self.reader, &record.index_digest, record.index_length)?;
        Ok((record, index))
    }

    fn pack_record(&self, number: u32) -> Result<PackRecord> {
        self.blob_table()
            .pack(number)
            .map_err(Error::format(self.manifest.blob_table))
    }

    /// How many shards were read since the image was opened, and their bytes. Those that are in memory are not read
    /// again.
    pub(crate) fn shards_read(&self) -> (u64, u64) {
        let order = atomic::Ordering::Relaxed;
        (
            self.shards_read.load(order),
            self.shard_bytes_read.load(order),
        )
    }

    /// A shard by its number in the blob table.
    pub(crate) fn shard(&self, number: u32) -> Result<Arc<ShardBlob>> {
        if let Some(shard) = lock(&self.shards).get(&number) {
            return Ok(shard.clone());
        }
        let record = self
            .blob_table()
            .shard(number)
            .map_err(Error::format(self.manifest.blob_table))?;
        let order = atomic::Ordering::Relaxed;
        self.shards_read.fetch_add(1, order);
        self.shard_bytes_read.fetch_add(record.length.into(), order);
        // Who has no key need not fetch it.
        self.access.root()?;
        let bytes = read_blob(&*self.reader, &record.digest, record.length)?;
        let bytes = self
            .access
            .shard(bytes)
            .map_err(Error::format(record.digest))?;
        let layout = ShardLayout::parse(&bytes, &record).map_err(Error::format(record.digest))?;
        let shard = Arc::new(ShardBlob {
            digest: record.digest,
            bytes,
            layout,
        });
        lock(&self.shards).put(number, shard.clone());
        Ok(shard)
    }
}

impl Image {
    /// What a table of places has of a pack, even if there is a whole one; None if there is none.
    pub(crate) fn placed_pack(&self, number: u32) -> Result<Option<Pack>> {
        let (record, index) = self.pack_index(number)?;
        self.reader.find_places(&record, index)
    }
}

/// A metadata blob, verified, which has just so many bytes.
pub(crate) fn read_blob<R: ChunkReader>(
    reader: &R,
    digest: &Digest,
    length: u32,
) -> Result<Vec<u8>> {
    let bytes = reader.read_metadata(digest, length.into())?;
    if bytes.len() as u64 != u64::from(length) {
        return Err(Error::BlobTooShort {
            digest: *digest,
            length: bytes.len() as u64,
            expected: length.into(),
        });
    }
    Ok(bytes)
}

/// An entry's name, checked, and its type.
fn read_entry<'a>(
    shard: &Shard<'a>,
    entry: &EntryRecord,
) -> peerfs_format::Result<(&'a [u8], FileType)> {
    let name = shard.entry_name(entry)?;
    match FileType::from_d_type(entry.file_type) {
        Some(file_type) => Ok((name, file_type)),
        None => Err(FormatError::Malformed("entry type")),
    }
}

/// The components of a path, the last one first.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&byte| byte == b'/')
        .rev()
        .filter(|name| !name.is_empty() && *name != b".")
        .map(<[u8]>::to_vec)
        .collect()
}

fn write_zeros<E>(mut length: u64, each: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    while length > 0 {
        let count = length.min(ZEROS.len() as u64);
        each(ZEROS.get(..count as usize).unwrap_or_default())?;
        length -= count;
    }
    Ok(())
}
