// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Checking the tree of one image: first each shard by itself, then what is between them.

use std::sync::Arc;

use peerfs_format::{
    EntryRecord, FileType, InodeRecord, Record, Shard, ShardTables, Table, NO_XATTRS, ROOT_INODE,
};
use peerfs_text::Causes;

use super::marks::Marks;
use crate::inode::ShardBlob;
use crate::{Error, Image, Inode};

/// A problem, if there is one.
type Check = Result<(), String>;

/// The number of times that each shard may be read, on average, and so many more for a few of them. Directories that have their
/// entries where the format's builder puts them stay far below; others could have the check read for days.
const READS: u64 = 24;
const MORE_SHARDS: u64 = 64;
const MORE_BYTES: u64 = 1024 * 1024;

/// The check of a tree. [`TreeCheck::read_shard`] is called for all shards in their order, then
/// [`TreeCheck::check_directories`], then [`TreeCheck::check_inodes`].
pub(super) struct TreeCheck<'a> {
    image: &'a Image,
    inodes: Inodes,
    /// The most shards, and their bytes, that may be read.
    limits: (u64, u64),
    entries: Entries,
    /// The packs that an extent names.
    packs: Marks,
    content_bytes: u128,
}

/// The notes of all inodes, in 12 bytes each.
#[derive(Default)]
struct Inodes {
    /// The type, the flags below, and above them a directory's link.
    notes: Vec<u64>,
    /// Names that are not found yet, by nlink: of a directory those of its subdirectories.
    names: Vec<u32>,
}

/// The entries of all shards, one shard after another: which of them a directory has.
struct Entries {
    marks: Marks,
    /// The first inode of each shard.
    starts: Vec<usize>,
}

const TYPE: u64 = 0xf;
/// A directory that has a name.
const NAMED: u64 = 0x10;
/// A directory that is known to be reached from the root.
const REACHED: u64 = 0x20;
/// A directory on the way that is looked at.
const ON_THE_WAY: u64 = 0x40;
const LINK_SHIFT: u32 = 8;

impl<'a> TreeCheck<'a> {
    /// The check of an image with so many different shards, which have so many bytes. None if it names them so often
    /// that the check would have no end.
    pub(super) fn new(image: &'a Image, different: (u64, u64)) -> Option<Self> {
        let table = image.blob_table();
        let limits = (
            (different.0 + MORE_SHARDS) * READS,
            (different.1 + MORE_BYTES) * READS,
        );
        let bytes: u64 = table
            .shards
            .iter()
            .map(|shard| u64::from(shard.length))
            .sum();
        if table.shards.len() as u64 > limits.0 || bytes > limits.1 {
            return None;
        }
        Some(TreeCheck {
            image,
            limits,
            inodes: Inodes::default(),
            entries: Entries {
                marks: Marks::new(0),
                starts: Vec::new(),
            },
            packs: Marks::new(table.packs.len()),
            content_bytes: 0,
        })
    }

    /// Bytes that the inodes say are not in holes.
    pub(super) fn content_bytes(&self) -> u128 {
        self.content_bytes
    }

    /// Whether there is an extent in each pack.
    pub(super) fn names_all_packs(&self) -> bool {
        self.packs.are_all_marked()
    }

    /// Checks all that a shard says by itself.
    pub(super) fn read_shard(&mut self, number: u32) -> Check {
        let shard = self.shard(number)?;
        let view = shard.view();
        let tables = view.tables();
        self.entries.starts.push(self.entries.marks.len());
        self.entries.marks.extend(tables.entries.len());
        self.inodes.reserve(tables.inodes.len());
        let mut used = Used::new(&tables);
        for (number, record) in view.inode_numbers().zip(tables.inodes.iter()) {
            self.check_inode(number, &record, &view, &mut used)
                .map_err(|problem| format!("inode {number}: {problem}"))?;
        }
        used.check_all()?;
        check_reserved_bytes(&tables)
    }

    fn check_inode(
        &mut self,
        number: u64,
        raw: &InodeRecord,
        shard: &Shard<'_>,
        used: &mut Used,
    ) -> Check {
        // First of all, so that the same extents are not looked at for each inode of a shard.
        used.mark_payload(raw)?;
        let packs = self.image.blob_table().packs;
        let record = shard.inode(number, &packs).map_err(malformed)?;
        let file_type = record.file_type().ok_or("it has no type")?;
        if number == ROOT_INODE && Some(record) != self.image.root_record().ok() {
            return Err("the root directory is another one in the manifest".to_owned());
        }
        self.inodes.add(&record, file_type);
        self.content_bytes += u128::from(record.allocated);
        if record.xattrs != NO_XATTRS && used.mark_xattrs(&shard.tables(), record.xattrs)? {
            let mut xattrs = shard.xattrs(&record).map_err(malformed)?;
            xattrs.try_for_each(|xattr| xattr.map(drop).map_err(malformed))?;
        }
        let mut allocated = 0;
        if file_type == FileType::Regular {
            for extent in shard.extents(&record).map_err(malformed)?.iter() {
                self.packs.mark(extent.pack as usize);
                allocated += u64::from(extent.length);
            }
        }
        if record.allocated != allocated {
            return Err(format!("allocated is not {allocated}"));
        }
        let has_payload = match file_type {
            FileType::Regular | FileType::Directory | FileType::SymbolicLink => false,
            FileType::CharacterDevice | FileType::BlockDevice => record.payload_count != 0,
            FileType::Fifo | FileType::Socket => {
                (record.payload_first, record.payload_count) != (0, 0)
            }
        };
        let has_size = record.size != 0;
        let has_link = record.link != 0;
        match file_type {
            FileType::Regular | FileType::Directory => Ok(()),
            FileType::SymbolicLink if !has_link => Ok(()),
            _ if !has_link && !has_payload && !has_size => Ok(()),
            _ => Err("size, payload or link is not 0".to_owned()),
        }
    }

    /// Checks the directories whose inodes are in a shard.
    pub(super) fn check_directories(&mut self, number: u32) -> Check {
        let shard = self.shard(number)?;
        for inode in shard.view().inode_numbers() {
            if self.inodes.file_type(inode) != Some(FileType::Directory) {
                continue;
            }
            let directory = self
                .image
                .inode(inode)
                .map_err(|error| Causes(&error).to_string())?;
            self.check_directory(&directory)
                .map_err(|problem| format!("directory {inode}: {problem}"))?;
        }
        Ok(())
    }

    fn check_directory(&mut self, directory: &Inode) -> Check {
        let TreeCheck {
            image,
            inodes,
            entries,
            limits,
            ..
        } = self;
        let mut size = 0;
        let walked = image.walk_entries(directory, |found| -> Result<(), Problem> {
            let read = image.shards_read();
            if read.0 > limits.0 || read.1 > limits.1 {
                return Err("the entries of directories are in too many shards".into());
            }
            size += (EntryRecord::SIZE + found.name.len()) as u64;
            let start = entries.starts.get(found.shard as usize);
            if !start.is_some_and(|start| entries.marks.mark(start + found.place)) {
                return Err("it has an entry of another directory".into());
            }
            Ok(inodes.find(directory.number, &found.record)?)
        });
        walked.map_err(|Problem(problem)| problem)?;
        if size != directory.record.size {
            return Err(format!("size is not {size}"));
        }
        Ok(())
    }

    /// Checks that each inode has its names, and directories are below the root. Returns the shard of one that is
    /// not.
    pub(super) fn check_inodes(&mut self) -> Result<(), (u32, String)> {
        let table = self.image.blob_table();
        let problem = |inode: u64, problem: &str| {
            let shard = table.shard_of(inode).unwrap_or_default();
            (shard, format!("inode {inode}: {problem}"))
        };
        if let Some(entry) = self.entries.marks.first_unmarked() {
            let after = self.entries.starts.partition_point(|start| *start <= entry);
            return Err((
                after.saturating_sub(1) as u32,
                "it has an entry that is in no directory".to_owned(),
            ));
        }
        for inode in ROOT_INODE..ROOT_INODE + self.inodes.names.len() as u64 {
            self.inodes
                .check(inode)
                .map_err(|found| problem(inode, found))?;
        }
        Ok(())
    }

    fn shard(&self, number: u32) -> Result<Arc<ShardBlob>, String> {
        self.image
            .shard(number)
            .map_err(|error| Causes(&error).to_string())
    }
}

/// The reason that the walk of a directory ends early.
struct Problem(String);

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Problem(Causes(&error).to_string())
    }
}

impl From<&str> for Problem {
    fn from(problem: &str) -> Self {
        Problem(problem.to_owned())
    }
}

impl Inodes {
    /// Makes room for so many more, and no more than that.
    fn reserve(&mut self, count: usize) {
        self.notes.reserve_exact(count);
        self.names.reserve_exact(count);
    }

    fn add(&mut self, record: &InodeRecord, file_type: FileType) {
        let is_directory = file_type == FileType::Directory;
        // No directory has a number as high as those that do not fit.
        let link = if is_directory && record.link >> (u64::BITS - LINK_SHIFT) == 0 {
            record.link
        } else {
            0
        };
        let own_names = if is_directory { 2 } else { 0 };
        self.notes.push(file_type as u64 | link << LINK_SHIFT);
        self.names.push(record.nlink.wrapping_sub(own_names));
    }

    fn file_type(&self, inode: u64) -> Option<FileType> {
        let note = self.notes.get(place(inode)?)?;
        FileType::from_d_type((note & TYPE) as u8)
    }

    /// Notes that an entry of a directory names an inode.
    fn find(&mut self, directory: u64, entry: &EntryRecord) -> Result<(), &'static str> {
        let note = place(entry.inode).and_then(|place| self.notes.get_mut(place));
        let note = note.ok_or("an entry names no inode")?;
        if *note & TYPE != u64::from(entry.file_type) {
            return Err("an entry has another type than its inode");
        }
        let mut named = entry.inode;
        if entry.file_type == FileType::Directory as u8 {
            if *note >> LINK_SHIFT != directory {
                return Err("it has a directory whose link says another one");
            }
            if *note & NAMED != 0 {
                return Err("it has a directory twice");
            }
            *note |= NAMED;
            named = directory;
        }
        if let Some(names) = place(named).and_then(|place| self.names.get_mut(place)) {
            *names = names.wrapping_sub(1);
        }
        Ok(())
    }

    /// Checks an inode when all entries were found.
    fn check(&mut self, inode: u64) -> Result<(), &'static str> {
        let names = place(inode).and_then(|place| self.names.get(place));
        if names != Some(&0) {
            return Err("nlink is not the number of its names, or 2 and its subdirectories");
        }
        if self.file_type(inode) == Some(FileType::Directory) && !self.is_below_root(inode) {
            return Err("the directory is not reached from the root");
        }
        Ok(())
    }

    /// Whether a directory is reached from the root. Each directory is passed once, however often this is asked.
    fn is_below_root(&mut self, directory: u64) -> bool {
        let mut at = directory;
        let is_reached = loop {
            let note = place(at).and_then(|place| self.notes.get_mut(place));
            match note {
                _ if at == ROOT_INODE => break true,
                Some(note) if *note & REACHED != 0 => break true,
                Some(note) if *note & NAMED != 0 && *note & ON_THE_WAY == 0 => {
                    *note |= ON_THE_WAY;
                    at = *note >> LINK_SHIFT;
                }
                _ => break false,
            }
        };
        at = directory;
        while let Some(note) = place(at).and_then(|place| self.notes.get_mut(place)) {
            if *note & ON_THE_WAY == 0 {
                break;
            }
            *note &= !ON_THE_WAY;
            *note |= if is_reached { REACHED } else { 0 };
            at = *note >> LINK_SHIFT;
        }
        is_reached
    }
}

/// The place of an inode's notes.
fn place(inode: u64) -> Option<usize> {
    usize::try_from(inode.checked_sub(ROOT_INODE)?).ok()
}

/// The records of a shard that something uses.
struct Used {
    extents: Marks,
    spans: Marks,
    digests: Marks,
    xattr_sets: Marks,
    xattrs: Marks,
}

impl Used {
    fn new(tables: &ShardTables<'_>) -> Self {
        Used {
            extents: Marks::new(tables.extents.len()),
            spans: Marks::new(tables.spans.len()),
            digests: Marks::new(tables.digests.len()),
            xattr_sets: Marks::new(tables.xattr_sets.len()),
            xattrs: Marks::new(tables.xattrs.len()),
        }
    }

    /// Marks what a file or directory consists of.
    fn mark_payload(&mut self, inode: &InodeRecord) -> Check {
        let (first, count) = (inode.payload_first, inode.payload_count);
        let is_its_own = match inode.file_type() {
            Some(FileType::Regular) => {
                let digest = usize::try_from(inode.link);
                self.extents.mark_run(first, count)
                    && digest.is_ok_and(|digest| self.digests.mark(digest))
            }
            Some(FileType::Directory) => self.spans.mark_run(first, count),
            _ => true,
        };
        match is_its_own {
            true => Ok(()),
            false => Err(
                "its extents, content digest or spans are not there, or those of another inode"
                    .to_owned(),
            ),
        }
    }

    /// Marks a set of xattrs, and says whether it was not marked before.
    fn mark_xattrs(&mut self, tables: &ShardTables<'_>, set: u32) -> Result<bool, String> {
        if !self.xattr_sets.mark(set as usize) {
            return Ok(false);
        }
        match tables.xattr_sets.get(set as usize) {
            Some(set) if self.xattrs.mark_run(set.first, set.count) => Ok(true),
            _ => Err("its xattrs are not there, or those of another set".to_owned()),
        }
    }

    /// Checks that nothing is left over.
    fn check_all(&self) -> Check {
        let tables = [
            ("an extent", &self.extents),
            ("a span", &self.spans),
            ("a content digest", &self.digests),
            ("a set of xattrs", &self.xattr_sets),
            ("an xattr", &self.xattrs),
        ];
        match tables.iter().find(|(_, marks)| !marks.are_all_marked()) {
            None => Ok(()),
            Some((what, _)) => Err(format!("it has {what} that no inode has")),
        }
    }
}

fn check_reserved_bytes(tables: &ShardTables<'_>) -> Check {
    let are_zero = are_reserved_bytes_zero(&tables.extents)
        && are_reserved_bytes_zero(&tables.spans)
        && are_reserved_bytes_zero(&tables.entries);
    match are_zero {
        true => Ok(()),
        false => Err("reserved bytes of a record are not zero".to_owned()),
    }
}

/// Whether the records are what they are when they are written.
pub(super) fn are_reserved_bytes_zero<R: Record>(table: &Table<'_, R>) -> bool {
    let mut written = Vec::with_capacity(R::SIZE);
    let mut records = table.iter().zip(table.bytes().chunks_exact(R::SIZE));
    records.all(|(record, bytes)| {
        written.clear();
        record.write_to(|part| written.extend_from_slice(part));
        written == bytes
    })
}

fn malformed(error: peerfs_format::Error) -> String {
    error.to_string()
}
