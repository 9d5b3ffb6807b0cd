// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The inode shard: a run of inodes and a run of directory entries.

use capnp::serialize::read_message_from_flat_slice_no_alloc;

use crate::manifest::reader_options;
use crate::table::Field;
use crate::{
    peerfs_capnp, Digest, EntryRecord, Error, ExtentRecord, InodeRecord, Result, SpanRecord, Table,
    XattrRecord, XattrSetRecord, NO_XATTRS, SYMLINK_MAX, XATTR_NAME_MAX, XATTR_VALUE_MAX,
};

const WHAT: &str = "inode shard";

/// A checked shard without its bytes.
#[derive(Clone, Copy, Debug)]
pub struct ShardLayout {
    first_inode: u64,
    inodes: Field,
    extents: Field,
    spans: Field,
    entries: Field,
    xattr_sets: Field,
    xattrs: Field,
    digests: Field,
    heap: Field,
}

impl ShardLayout {
    /// Checks the frame of a shard; records are checked when they are used.
    pub fn parse(mut blob: &[u8]) -> Result<Self> {
        let whole = blob;
        let message = read_message_from_flat_slice_no_alloc(&mut blob, reader_options())
            .map_err(|_| Error::Malformed(WHAT))?;
        let root: peerfs_capnp::inode_shard::Reader<'_> =
            message.get_root().map_err(|_| Error::Malformed(WHAT))?;
        let field = |data: capnp::Result<&[u8]>| {
            Field::locate(whole, data.map_err(|_| Error::Malformed(WHAT))?, WHAT)
        };
        let layout = ShardLayout {
            first_inode: root.get_first_inode(),
            inodes: field(root.get_inodes())?,
            extents: field(root.get_extents())?,
            spans: field(root.get_spans())?,
            entries: field(root.get_entries())?,
            xattr_sets: field(root.get_xattr_sets())?,
            xattrs: field(root.get_xattrs())?,
            digests: field(root.get_digests())?,
            heap: field(root.get_heap())?,
        };
        let shard = layout.view(whole)?;
        // So that every inode has a number, and the number behind the last one is none of them.
        layout
            .first_inode
            .checked_add(shard.inodes.len() as u64)
            .ok_or(Error::Malformed("inode number"))?;
        Ok(layout)
    }

    /// The shard over its bytes, which must be those that were parsed.
    pub fn view<'a>(&self, blob: &'a [u8]) -> Result<Shard<'a>> {
        Ok(Shard {
            first_inode: self.first_inode,
            inodes: self.inodes.table(blob, "inode table")?,
            extents: self.extents.table(blob, "extent table")?,
            spans: self.spans.table(blob, "span table")?,
            entries: self.entries.table(blob, "entry table")?,
            xattr_sets: self.xattr_sets.table(blob, "xattr set table")?,
            xattrs: self.xattrs.table(blob, "xattr table")?,
            digests: self.digests.table(blob, "digest table")?,
            heap: self.heap.of(blob),
        })
    }
}

/// A shard, read in place.
#[derive(Clone, Copy)]
pub struct Shard<'a> {
    first_inode: u64,
    inodes: Table<'a, InodeRecord>,
    extents: Table<'a, ExtentRecord>,
    spans: Table<'a, SpanRecord>,
    entries: Table<'a, EntryRecord>,
    xattr_sets: Table<'a, XattrSetRecord>,
    xattrs: Table<'a, XattrRecord>,
    digests: Table<'a, Digest>,
    heap: &'a [u8],
}

impl<'a> Shard<'a> {
    /// Checks and reads a shard.
    pub fn parse(blob: &'a [u8]) -> Result<Self> {
        ShardLayout::parse(blob)?.view(blob)
    }

    /// The record of an inode of this shard.
    pub fn inode(&self, inode: u64) -> Result<InodeRecord> {
        let record = inode
            .checked_sub(self.first_inode)
            .and_then(|place| usize::try_from(place).ok())
            .and_then(|place| self.inodes.get(place))
            .ok_or(Error::Malformed("inode number"))?;
        if record.file_type().is_none()
            || record.mode > 0o177777
            || record.mtime_nanoseconds >= 1_000_000_000
            || record.size > i64::MAX as u64
            || record.allocated > record.size
                && record.payload_count > 0
                && record.mode & 0o170000 == 0o100000
        {
            return Err(Error::Malformed("inode record"));
        }
        Ok(record)
    }

    /// The inodes of this shard, as numbers.
    pub fn inode_numbers(&self) -> core::ops::Range<u64> {
        self.first_inode..self.first_inode.saturating_add(self.inodes.len() as u64)
    }

    /// A regular file's extents.
    pub fn extents(&self, inode: &InodeRecord) -> Result<Table<'a, ExtentRecord>> {
        self.extents
            .range(inode.payload_first as usize, inode.payload_count as usize)
            .ok_or(Error::Malformed("extent table"))
    }

    /// A regular file's content digest, which a builder computed and nothing verifies. Without holes
    /// it is the SHA-256 of the file's bytes. With holes it is that of, for each run of data between
    /// them, its bytes, its offset and its length, and then the file's size (64-bit little-endian
    /// integers), so that a hole of terabytes costs nothing.
    pub fn content_digest(&self, inode: &InodeRecord) -> Result<Digest> {
        usize::try_from(inode.link)
            .ok()
            .and_then(|index| self.digests.get(index))
            .ok_or(Error::Malformed("digest table"))
    }

    /// A directory's spans.
    pub fn spans(&self, inode: &InodeRecord) -> Result<Table<'a, SpanRecord>> {
        self.spans
            .range(inode.payload_first as usize, inode.payload_count as usize)
            .ok_or(Error::Malformed("span table"))
    }

    /// The name that a span of a directory of this shard begins with.
    pub fn span_name(&self, span: &SpanRecord) -> Result<&'a [u8]> {
        self.bytes(span.name_offset, span.name_length)
            .ok_or(Error::Malformed("span name"))
    }

    /// The entries of a span that lies in this shard.
    pub fn entries(&self, span: &SpanRecord) -> Result<Table<'a, EntryRecord>> {
        self.entries
            .range(span.first_entry as usize, span.entry_count as usize)
            .ok_or(Error::Malformed("entry table"))
    }

    /// The name of an entry of this shard: not empty, without `/` and NUL, not `.` or `..`.
    pub fn entry_name(&self, entry: &EntryRecord) -> Result<&'a [u8]> {
        let name = self
            .bytes(entry.name_offset, u32::from(entry.name_length))
            .ok_or(Error::Malformed("entry name"))?;
        let invalid = name.is_empty()
            || name == b"."
            || name == b".."
            || name.iter().any(|&byte| byte == b'/' || byte == 0);
        if invalid {
            return Err(Error::Malformed("entry name"));
        }
        Ok(name)
    }

    /// A symbolic link's target: not empty and without NUL.
    pub fn symlink_target(&self, inode: &InodeRecord) -> Result<&'a [u8]> {
        self.bytes(inode.payload_first, inode.payload_count)
            .filter(|target| {
                !target.is_empty() && target.len() <= SYMLINK_MAX && !target.contains(&0)
            })
            .ok_or(Error::Malformed("symbolic link"))
    }

    /// An inode's extended attributes.
    pub fn xattrs(&self, inode: &InodeRecord) -> Result<Table<'a, XattrRecord>> {
        if inode.xattrs == NO_XATTRS {
            return self
                .xattrs
                .range(0, 0)
                .ok_or(Error::Malformed("xattr table"));
        }
        self.xattr_sets
            .get(inode.xattrs as usize)
            .and_then(|set| self.xattrs.range(set.first as usize, set.count as usize))
            .ok_or(Error::Malformed("xattr table"))
    }

    /// An extended attribute's full name and value.
    pub fn xattr(&self, xattr: &XattrRecord) -> Result<(&'a [u8], &'a [u8])> {
        let name = self
            .bytes(xattr.name_offset, xattr.name_length)
            .filter(|name| (1..=XATTR_NAME_MAX).contains(&name.len()) && !name.contains(&0));
        let value = self
            .bytes(xattr.value_offset, xattr.value_length)
            .filter(|value| value.len() <= XATTR_VALUE_MAX);
        name.zip(value).ok_or(Error::Malformed("xattr record"))
    }

    fn bytes(&self, offset: u32, length: u32) -> Option<&'a [u8]> {
        let start = offset as usize;
        self.heap.get(start..start.checked_add(length as usize)?)
    }
}
