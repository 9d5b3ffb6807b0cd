// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The tree, compactly, since there may be millions of files; and how it is written.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::result::Result as StdResult;

use bytes::{Buf, BufMut};
use peerfs_format::{EntryRecord, FileType, Record, ROOT_INODE};

use crate::read::QueuedFile;
use crate::source::{Flaw, Kind, Metadata};
use crate::table::{Row, Scratch, Segments, Table};
use crate::xattrs::XattrSetId;
use crate::Result;

/// A tree that was walked: all that an image holds of it but the content of its regular files.
pub struct Tree {
    /// By inode number, the first one (the root) at index 0.
    pub(crate) nodes: Table<Node>,
    /// All directories' entries, in the order of the visits; sorted within each directory.
    pub(crate) entries: Table<Entry>,
    /// In the order of the visits.
    pub(crate) directories: Vec<Directory>,
    /// The bytes of names and symbolic links' targets.
    bytes: Segments,
}

/// An inode.
#[derive(Clone, Copy)]
pub(crate) struct Node {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) nlink: u32,
    pub(crate) size: u64,
    pub(crate) mtime_seconds: i64,
    pub(crate) mtime_nanoseconds: u32,
    /// Not for regular files: theirs come with their content.
    pub(crate) xattrs: Option<XattrSetId>,
    pub(crate) kind: NodeKind,
}

/// An inode's type, and what only that has.
#[derive(Clone, Copy)]
pub(crate) enum NodeKind {
    /// Index of the content, counted over the regular files in the order in which they were handed over.
    Regular(u32),
    /// Index in [`Tree::directories`], set when it is visited; and the parent's inode number.
    Directory { index: u32, parent: u32 },
    /// The target.
    SymbolicLink(ByteRange),
    /// The device number as in `InodeRecord::payload_first`.
    Device(u32),
    /// FIFO or socket.
    Other,
}

/// An entry of a directory.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) inode: u32,
    pub(crate) name: ByteRange,
}

/// A directory.
pub(crate) struct Directory {
    /// Its entries, in [`Tree::entries`].
    pub(crate) entries: Range<usize>,
}

/// Bytes of the tree's names and targets.
#[derive(Clone, Copy)]
pub(crate) struct ByteRange {
    start: u64,
    length: u16,
}

impl Row for Node {
    const SIZE: usize = 6 * 4 + 2 * 8 + NodeKind::SIZE;

    fn encode(&self, bytes: &mut Vec<u8>) {
        for field in [self.mode, self.uid, self.gid, self.nlink] {
            bytes.put_u32_le(field);
        }
        bytes.put_u64_le(self.size);
        bytes.put_i64_le(self.mtime_seconds);
        bytes.put_u32_le(self.mtime_nanoseconds);
        bytes.put_u32_le(XattrSetId::encode(self.xattrs));
        self.kind.encode(bytes);
    }

    fn decode(mut bytes: &[u8]) -> Self {
        Node {
            mode: bytes.get_u32_le(),
            uid: bytes.get_u32_le(),
            gid: bytes.get_u32_le(),
            nlink: bytes.get_u32_le(),
            size: bytes.get_u64_le(),
            mtime_seconds: bytes.get_i64_le(),
            mtime_nanoseconds: bytes.get_u32_le(),
            xattrs: XattrSetId::decode(bytes.get_u32_le()),
            kind: NodeKind::decode(bytes),
        }
    }
}

impl NodeKind {
    /// Bytes of a kind: which one, and two fields.
    const SIZE: usize = 2 + 2 + 8;

    fn encode(&self, bytes: &mut Vec<u8>) {
        let (kind, short, long) = match *self {
            NodeKind::Regular(number) => (0, 0, u64::from(number)),
            NodeKind::Directory { index, parent } => {
                (1, 0, u64::from(index) << 32 | u64::from(parent))
            }
            NodeKind::SymbolicLink(target) => (2, target.length, target.start),
            NodeKind::Device(number) => (3, 0, u64::from(number)),
            NodeKind::Other => (4, 0, 0),
        };
        bytes.put_u16_le(kind);
        bytes.put_u16_le(short);
        bytes.put_u64_le(long);
    }

    fn decode(mut bytes: &[u8]) -> Self {
        let (kind, length, long) = (bytes.get_u16_le(), bytes.get_u16_le(), bytes.get_u64_le());
        match kind {
            0 => NodeKind::Regular(long as u32),
            1 => NodeKind::Directory {
                index: (long >> 32) as u32,
                parent: long as u32,
            },
            2 => NodeKind::SymbolicLink(ByteRange {
                start: long,
                length,
            }),
            3 => NodeKind::Device(long as u32),
            _ => NodeKind::Other,
        }
    }
}

impl Row for Entry {
    const SIZE: usize = 4 + 2 + 8;

    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.put_u32_le(self.inode);
        bytes.put_u16_le(self.name.length);
        bytes.put_u64_le(self.name.start);
    }

    fn decode(mut bytes: &[u8]) -> Self {
        Entry {
            inode: bytes.get_u32_le(),
            name: ByteRange {
                length: bytes.get_u16_le(),
                start: bytes.get_u64_le(),
            },
        }
    }
}

impl Tree {
    /// Keeps a name (at most 255 bytes) or a target (at most 4095).
    fn add_bytes(&mut self, bytes: &[u8]) -> ByteRange {
        ByteRange {
            start: self.bytes.add(bytes),
            length: bytes.len() as u16,
        }
    }

    /// The bytes of a name or a target.
    pub(crate) fn bytes(&self, range: ByteRange) -> Cow<'_, [u8]> {
        let bytes = self.bytes.get(range.start, range.length.into());
        bytes.unwrap_or_default()
    }

    /// An inode by its number.
    pub(crate) fn node(&self, inode: u32) -> Option<Node> {
        self.nodes.get((inode as usize).checked_sub(1)?)
    }

    fn update(&mut self, inode: u32, change: impl FnOnce(&mut Node)) {
        if let Some(number) = (inode as usize).checked_sub(1) {
            self.nodes.update(number, change);
        }
    }

    /// Fails if something of it could not be read back.
    ///
    /// # Errors
    /// [`Error::Scratch`](crate::Error::Scratch).
    pub(crate) fn check(&self) -> Result<()> {
        self.nodes.check()?;
        self.entries.check()?;
        self.bytes.check()
    }

    /// An inode's type.
    pub(crate) fn file_type(&self, inode: u32) -> Option<FileType> {
        FileType::from_mode(self.node(inode)?.mode)
    }

    /// A path of an inode, below `root`: for messages, since it is searched for.
    pub(crate) fn path_of(&self, mut inode: u32, root: &Path) -> PathBuf {
        let mut names = Vec::new();
        // The first name of each is in a directory that was visited before.
        while let Some(place) = self.entries.iter().position(|entry| entry.inode == inode) {
            let name = self.entries.get(place).map(|entry| entry.name);
            names.extend(name.map(|name| self.bytes(name)));
            let directory = self
                .directories
                .iter()
                .position(|directory| directory.entries.contains(&place));
            let parent = self.nodes.iter().position(|node| {
                matches!(node.kind, NodeKind::Directory { index, .. }
                    if Some(index as usize) == directory)
            });
            inode = parent.map_or(0, |parent| parent as u32 + 1);
        }
        let names = names.iter().rev();
        names.fold(root.to_owned(), |path, name| {
            path.join(OsStr::from_bytes(name.as_ref()))
        })
    }

    /// The entries of the directory at this index.
    pub(crate) fn entries_of(&self, directory: u32) -> Range<usize> {
        let directory = self.directories.get(directory as usize);
        directory.map_or(0..0, |directory| directory.entries.clone())
    }
}

/// Writes a tree in the order that images have: the entries of a directory one after another, sorted by their
/// names, then those of its subdirectories in turn, each followed by all that is below it.
pub(crate) struct TreeWriter {
    tree: Tree,
    /// The first entry of the directory that is being written.
    first_entry: usize,
    /// Its subdirectories so far.
    subdirectories: u32,
    /// Bytes of its entry records and names so far.
    size: u64,
}

impl TreeWriter {
    /// A tree of a root without entries.
    pub(crate) fn new(root: &Metadata, scratch: &Scratch) -> Self {
        let tree = Tree {
            nodes: Table::new(scratch),
            entries: Table::new(scratch),
            directories: Vec::new(),
            bytes: Segments::new(scratch),
        };
        let mut writer = TreeWriter {
            tree,
            first_entry: 0,
            subdirectories: 0,
            size: 0,
        };
        let parent = ROOT_INODE as u32;
        let kind = NodeKind::Directory { index: 0, parent };
        let root = node(root, FileType::Directory, 0, kind);
        writer.tree.nodes.push(&root);
        writer
    }

    /// The tree so far.
    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Adds a regular file to the current directory, and returns its inode number. The name has been checked.
    pub(crate) fn add_file(
        &mut self,
        name: &[u8],
        metadata: &Metadata,
        file: QueuedFile,
    ) -> StdResult<u32, Flaw> {
        if file.size > i64::MAX as u64 {
            return Err(Flaw::TooLarge {
                what: "bytes",
                count: file.size,
                limit: i64::MAX as u64,
            });
        }
        let number = u32::try_from(file.number).map_err(|_| too_many(file.number))?;
        let kind = NodeKind::Regular(number);
        self.add_node(name, node(metadata, FileType::Regular, file.size, kind))
    }

    /// Adds anything else to the current directory, whose inode number is `parent`, and returns its inode number.
    /// Name and kind have been checked; a directory gets its extended attributes with
    /// [`end_directory`](TreeWriter::end_directory).
    pub(crate) fn add(
        &mut self,
        parent: u32,
        name: &[u8],
        metadata: &Metadata,
        kind: &Kind,
        xattrs: Option<XattrSetId>,
    ) -> StdResult<u32, Flaw> {
        let mut size = 0;
        let node_kind = match kind {
            Kind::Directory => {
                self.subdirectories += 1;
                NodeKind::Directory { index: 0, parent }
            }
            Kind::SymbolicLink(target) => {
                size = target.len() as u64;
                NodeKind::SymbolicLink(self.tree.add_bytes(target))
            }
            Kind::CharacterDevice(number) | Kind::BlockDevice(number) => {
                NodeKind::Device(number.encode())
            }
            Kind::Fifo | Kind::Socket => NodeKind::Other,
        };
        let node = Node {
            xattrs,
            ..node(metadata, kind.file_type(), size, node_kind)
        };
        self.add_node(name, node)
    }

    /// Adds another name of an inode that is no directory to the current directory.
    pub(crate) fn link(&mut self, name: &[u8], inode: u32) {
        self.tree.update(inode, |node| {
            node.nlink = node.nlink.saturating_add(1);
        });
        self.add_entry(name, inode);
    }

    /// Ends the current directory, whose inode number this is: what was added since another one ended is in it.
    pub(crate) fn end_directory(&mut self, inode: u32, xattrs: Option<XattrSetId>) {
        let place = self.tree.directories.len() as u32;
        let entries = self.first_entry..self.tree.entries.len();
        self.first_entry = entries.end;
        self.tree.directories.push(Directory { entries });
        let size = std::mem::take(&mut self.size);
        let subdirectories = std::mem::take(&mut self.subdirectories);
        self.tree.update(inode, |node| {
            node.xattrs = xattrs;
            node.size = size;
            node.nlink = 2 + subdirectories;
            if let NodeKind::Directory { index, .. } = &mut node.kind {
                *index = place;
            }
        });
    }

    /// The tree, whose directories have all ended.
    pub(crate) fn finish(self) -> Tree {
        self.tree
    }

    fn add_node(&mut self, name: &[u8], node: Node) -> StdResult<u32, Flaw> {
        let before = self.tree.nodes.len() as u64;
        let inode = u32::try_from(before + 1).map_err(|_| too_many(before))?;
        self.tree.nodes.push(&node);
        self.add_entry(name, inode);
        Ok(inode)
    }

    fn add_entry(&mut self, name: &[u8], inode: u32) {
        self.size += (EntryRecord::SIZE + name.len()) as u64;
        let name = self.tree.add_bytes(name);
        self.tree.entries.push(&Entry { inode, name });
    }
}

fn too_many(before: u64) -> Flaw {
    Flaw::TooLarge {
        what: "files before it",
        count: before,
        limit: u64::from(u32::MAX),
    }
}

fn node(metadata: &Metadata, file_type: FileType, size: u64, kind: NodeKind) -> Node {
    Node {
        mode: (file_type as u32) << 12 | metadata.permissions,
        uid: metadata.uid,
        gid: metadata.gid,
        nlink: 1,
        size,
        mtime_seconds: metadata.mtime_seconds,
        mtime_nanoseconds: metadata.mtime_nanoseconds,
        xattrs: None,
        kind,
    }
}
