// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The records of the fixed-width tables. The order of a struct's fields is the order on disk.

use crate::encryption::ENCRYPTED;
use crate::table::{FieldReader, FieldWriter, Record};
use crate::{Digest, Error, Result, METADATA_MAX, PACK_MAX};

/// How a chunk is compressed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Codec {
    /// As it is.
    Raw = 0,
    /// One zstd frame that states its content size.
    Zstd = 1,
    /// One LZ4 block, without a frame.
    Lz4 = 2,
}

/// What an inode is; the numbers are those of `d_type` in readdir(3).
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum FileType {
    Fifo = 1,
    CharacterDevice = 2,
    Directory = 4,
    BlockDevice = 6,
    Regular = 8,
    SymbolicLink = 10,
    Socket = 12,
}

impl FileType {
    /// The type in the upper bits of a `st_mode`.
    pub fn from_mode(mode: u32) -> Option<Self> {
        u8::try_from((mode & 0o170000) >> 12)
            .ok()
            .and_then(Self::from_d_type)
    }

    /// The type with this `d_type`.
    pub fn from_d_type(d_type: u8) -> Option<Self> {
        Some(match d_type {
            1 => FileType::Fifo,
            2 => FileType::CharacterDevice,
            4 => FileType::Directory,
            6 => FileType::BlockDevice,
            8 => FileType::Regular,
            10 => FileType::SymbolicLink,
            12 => FileType::Socket,
            _ => return None,
        })
    }
}

/// A pack of the image, in the blob table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PackRecord {
    /// SHA-256 of the pack.
    pub digest: Digest,
    /// SHA-256 of its index.
    pub index_digest: Digest,
    /// SHA-256 of its pack contents, see [`PackRecord::content_digests`].
    pub contents_digest: Digest,
    /// Bytes of the pack.
    pub stored_length: u64,
    /// Bytes of its uncompressed address space.
    pub logical_length: u64,
    /// Bytes of its index.
    pub index_length: u32,
    /// Chunks in it.
    pub chunk_count: u32,
}

impl PackRecord {
    /// Whether two images mean the same pack, described by the same index, whatever they say of its contents.
    pub fn is_same_pack(&self, other: &PackRecord) -> bool {
        let other = PackRecord {
            contents_digest: self.contents_digest,
            ..*other
        };
        *self == other
    }

    /// The record, if its numbers are such as a pack can have.
    pub(crate) fn checked(self) -> Result<Self> {
        let is_length = |length| (1..=PACK_MAX).contains(&length);
        // The chunks are all in the index: a reader may have room for each without having seen it.
        let chunk_bytes = u64::from(self.chunk_count) * ChunkRecord::SIZE as u64;
        let is_valid = is_length(self.stored_length)
            && is_length(self.logical_length)
            && u64::from(self.index_length) <= METADATA_MAX
            && (1..self.index_length.into()).contains(&chunk_bytes);
        match is_valid {
            true => Ok(self),
            false => Err(Error::Malformed("pack record")),
        }
    }
}

impl Record for PackRecord {
    const SIZE: usize = 120;

    #[inline]
    fn decode(fields: &mut FieldReader<'_>) -> Self {
        PackRecord {
            digest: Digest(fields.bytes()),
            index_digest: Digest(fields.bytes()),
            contents_digest: Digest(fields.bytes()),
            stored_length: fields.u64(),
            logical_length: fields.u64(),
            index_length: fields.u32(),
            chunk_count: fields.u32(),
        }
    }

    fn encode(&self, fields: &mut FieldWriter<'_>) {
        fields.bytes(&self.digest.0);
        fields.bytes(&self.index_digest.0);
        fields.bytes(&self.contents_digest.0);
        fields.u64(self.stored_length);
        fields.u64(self.logical_length);
        fields.u32(self.index_length);
        fields.u32(self.chunk_count);
    }
}

/// An inode shard of the image, in the blob table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ShardRecord {
    /// SHA-256 of the shard.
    pub digest: Digest,
    /// Its first inode.
    pub first_inode: u64,
    /// The inodes in it, which may be none.
    pub inode_count: u32,
    /// Bytes of the shard.
    pub length: u32,
}

impl Record for ShardRecord {
    const SIZE: usize = 48;

    #[inline]
    fn decode(fields: &mut FieldReader<'_>) -> Self {
        ShardRecord {
            digest: Digest(fields.bytes()),
            first_inode: fields.u64(),
            inode_count: fields.u32(),
            length: fields.u32(),
        }
    }

    fn encode(&self, fields: &mut FieldWriter<'_>) {
        fields.bytes(&self.digest.0);
        fields.u64(self.first_inode);
        fields.u32(self.inode_count);
        fields.u32(self.length);
    }
}

/// A chunk of a pack, in the pack's index.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ChunkRecord {
    /// SHA-256 of the stored bytes.
    pub digest: Digest,
    /// Where the chunk begins in the pack's uncompressed address space.
    pub logical_offset: u32,
    /// Where the stored bytes begin in the pack.
    pub stored_offset: u32,
    /// Bytes uncompressed: 1 to `CHUNK_MAX`.
    pub logical_length: u32,
    /// Bytes as stored: 1 to `logical_length`.
    pub stored_length: u32,
    /// A [`Codec`], and [`ENCRYPTED`] if the chunk is encrypted.
    pub codec: u8,
}

impl ChunkRecord {
    /// Whether the chunk is encrypted: then its codec is of what it decrypts to.
    pub fn is_encrypted(&self) -> bool {
        self.codec & ENCRYPTED != 0
    }

    /// The codec, if this reader knows it.
    pub fn codec(&self) -> Option<Codec> {
        match self.codec & !ENCRYPTED {
            0 => Some(Codec::Raw),
            1 => Some(Codec::Zstd),
            2 => Some(Codec::Lz4),
            _ => None,
        }
    }
}

impl Record for ChunkRecord {
    const SIZE: usize = 52;

    #[inline]
    fn decode(fields: &mut FieldReader<'_>) -> Self {
        let record = ChunkRecord {
            digest: Digest(fields.bytes()),
            logical_offset: fields.u32(),
            stored_offset: fields.u32(),
            logical_length: fields.u32(),
            stored_length: fields.u32(),
            codec: fields.u8(),
        };
        let _reserved: [u8; 3] = fields.bytes();
        record
    }

    fn encode(&self, fields: &mut FieldWriter<'_>) {
        fields.bytes(&self.digest.0);
        fields.u32(self.logical_offset);
        fields.u32(self.stored_offset);
        fields.u32(self.logical_length);
        fields.u32(self.stored_length);
        fields.u8(self.codec);
        fields.bytes(&[0; 3]);
    }
}

/// The value of [`InodeRecord::xattrs`] for an inode without extended attributes.
pub const NO_XATTRS: u32 = u32::MAX;

/// An inode, in its shard.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct InodeRecord {
    /// Type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names of the inode; for a directory 2 plus its subdirectories.
    pub nlink: u32,
    /// `st_size`: bytes of a regular file, of a symbolic link's target; for a directory the bytes
    /// of its entry records and names; otherwise 0.
    pub size: u64,
    /// Bytes of a regular file that are not in holes.
    pub allocated: u64,
    /// Modification time: seconds since 1970.
    pub mtime_seconds: i64,
    /// Modification time: nanoseconds, below 1,000,000,000.
    pub mtime_nanoseconds: u32,
    /// Regular file: index of its first extent. Directory: index of its first span. Symbolic link:
    /// where the target begins in the heap. Device: `rdev` as minor bits 0-7, major 8-19, minor
    /// bits 8-19 above (Linux's `new_encode_dev`).
    pub payload_first: u32,
    /// Regular file: its extents. Directory: its spans. Symbolic link: bytes of the target.
    pub payload_count: u32,
    /// Index of its xattr set, or [`NO_XATTRS`].
    pub xattrs: u32,
    /// Regular file: index of its content's digest. Directory: its parent's inode number (the
    /// root's is itself).
    pub link: u64,
}

impl InodeRecord {
    /// What the inode is, if the mode is valid.
    pub fn file_type(&self) -> Option<FileType> {
        FileType::from_mode(self.mode)
    }

    /// The record, if its numbers are such as an inode can have.
    pub(crate) fn checked(self) -> Result<Self> {
        let is_valid = self.file_type().is_some()
            && self.mode <= 0o177777
            && self.nlink >= 1
            && self.mtime_nanoseconds < 1_000_000_000
            && self.size <= i64::MAX as u64;
        match is_valid {
            true => Ok(self),
            false => Err(Error::Malformed("inode record")),
        }
    }
}

impl Record for InodeRecord {
    const SIZE: usize = 64;

    #[inline]
    fn decode(fields: &mut FieldReader<'_>) -> Self {
        InodeRecord {
            mode: fields.u32(),
            uid: fields.u32(),
            gid: fields.u32(),
            nlink: fields.u32(),
            size: fields.u64(),
            allocated: fields.u64(),
            mtime_seconds: i64::from_le_bytes(fields.bytes()),
            mtime_nanoseconds: fields.u32(),
            payload_first: fields.u32(),
            payload_count: fields.u32(),
            xattrs: fields.u32(),
            link: fields.u64(),
        }
    }

    fn encode(&self, fields: &mut FieldWriter<'_>) {
        fields.u32(self.mode);
        fields.u32(self.uid);
        fields.u32(self.gid);
        fields.u32(self.nlink);
        fields.u64(self.size);
        fields.u64(self.allocated);
        fields.bytes(&self.mtime_seconds.to_le_bytes());
        fields.u32(self.mtime_nanoseconds);
        fields.u32(self.payload_first);
        fields.u32(self.payload_count);
        fields.u32(self.xattrs);
        fields.u64(self.link);
    }
}

/// A run of a regular file on a pack's uncompressed address space. A file's extents ascend by file
/// offset and do not overlap; what none of them covers is a hole and reads as zeros.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ExtentRecord {
    /// Where the run begins in the file.
    pub file_offset: u64,
    /// Index of the pack in the manifest.
    pub pack: u32,
    /// Where the run begins in the pack's uncompressed address space.
    pub pack_offset: u32,
    /// Bytes of the run, at least 1.
    pub length: u32,
}

impl Record for ExtentRecord {
    const SIZE: usize = 24;

    #[inline]
    fn decode(fields: &mut FieldReader<'_>) -> Self {
        let record = ExtentRecord {
            file_offset: fields.u64(),
            pack: fields.u32(),
            pack_offset: fields.u32(),
            length: fields.u32(),
        };
        let _reserved = fields.u32();
        record
    }

    fn encode(&self, fields: &mut FieldWriter<'_>) {
        fields.u64(self.file_offset);
        fields.u32(self.pack);
        fields.u32(self.pack_offset);
        fields.u32(self.length);
        fields.u32(0);
    }
}

/// A run of a directory's entries inside one shard. A directory's spans ascend by name; most
/// directories have one span, empty ones none, and one that outgrows a shard has several.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SpanRecord {
    /// Entries of the directory before this span.
    pub entries_before: u64,
    /// Index of the shard in the manifest.
    pub shard: u32,
    /// Index of the span's first entry in that shard.
    pub first_entry: u32,
    /// Entries in the span, at least 1.
    pub entry_count: u32,
    /// Where the name of the first entry is repeated in the heap of the directory's own shard, so
    /// that a lookup picks the span without reading the others.
    pub name_offset: u32,
    /// Bytes of that name.
    pub name_length: u32,
}

impl Record for SpanRecord {
    const SIZE: usize = 32;

    #[inline]
    fn decode(fields: &mut FieldReader<'_>) -> Self {
        let record = SpanRecord {
            entries_before: fields.u64(),
            shard: fields.u32(),
            first_entry: fields.u32(),
            entry_count: fields.u32(),
            name_offset: fields.u32(),
            name_length: fields.u32(),
        };
        let _reserved = fields.u32();
        record
    }

    fn encode(&self, fields: &mut FieldWriter<'_>) {
        fields.u64(self.entries_before);
        fields.u32(self.shard);
        fields.u32(self.first_entry);
        fields.u32(self.entry_count);
        fields.u32(self.name_offset);
        fields.u32(self.name_length);
        fields.u32(0);
    }
}

/// An entry of a directory; sorted by the bytes of the names within the directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EntryRecord {
    /// The inode that the entry names.
    pub inode: u64,
    /// Where the name is in the heap of the entry's shard.
    pub name_offset: u32,
    /// Bytes of the name, at least 1.
    pub name_length: u8,
    /// A [`FileType`], for `d_type`.
    pub file_type: u8,
}

impl Record for EntryRecord {
    const SIZE: usize = 16;

    #[inline]
    fn decode(fields: &mut FieldReader<'_>) -> Self {
        let record = EntryRecord {
            inode: fields.u64(),
            name_offset: fields.u32(),
            name_length: fields.u8(),
            file_type: fields.u8(),
        };
        let _reserved = fields.u16();
        record
    }

    fn encode(&self, fields: &mut FieldWriter<'_>) {
        fields.u64(self.inode);
        fields.u32(self.name_offset);
        fields.u8(self.name_length);
        fields.u8(self.file_type);
        fields.u16(0);
    }
}

/// A set of extended attributes, shared by the inodes of a shard that have the same ones.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct XattrSetRecord {
    /// Index of the first attribute.
    pub first: u32,
    /// Attributes, at least 1.
    pub count: u32,
}

impl Record for XattrSetRecord {
    const SIZE: usize = 8;

    #[inline]
    fn decode(fields: &mut FieldReader<'_>) -> Self {
        XattrSetRecord {
            first: fields.u32(),
            count: fields.u32(),
        }
    }

    fn encode(&self, fields: &mut FieldWriter<'_>) {
        fields.u32(self.first);
        fields.u32(self.count);
    }
}

/// An extended attribute; sorted by the bytes of the full names within its set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct XattrRecord {
    /// Where the full name (`security.capability`) is in the heap.
    pub name_offset: u32,
    /// Bytes of the name.
    pub name_length: u32,
    /// Where the value is in the heap.
    pub value_offset: u32,
    /// Bytes of the value.
    pub value_length: u32,
}

impl Record for XattrRecord {
    const SIZE: usize = 16;

    #[inline]
    fn decode(fields: &mut FieldReader<'_>) -> Self {
        XattrRecord {
            name_offset: fields.u32(),
            name_length: fields.u32(),
            value_offset: fields.u32(),
            value_length: fields.u32(),
        }
    }

    fn encode(&self, fields: &mut FieldWriter<'_>) {
        fields.u32(self.name_offset);
        fields.u32(self.name_length);
        fields.u32(self.value_offset);
        fields.u32(self.value_length);
    }
}

impl Record for Digest {
    const SIZE: usize = Digest::SIZE;

    #[inline]
    fn decode(fields: &mut FieldReader<'_>) -> Self {
        Digest(fields.bytes())
    }

    fn encode(&self, fields: &mut FieldWriter<'_>) {
        fields.bytes(&self.0);
    }
}
