// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The tree in memory: what the walk found, compactly, since there may be millions of files.

use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use peerfs_format::FileType;

use crate::xattrs::XattrSetId;

/// A tree that was walked.
#[derive(Default)]
pub(crate) struct Tree {
    /// By inode number, the first one (the root) at index 0.
    pub(crate) nodes: Vec<Node>,
    /// All directories' entries, in the order of the visits; sorted within each directory.
    pub(crate) entries: Vec<Entry>,
    /// In the order of the visits.
    pub(crate) directories: Vec<Directory>,
    /// The bytes of names and symbolic links' targets.
    bytes: Vec<u8>,
}

/// An inode.
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
    pub(crate) kind: Kind,
}

/// What an inode is, and what only that has.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// Index of the content, counted over the regular files in their order.
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

impl Tree {
    /// Keeps a name (at most 255 bytes) or a target (at most 4095).
    pub(crate) fn add_bytes(&mut self, bytes: &[u8]) -> ByteRange {
        let range = ByteRange {
            start: self.bytes.len() as u64,
            length: bytes.len() as u16,
        };
        self.bytes.extend_from_slice(bytes);
        range
    }

    /// The bytes of a name or a target.
    pub(crate) fn bytes(&self, range: ByteRange) -> &[u8] {
        let start = range.start as usize;
        let end = start + usize::from(range.length);
        self.bytes.get(start..end).unwrap_or_default()
    }

    /// An inode by its number.
    pub(crate) fn node(&self, inode: u32) -> Option<&Node> {
        self.nodes.get((inode as usize).checked_sub(1)?)
    }

    /// What an inode is.
    pub(crate) fn file_type(&self, inode: u32) -> Option<FileType> {
        FileType::from_mode(self.node(inode)?.mode)
    }

    /// A path of an inode, below `root`: for messages, since it is searched for.
    pub(crate) fn path_of(&self, mut inode: u32, root: &Path) -> PathBuf {
        let mut names = Vec::new();
        // The first name of each is in a directory that was visited before.
        while let Some(place) = self.entries.iter().position(|entry| entry.inode == inode) {
            names.extend(self.entries.get(place).map(|entry| self.bytes(entry.name)));
            let directory = self
                .directories
                .iter()
                .position(|directory| directory.entries.contains(&place));
            let parent = self.nodes.iter().position(|node| {
                matches!(node.kind, Kind::Directory { index, .. }
                    if Some(index as usize) == directory)
            });
            inode = parent.map_or(0, |parent| parent as u32 + 1);
        }
        let names = names.iter().rev();
        names.fold(root.to_owned(), |path, name| {
            path.join(OsStr::from_bytes(name))
        })
    }

    /// The entries of the directory at this index.
    pub(crate) fn entries_of(&self, directory: u32) -> Range<usize> {
        let directory = self.directories.get(directory as usize);
        directory.map_or(0..0, |directory| directory.entries.clone())
    }
}
