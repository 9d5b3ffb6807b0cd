// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The inode shard: a run of inodes and a run of directory entries.

use crate::message::read_message;
use crate::table::{Field, TableField};
use crate::{
    peerfs_capnp, Digest, EntryRecord, Error, ExtentRecord, FileType, InodeRecord, PackRecord,
    Result, ShardRecord, SpanRecord, Table, XattrRecord, XattrSetRecord, NO_XATTRS, ROOT_INODE,
    SYMLINK_MAX, XATTR_NAMES_MAX, XATTR_NAME_MAX, XATTR_VALUE_MAX,
};

const WHAT: &str = "inode shard";

/// A checked shard without its bytes.
#[derive(Clone, Copy, Debug)]
pub struct ShardLayout {
    first_inode: u64,
    inodes: TableField<InodeRecord>,
    extents: TableField<ExtentRecord>,
    spans: TableField<SpanRecord>,
    entries: TableField<EntryRecord>,
    xattr_sets: TableField<XattrSetRecord>,
    xattrs: TableField<XattrRecord>,
    digests: TableField<Digest>,
    heap: Field,
}

impl ShardLayout {
    /// Checks the frame of this shard, that it has the inodes that are said to be in it, and that these share
    /// neither extents nor spans; otherwise records are checked when they are used.
    pub fn parse(blob: &[u8], record: &ShardRecord) -> Result<Self> {
        let message = read_message(blob, WHAT)?;
        let root: peerfs_capnp::inode_shard::Reader<'_> =
            message.get_root().map_err(|_| Error::Malformed(WHAT))?;
        let heap = root.get_heap().map_err(|_| Error::Malformed(WHAT))?;
        let layout = ShardLayout {
            first_inode: root.get_first_inode(),
            inodes: TableField::locate(blob, root.get_inodes(), "inode table")?,
            extents: TableField::locate(blob, root.get_extents(), "extent table")?,
            spans: TableField::locate(blob, root.get_spans(), "span table")?,
            entries: TableField::locate(blob, root.get_entries(), "entry table")?,
            xattr_sets: TableField::locate(blob, root.get_xattr_sets(), "xattr set table")?,
            xattrs: TableField::locate(blob, root.get_xattrs(), "xattr table")?,
            digests: TableField::locate(blob, root.get_digests(), "digest table")?,
            heap: Field::locate(blob, heap, WHAT)?,
        };
        let inodes = layout.inodes.of(blob).len() as u64;
        if layout.first_inode != record.first_inode || inodes != record.inode_count.into() {
            return Err(Error::Malformed("inode table"));
        }
        // So that every inode has a number, and the number behind the last one is none of them.
        layout
            .first_inode
            .checked_add(inodes)
            .ok_or(Error::Malformed("inode number"))?;
        layout.check_shares(blob)?;
        Ok(layout)
    }

    /// Checks that the regular files have together no more extents than there are, and the directories no more
    /// spans: were each to have all of them, looking at every inode would take as long as there are of both.
    fn check_shares(&self, blob: &[u8]) -> Result<()> {
        let (mut extents, mut spans) = (0_u64, 0_u64);
        for inode in self.inodes.of(blob).iter() {
            // No sum of fewer than 2^32 numbers below 2^32 is too large.
            match inode.file_type() {
                Some(FileType::Regular) => extents += u64::from(inode.payload_count),
                Some(FileType::Directory) => spans += u64::from(inode.payload_count),
                _ => (),
            }
        }
        if extents > self.extents.of(blob).len() as u64 {
            return Err(Error::Malformed("extent table"));
        }
        if spans > self.spans.of(blob).len() as u64 {
            return Err(Error::Malformed("span table"));
        }
        Ok(())
    }

    /// The shard over its bytes, which must be those that were parsed.
    #[inline]
    pub fn view<'a>(&'a self, blob: &'a [u8]) -> Shard<'a> {
        Shard {
            layout: self,
            blob,
            heap: self.heap.of(blob),
        }
    }
}

/// A shard, read in place.
#[derive(Clone, Copy)]
pub struct Shard<'a> {
    layout: &'a ShardLayout,
    blob: &'a [u8],
    heap: &'a [u8],
}

/// The tables of a shard, for whoever looks at all of them. Their records are not checked.
#[derive(Clone, Copy)]
pub struct ShardTables<'a> {
    /// The inodes.
    pub inodes: Table<'a, InodeRecord>,
    /// The regular files' extents.
    pub extents: Table<'a, ExtentRecord>,
    /// The directories' spans.
    pub spans: Table<'a, SpanRecord>,
    /// The entries.
    pub entries: Table<'a, EntryRecord>,
    /// The sets of xattrs.
    pub xattr_sets: Table<'a, XattrSetRecord>,
    /// The xattrs in them.
    pub xattrs: Table<'a, XattrRecord>,
    /// The regular files' content digests.
    pub digests: Table<'a, Digest>,
}

impl<'a> Shard<'a> {
    /// All tables.
    pub fn tables(&self) -> ShardTables<'a> {
        let layout = self.layout;
        ShardTables {
            inodes: layout.inodes.of(self.blob),
            extents: layout.extents.of(self.blob),
            spans: layout.spans.of(self.blob),
            entries: layout.entries.of(self.blob),
            xattr_sets: layout.xattr_sets.of(self.blob),
            xattrs: layout.xattrs.of(self.blob),
            digests: layout.digests.of(self.blob),
        }
    }

    /// The record of an inode of this shard, if it is valid and what it says about its payload is. `packs` are
    /// those of the blob table.
    pub fn inode(&self, inode: u64, packs: &Table<'_, PackRecord>) -> Result<InodeRecord> {
        let record = inode
            .checked_sub(self.layout.first_inode)
            .and_then(|place| usize::try_from(place).ok())
            .and_then(|place| self.layout.inodes.of(self.blob).get(place))
            .ok_or(Error::Malformed("inode number"))?
            .checked()?;
        if record.xattrs != NO_XATTRS
            && record.xattrs as usize >= self.layout.xattr_sets.of(self.blob).len()
        {
            return Err(Error::Malformed("xattr set"));
        }
        match record.file_type() {
            Some(FileType::Regular) => check_extents(&self.extents(&record)?, &record, packs)?,
            Some(FileType::Directory) => drop(self.spans(&record)?),
            Some(FileType::SymbolicLink) => drop(self.symlink_target(&record)?),
            _ => (),
        }
        Ok(record)
    }

    /// The inodes of this shard, as numbers.
    pub fn inode_numbers(&self) -> core::ops::Range<u64> {
        let first = self.layout.first_inode;
        first..first.saturating_add(self.layout.inodes.of(self.blob).len() as u64)
    }

    /// A regular file's extents. Those of an inode that [`Shard::inode`] has returned ascend and do not overlap,
    /// none is empty, they end within the file, and lie in packs.
    pub fn extents(&self, inode: &InodeRecord) -> Result<Table<'a, ExtentRecord>> {
        self.layout
            .extents
            .of(self.blob)
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
            .and_then(|index| self.layout.digests.of(self.blob).get(index))
            .ok_or(Error::Malformed("digest table"))
    }

    /// A directory's spans.
    pub fn spans(&self, inode: &InodeRecord) -> Result<Table<'a, SpanRecord>> {
        self.layout
            .spans
            .of(self.blob)
            .range(inode.payload_first as usize, inode.payload_count as usize)
            .ok_or(Error::Malformed("span table"))
    }

    /// How many entries a directory has, by its spans. Each must have one, and begin with the entry behind the
    /// last one of the span before, so that a position is that of one entry only, wherever a listing begins.
    pub fn entry_count(&self, directory: &InodeRecord) -> Result<u64> {
        let spans = self.spans(directory)?;
        let count = spans.iter().try_fold(0_u64, |before, span| {
            if span.entries_before == before && span.entry_count > 0 {
                before.checked_add(span.entry_count.into())
            } else {
                None
            }
        });
        count.ok_or(Error::Malformed("span table"))
    }

    /// The name that a span of a directory of this shard begins with.
    pub fn span_name(&self, span: &SpanRecord) -> Result<&'a [u8]> {
        self.bytes(span.name_offset, span.name_length)
            .ok_or(Error::Malformed("span name"))
    }

    /// The entries of a span that lies in this shard.
    pub fn entries(&self, span: &SpanRecord) -> Result<Table<'a, EntryRecord>> {
        self.layout
            .entries
            .of(self.blob)
            .range(span.first_entry as usize, span.entry_count as usize)
            .ok_or(Error::Malformed("entry table"))
    }

    /// Checks that a span, which lies in this shard, begins with the entry of this name: that which the span
    /// repeats, and by which it is found.
    pub fn check_span_name(&self, span: &SpanRecord, name: &[u8]) -> Result<()> {
        let first = self.entries(span)?.get(0);
        match first.map(|entry| self.checked_entry_name(&entry)) {
            Some(Ok(first)) if first == name => Ok(()),
            _ => Err(Error::Malformed("span name")),
        }
    }

    /// The name of an entry of this shard, which is checked: it has a type, does not name the root, and its
    /// name is not empty, without `/` and NUL, and not `.` or `..`.
    #[inline]
    pub fn entry_name(&self, entry: &EntryRecord) -> Result<&'a [u8]> {
        let name = self.checked_entry_name(entry)?;
        let invalid =
            name.is_empty() || name == b"." || name == b".." || has_separator_or_nul(name);
        if invalid {
            return Err(Error::Malformed("entry name"));
        }
        // The root has no name. Were it found in a directory that a file handle led to, the dentry cache
        // would move it there, and the tree hang from nothing.
        // No inode has number 0, and the C library passes over an entry that says so.
        if entry.inode <= ROOT_INODE || FileType::from_d_type(entry.file_type).is_none() {
            return Err(Error::Malformed("directory entry"));
        }
        Ok(name)
    }

    /// The name of an entry of this shard, for which [`Shard::entry_name`] has returned it before.
    #[inline]
    pub fn checked_entry_name(&self, entry: &EntryRecord) -> Result<&'a [u8]> {
        self.bytes(entry.name_offset, entry.name_length.into())
            .ok_or(Error::Malformed("entry name"))
    }

    /// The span of a directory of this shard that has the entry of this name, if there is one: the last
    /// span that does not begin behind it.
    pub fn span_of(&self, directory: &InodeRecord, name: &[u8]) -> Result<Option<SpanRecord>> {
        let spans = self.spans(directory)?;
        let after =
            spans.partition_point(|span| self.span_name(span).is_ok_and(|first| first <= name));
        Ok(after.checked_sub(1).and_then(|index| spans.get(index)))
    }

    /// The entry of this name in a span that lies in this shard.
    pub fn entry(&self, span: &SpanRecord, name: &[u8]) -> Result<Option<EntryRecord>> {
        let entries = self.entries(span)?;
        // Names that are only passed by need not be valid.
        let passed = |entry: &EntryRecord| {
            self.bytes(entry.name_offset, entry.name_length.into())
                .is_some_and(|passed| passed < name)
        };
        match entries.get(entries.partition_point(passed)) {
            Some(entry) if self.entry_name(&entry)? == name => Ok(Some(entry)),
            _ => Ok(None),
        }
    }

    /// A symbolic link's target: not empty, without NUL, and as long as the link's size says.
    pub fn symlink_target(&self, inode: &InodeRecord) -> Result<&'a [u8]> {
        self.bytes(inode.payload_first, inode.payload_count)
            .filter(|target| {
                (1..=SYMLINK_MAX).contains(&target.len())
                    && target.len() as u64 == inode.size
                    && !target.contains(&0)
            })
            .ok_or(Error::Malformed("symbolic link"))
    }

    /// An inode's extended attributes: full names, which ascend and are no longer in sum than one list of
    /// them may be, and values.
    /// After an error nothing else is of use.
    pub fn xattrs(
        &self,
        inode: &InodeRecord,
    ) -> Result<impl Iterator<Item = Result<(&'a [u8], &'a [u8])>>> {
        let xattrs = self.layout.xattrs.of(self.blob);
        let range = if inode.xattrs == NO_XATTRS {
            xattrs.range(0, 0)
        } else {
            let sets = self.layout.xattr_sets.of(self.blob);
            sets.get(inode.xattrs as usize)
                .and_then(|set| xattrs.range(set.first as usize, set.count as usize))
        };
        let range = range.ok_or(Error::Malformed("xattr table"))?;
        let shard = *self;
        let mut last: &[u8] = b"";
        let mut room = XATTR_NAMES_MAX;
        Ok(range.iter().map(move |xattr| {
            const WHAT: Error = Error::Malformed("xattr table");
            let (name, value) = shard.xattr(&xattr)?;
            room = room.checked_sub(name.len() + 1).ok_or(WHAT)?;
            match core::mem::replace(&mut last, name) < name {
                true => Ok((name, value)),
                false => Err(WHAT),
            }
        }))
    }

    /// An extended attribute's full name and value.
    fn xattr(&self, xattr: &XattrRecord) -> Result<(&'a [u8], &'a [u8])> {
        let name = self
            .bytes(xattr.name_offset, xattr.name_length)
            .filter(|name| is_xattr_name(name));
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

/// Checks the extents of a regular file. Their list is then divided in the same way wherever in the file
/// somebody begins.
fn check_extents(
    extents: &Table<'_, ExtentRecord>,
    inode: &InodeRecord,
    packs: &Table<'_, PackRecord>,
) -> Result<()> {
    const WHAT: Error = Error::Malformed("extent record");
    let mut end_before = 0;
    for extent in extents.iter() {
        let end = extent.file_offset.checked_add(extent.length.into());
        let end = end.ok_or(WHAT)?;
        let pack = packs.get(extent.pack as usize).ok_or(WHAT)?;
        let is_valid = extent.file_offset >= end_before
            && extent.length >= 1
            && end <= inode.size
            && u64::from(extent.pack_offset) + u64::from(extent.length) <= pack.logical_length;
        if !is_valid {
            return Err(WHAT);
        }
        end_before = end;
    }
    Ok(())
}

/// Whether this is the full name of an xattr that an inode may have.
pub fn is_xattr_name(name: &[u8]) -> bool {
    const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];
    const PREFIXES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
    let has_rest = |prefix: &&[u8]| {
        name.strip_prefix(*prefix)
            .is_some_and(|rest| !rest.is_empty())
    };
    name.len() <= XATTR_NAME_MAX
        && !name.contains(&0)
        && (PREFIXES.iter().any(has_rest) || ACLS.contains(&name))
}

/// Whether a name has a `/` or a NUL: eight bytes at a time, for every name that is listed is asked.
fn has_separator_or_nul(name: &[u8]) -> bool {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);
    const SEPARATORS: u64 = u64::from_ne_bytes([b'/'; 8]);
    // Has a high bit if and only if one of the eight bytes is 0 or a separator. Separators have no high bit
    // themselves, so that `word` stands for both in the last step.
    let odd = |word: [u8; 8]| {
        let word = u64::from_ne_bytes(word);
        (word.wrapping_sub(ONES) | (word ^ SEPARATORS).wrapping_sub(ONES)) & !word & HIGHS
    };
    match name.last_chunk() {
        // The last eight have what whole words leave over, and some of the word before.
        Some(last) => {
            let words = name.chunks_exact(8);
            let words = words.map(|word| word.try_into().map_or(0, odd));
            words.fold(odd(*last), |all, word| all | word) != 0
        }
        None => name.iter().any(|&byte| byte == b'/' || byte == 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_are_found_wherever_they_are() {
        for length in 1..=20 {
            for place in 0..length {
                for byte in 0..=u8::MAX {
                    // What is beside it must not matter: a borrow could come from there.
                    for other in [1, b'.', b'0', 0x80, u8::MAX] {
                        let mut name = [other; 20];
                        name[place] = byte;
                        let is_odd = byte == b'/' || byte == 0;
                        assert_eq!(has_separator_or_nul(&name[..length]), is_odd);
                    }
                }
            }
        }
    }
}
