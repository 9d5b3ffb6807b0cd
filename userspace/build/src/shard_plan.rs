// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Dividing entries and inodes into shards.

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

use peerfs_format::{
    Digest, EntryRecord, ExtentRecord, InodeRecord, Record, SpanRecord, XattrRecord,
    XattrSetRecord, METADATA_MAX, ROOT_INODE,
};

use crate::content::{Contents, PackPlaces};
use crate::tree::{NodeKind, Tree};
use crate::xattrs::{self, XattrSetId, XattrSets};
use crate::{Error, Result};

/// All that a shard is made from.
pub(crate) struct ShardSource<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) contents: &'a Contents,
    pub(crate) packs: &'a PackPlaces,
    pub(crate) xattrs: &'a XattrSets,
}

/// A shard that is to be written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PlannedShard {
    /// Its entries, in `Tree::entries`.
    pub(crate) entries: Range<usize>,
    /// Its inodes: those that its entries introduce, in the first shard also the root.
    pub(crate) inodes: Range<u32>,
}

/// The most bytes that one file may take of a shard, which has an entry or the root and the frame of the blob besides.
pub(crate) const INODE_MAX: usize = METADATA_MAX as usize - 64 * 1024;

/// Cuts the entries into shards: between directories, and inside one only if it does not fit into
/// one shard. `root` is for messages.
///
/// # Errors
/// [`Error::TooLarge`] if a file does not fit into any shard.
pub(crate) fn plan(
    source: &ShardSource<'_>,
    target: usize,
    root: &Path,
) -> Result<Vec<PlannedShard>> {
    let mut planner = Planner {
        source,
        target,
        root,
        shards: Vec::new(),
        current: PlannedShard {
            entries: 0..0,
            inodes: ROOT_INODE as u32..ROOT_INODE as u32,
        },
        size: 0,
        xattr_sets: HashSet::new(),
    };
    planner.add_inode(ROOT_INODE as u32)?;
    for directory in &source.tree.directories {
        planner.add_directory(directory.entries.clone())?;
    }
    planner.close();
    Ok(planner.shards)
}

struct Planner<'a> {
    source: &'a ShardSource<'a>,
    /// Bytes of a shard, about.
    target: usize,
    root: &'a Path,
    shards: Vec<PlannedShard>,
    current: PlannedShard,
    /// Bytes of the current shard's tables and heap.
    size: usize,
    /// The xattr sets of the current shard.
    xattr_sets: HashSet<XattrSetId>,
}

impl Planner<'_> {
    fn add_directory(&mut self, entries: Range<usize>) -> Result<()> {
        // What the directory takes in a shard of its own; counting may stop when it is too much.
        let mut alone = 0;
        let mut next_inode = self.current.inodes.end;
        for entry in self.source.tree.entries.range(entries.clone()) {
            alone += self.entry_size(entry.name);
            if entry.inode == next_inode {
                next_inode += 1;
                alone += self.inode_size(entry.inode, &HashSet::new());
            }
            if alone > self.target {
                break;
            }
        }
        if self.size + alone > self.target && !self.current.entries.is_empty() {
            self.close();
        }
        let may_cut = alone > self.target;
        for index in entries {
            let Some(entry) = self.source.tree.entries.get(index) else {
                return Ok(());
            };
            let is_new = entry.inode == self.current.inodes.end;
            let mut size = self.entry_size(entry.name);
            if is_new {
                size += self.inode_size(entry.inode, &self.xattr_sets);
            }
            if may_cut && self.size + size > self.target && !self.current.entries.is_empty() {
                self.close();
            }
            self.size += self.entry_size(entry.name);
            self.current.entries.end = index + 1;
            if is_new {
                self.add_inode(entry.inode)?;
            }
        }
        Ok(())
    }

    fn add_inode(&mut self, inode: u32) -> Result<()> {
        let size = self.inode_size(inode, &self.xattr_sets);
        if size > INODE_MAX {
            return Err(self.too_large(inode));
        }
        self.size += size;
        self.xattr_sets.extend(self.source.xattrs_of(inode));
        self.current.inodes.end = inode + 1;
        Ok(())
    }

    /// Tells what there is too much of.
    fn too_large(&self, inode: u32) -> Error {
        let source = self.source;
        let extents = match source.tree.node(inode).map(|node| node.kind) {
            Some(NodeKind::Regular(file)) => source
                .contents
                .file(file)
                .map_or(0, |file| source.contents.extents(&file, source.packs).len()),
            _ => 0,
        };
        let rest = self.inode_size(inode, &HashSet::new()) - extents * ExtentRecord::SIZE;
        let (what, count, limit) = if extents * ExtentRecord::SIZE > rest {
            let what = "pieces of content, divided by holes or by what is stored elsewhere";
            (what, extents, INODE_MAX / ExtentRecord::SIZE)
        } else {
            (xattrs::TOO_LARGE, rest, INODE_MAX)
        };
        Error::TooLarge {
            what,
            path: source.tree.path_of(inode, self.root),
            count: count as u64,
            limit: limit as u64,
        }
    }

    fn close(&mut self) {
        let next = PlannedShard {
            entries: self.current.entries.end..self.current.entries.end,
            inodes: self.current.inodes.end..self.current.inodes.end,
        };
        self.shards.push(std::mem::replace(&mut self.current, next));
        self.size = 0;
        self.xattr_sets.clear();
    }

    fn entry_size(&self, name: crate::tree::ByteRange) -> usize {
        EntryRecord::SIZE + self.source.tree.bytes(name).len()
    }

    /// The bytes that an inode adds to a shard that has these xattr sets. Of a directory that will
    /// have several spans, one is counted: the others are few.
    fn inode_size(&self, inode: u32, xattr_sets: &HashSet<XattrSetId>) -> usize {
        let source = self.source;
        let Some(node) = source.tree.node(inode) else {
            return 0;
        };
        let payload = match node.kind {
            NodeKind::Regular(file) => source.contents.file(file).map_or(0, |file| {
                let extents = source.contents.extents(&file, source.packs);
                Digest::SIZE + extents.len() * ExtentRecord::SIZE
            }),
            NodeKind::Directory { index, .. } => {
                let first = source.tree.entries.get(source.tree.entries_of(index).start);
                let name = first.map_or(0, |entry| source.tree.bytes(entry.name).len());
                SpanRecord::SIZE + name
            }
            NodeKind::SymbolicLink(target) => source.tree.bytes(target).len(),
            NodeKind::Device(_) | NodeKind::Other => 0,
        };
        let set = source.xattrs_of(inode);
        let xattrs = set
            .filter(|set| !xattr_sets.contains(set))
            .map_or(0, |set| {
                let attributes = source.xattrs.get(set);
                let bytes = attributes
                    .iter()
                    .map(|(name, value)| XattrRecord::SIZE + name.len() + value.len());
                XattrSetRecord::SIZE + bytes.sum::<usize>()
            });
        InodeRecord::SIZE + payload + xattrs
    }
}

impl ShardSource<'_> {
    /// An inode's xattr set.
    pub(crate) fn xattrs_of(&self, inode: u32) -> Option<XattrSetId> {
        let node = self.tree.node(inode)?;
        match node.kind {
            NodeKind::Regular(file) => self.contents.file(file)?.xattrs,
            _ => node.xattrs,
        }
    }
}

#[cfg(test)]
mod tests {
    use peerfs_format::XATTR_VALUE_MAX;

    use super::*;
    use crate::pipeline::WholeFile;
    use crate::read::QueuedFile;
    use crate::source::{Kind, Metadata};
    use crate::table::Scratch;
    use crate::tree::TreeWriter;
    use crate::xattrs::XattrSet;

    /// The message that refuses the file `directory/file` if it has these pieces of content, and so many
    /// bytes of attributes.
    fn refusal(pieces: u64, attributes: usize) -> Option<String> {
        let metadata = Metadata::default();
        let mut tree = TreeWriter::new(&metadata, &Scratch::default());
        let directory = tree.add(1, b"directory", &metadata, &Kind::Directory, None);
        tree.end_directory(1, None);
        let file = QueuedFile { number: 0, size: 0 };
        tree.add_file(b"file", &metadata, file).unwrap();
        tree.end_directory(directory.unwrap(), None);
        let tree = tree.finish();
        let mut contents = Contents::new(&Scratch::default());
        for piece in 0..pieces {
            contents.add_run(0, piece * 100_000, piece * 10, 1);
        }
        let xattrs = XattrSets::default();
        let mut set = XattrSet::default();
        let mut rest = attributes;
        while rest > 0 {
            let name = format!("user.{rest:08}").into_bytes();
            let value = (rest - XattrRecord::SIZE - name.len()).min(XATTR_VALUE_MAX);
            rest -= XattrRecord::SIZE + name.len() + value;
            set.insert(&name, vec![0; value], Path::new("")).unwrap();
        }
        let whole = WholeFile {
            digest: Digest::default(),
            xattrs: xattrs.add(set),
        };
        contents.add_large(whole, 0);
        let (packs, _) = PackPlaces::new(&[], &contents);
        let source = ShardSource {
            tree: &tree,
            contents: &contents,
            packs: &packs,
            xattrs: &xattrs,
        };
        let outcome = plan(&source, 256 * 1024, Path::new("/tree"));
        outcome.err().map(|error| error.to_string())
    }

    #[test]
    fn a_file_that_does_not_fit_is_named() {
        assert_eq!(refusal(600_000, 1_000_000), None);
        let message = refusal(710_000, 0).unwrap();
        assert!(
            message.starts_with("/tree/directory/file has 710000 pieces"),
            "{message}"
        );
        assert!(message.ends_with("allows 696320"), "{message}");
        let message = refusal(0, INODE_MAX).unwrap();
        assert!(
            message.contains("/tree/directory/file has 16711784 bytes"),
            "{message}"
        );
        assert!(
            message.contains("bytes of extended attributes"),
            "{message}"
        );
    }
}
