// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Reading an image: paths, directories and files' content, as the kernel does.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use lru::LruCache;
use peerfs_format::{
    pieces, BlobTable, BlobTableLayout, Digest, Error as FormatError, FileType, Manifest,
    ShardLayout, Source, ROOT_INODE,
};

use crate::inode::ShardBlob;
use crate::lock::lock;
use crate::{decode_chunk, Error, Inode, Pack, Result, Store};

/// Shards kept in memory, of a few hundred KiB each.
const SHARDS_KEPT: NonZeroUsize = NonZeroUsize::new(64).unwrap();
/// Packs kept open.
const PACKS_KEPT: NonZeroUsize = NonZeroUsize::new(64).unwrap();
/// Decoded chunks kept in memory: small files share them.
const CHUNKS_KEPT: NonZeroUsize = NonZeroUsize::new(16).unwrap();
/// The most symbolic links that one path may lead through, as in Linux.
const LINKS_MAX: u32 = 40;

/// An image of a store, to read what of it is there. All methods block on the disk, may be called
/// from many threads, and verify everything that they return.
pub struct Image {
    store: Arc<Store>,
    digest: Digest,
    manifest: Manifest,
    table: Vec<u8>,
    table_layout: BlobTableLayout,
    shards: Mutex<LruCache<u32, Arc<ShardBlob>>>,
    packs: Mutex<LruCache<u32, Arc<Pack>>>,
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
    /// What that is.
    pub file_type: FileType,
}

impl Image {
    /// Opens the image with this manifest.
    ///
    /// # Errors
    /// [`Error::BlobMissing`], [`Error::BlobDamaged`], [`Error::Format`] or [`Error::Io`].
    pub fn open(store: Arc<Store>, manifest: &Digest) -> Result<Self> {
        let digest = *manifest;
        let manifest = store.read_manifest(&digest)?;
        let length = u64::from(manifest.blob_table_length);
        let table = store.read_metadata(&manifest.blob_table, length)?;
        let table_layout = BlobTableLayout::parse(&table, manifest.inode_count)
            .map_err(Error::format(manifest.blob_table))?;
        Ok(Image {
            store,
            digest,
            manifest,
            table,
            table_layout,
            shards: Mutex::new(LruCache::new(SHARDS_KEPT)),
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
            ROOT_INODE => self.manifest.root,
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
            let child = self.inode(child.inode)?;
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
        let Some(span) = directory.span_of(name)? else {
            return Ok(None);
        };
        let shard = self.shard(span.shard)?;
        let view = shard.view();
        let entry = view.entry(&span, name);
        entry
            .map_err(Error::format(shard.digest))?
            .map(|entry| read_entry(&shard, &view, &entry))
            .transpose()
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
        if directory.file_type != FileType::Directory {
            return Err(Error::NotADirectory(directory.describe()).into());
        }
        for span in directory.spans()? {
            let shard = self.shard(span.shard)?;
            let view = shard.view();
            for entry in view
                .entries(&span)
                .map_err(Error::format(shard.digest))?
                .iter()
            {
                each(read_entry(&shard, &view, &entry)?)?;
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
        let stored = pack.read_chunk(chunk)?.ok_or(Error::ChunkMissing {
            pack: *pack.digest(),
            chunk,
        })?;
        let content = Arc::new(decode_chunk(pack.digest(), chunk, &record, stored)?);
        lock(&self.chunks).put(key, content.clone());
        Ok((content, skip))
    }

    /// A pack by its number in the blob table, as far as it is there.
    ///
    /// # Errors
    /// [`Error::BlobMissing`] if nothing of it is there, and those of reading its index.
    pub fn pack(&self, number: u32) -> Result<Arc<Pack>> {
        if let Some(pack) = lock(&self.packs).get(&number) {
            return Ok(pack.clone());
        }
        let record = self
            .blob_table()
            .pack(number)
            .map_err(Error::format(self.manifest.blob_table))?;
        let index = self
            .store
            .read_metadata(&record.index_digest, u64::from(record.index_length))?;
        let pack = self
            .store
            .find_pack(&record, index)?
            .ok_or(Error::BlobMissing(record.digest))?;
        let pack = Arc::new(pack);
        lock(&self.packs).put(number, pack.clone());
        Ok(pack)
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
        let bytes = self
            .store
            .read_metadata(&record.digest, u64::from(record.length))?;
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

fn read_entry(
    shard: &ShardBlob,
    view: &peerfs_format::Shard<'_>,
    entry: &peerfs_format::EntryRecord,
) -> Result<Entry> {
    let name = view
        .entry_name(entry)
        .map_err(Error::format(shard.digest))?;
    let file_type = FileType::from_d_type(entry.file_type)
        .ok_or(FormatError::Malformed("entry type"))
        .map_err(Error::format(shard.digest))?;
    Ok(Entry {
        name: name.to_vec(),
        inode: entry.inode,
        file_type,
    })
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
