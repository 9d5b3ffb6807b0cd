// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Images of PuzzleFS as sources of trees.
//!
//! The metadata of an image is one message, which is read in place; of its files only that is in memory which the next
//! stages wait for. Whoever made it is hostile: what it makes of memory is bounded by [`Limits`], each chunk is verified
//! before it is decompressed, and no directory has two names.

mod chunks;
mod inodes;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::result::Result as StdResult;
use std::sync::Arc;

use peerfs_format::{Digest, ROOT_INODE};

use super::{check_name, Flaw, Kind, Limits, TreeSource};
use crate::read::ReadQueue;
use crate::tree::{Tree, TreeWriter};
use crate::{Error, Result};
use chunks::{Chunks, Piece};
use inodes::{Inode, InodeKind, Inodes};

pub use chunks::PuzzleFile;

/// Bytes of memory that an entry takes besides its name.
const ENTRY_MEMORY: u64 = 200;

/// What gets the blob of this digest from an image: all its bytes, or an error if there are more than so many.
pub type ReadBlob = dyn Fn(&Digest, u64) -> Result<Vec<u8>> + Send + Sync;

/// An image of PuzzleFS, as the source of a tree. It knows no times: all are of 1970.
pub struct PuzzleFsSource {
    path: PathBuf,
    metadata: Vec<u8>,
    chunks: Arc<Chunks>,
    limits: Limits,
}

impl PuzzleFsSource {
    /// The most bytes of an image's metadata, which are held in memory.
    pub const METADATA_MAX: u64 = 1 << 30;

    /// The image with this metadata, which is its first layer in OCI's terms, and has been verified. `path` is its name in
    /// messages; `read` gets its chunks, from whichever thread, and need not verify them.
    pub fn new(path: impl Into<PathBuf>, metadata: Vec<u8>, read: Box<ReadBlob>) -> Self {
        let path = path.into();
        PuzzleFsSource {
            chunks: Arc::new(Chunks::new(&path, read)),
            path,
            metadata,
            limits: Limits::default(),
        }
    }

    /// Other limits.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }
}

impl TreeSource for PuzzleFsSource {
    type File = PuzzleFile;

    fn path(&self) -> &Path {
        &self.path
    }

    fn walk(self, queue: &mut ReadQueue<'_, PuzzleFile>) -> Result<Tree> {
        let fail = |flaw: Flaw| flaw.of(self.path.clone());
        let message = inodes::read_message(&self.metadata).map_err(fail)?;
        let inodes = Inodes::new(&message).map_err(fail)?;
        let root = inodes.get(ROOT_INODE).map_err(fail)?;
        root.metadata.check().map_err(fail)?;
        let walk = Walk {
            writer: TreeWriter::new(&root.metadata, queue.scratch()),
            written: HashMap::from([(ROOT_INODE, ROOT_INODE as u32)]),
            memory: self.limits.memory,
            content: self.limits.unpacked,
            source: &self,
            inodes,
            queue,
        };
        walk.run()
    }
}

struct Walk<'a, 'q, 'r> {
    source: &'a PuzzleFsSource,
    inodes: Inodes<'a>,
    writer: TreeWriter,
    /// Inode numbers of the tree by those of the image.
    written: HashMap<u64, u32>,
    /// Bytes of memory that may still be taken.
    memory: u64,
    /// Bytes of content that there may still be.
    content: u64,
    queue: &'r mut ReadQueue<'q, PuzzleFile>,
}

/// A directory that is still to be written: its number in the tree, and in the image.
type Waiting = (u32, u64);

impl Walk<'_, '_, '_> {
    fn run(mut self) -> Result<Tree> {
        self.charge(self.inodes.memory())?;
        // The next one last.
        let mut waiting: Vec<Waiting> = vec![(ROOT_INODE as u32, ROOT_INODE)];
        while let Some((parent, number)) = waiting.pop() {
            let fail = |walk: &Self, flaw: Flaw, name: &[u8]| {
                let parent = walk.writer.tree().path_of(parent, &walk.source.path);
                flaw.of(parent.join(OsStr::from_bytes(name)))
            };
            let inode = self.inodes.get(number);
            let inode = inode.map_err(|flaw| fail(&self, flaw, b""))?;
            let InodeKind::Directory(entries) = inode.kind else {
                return Err(fail(&self, Flaw::Refused("it is no directory"), b""));
            };
            let entries = self.inodes.entries(entries);
            let entries = entries.map_err(|flaw| fail(&self, flaw, b""))?;
            let first = waiting.len();
            for (name, number) in entries {
                self.queue.check_cancelled()?;
                self.charge(ENTRY_MEMORY + name.len() as u64)?;
                let inode = check_name(name).and_then(|()| self.inodes.get(number));
                let inode = inode.map_err(|flaw| fail(&self, flaw, name))?;
                if let InodeKind::Regular(pieces) = &inode.kind {
                    self.count_content(pieces)?;
                }
                let added = self.add(parent, name, number, inode)?;
                let directory = added.map_err(|flaw| fail(&self, flaw, name))?;
                waiting.extend(directory.map(|inode| (inode, number)));
            }
            waiting.get_mut(first..).unwrap_or_default().reverse();
            let xattrs = self.queue.keep_xattrs(inode.xattrs);
            self.writer.end_directory(parent, xattrs);
        }
        Ok(self.writer.finish())
    }

    /// Adds an entry and, unless it is another name of one that is there, its inode; returns that of a directory.
    fn add(
        &mut self,
        parent: u32,
        name: &[u8],
        number: u64,
        inode: Inode<'_>,
    ) -> Result<StdResult<Option<u32>, Flaw>> {
        let Inode {
            metadata,
            xattrs,
            kind,
        } = inode;
        if matches!(kind, InodeKind::Removed) {
            return Ok(Ok(None));
        }
        let is_directory = matches!(kind, InodeKind::Directory(_));
        if let Some(written) = self.written.get(&number) {
            if is_directory {
                return Ok(Err(Flaw::Refused("the directory has two names")));
            }
            self.writer.link(name, *written);
            return Ok(Ok(None));
        }
        if let Err(flaw) = metadata.check() {
            return Ok(Err(flaw));
        }
        let added = match kind {
            InodeKind::Regular(pieces) => {
                let file = PuzzleFile::new(&self.source.chunks, pieces, xattrs);
                let file = self.queue.add(file)?;
                self.writer.add_file(name, &metadata, file)
            }
            InodeKind::Directory(_) => {
                self.writer
                    .add(parent, name, &metadata, &Kind::Directory, None)
            }
            InodeKind::Other(kind) => kind.check().and_then(|()| {
                let xattrs = self.queue.keep_xattrs(xattrs);
                self.writer.add(parent, name, &metadata, &kind, xattrs)
            }),
            InodeKind::Removed => return Ok(Ok(None)),
        };
        Ok(added.map(|inode| {
            self.written.insert(number, inode);
            is_directory.then_some(inode)
        }))
    }

    /// Counts memory that was taken.
    fn charge(&mut self, memory: u64) -> Result<()> {
        let left = self.memory.checked_sub(memory);
        self.memory = left.ok_or_else(|| Error::Limit {
            path: self.source.path.clone(),
            of: "memory, for names and inodes",
            limit: self.source.limits.memory,
        })?;
        Ok(())
    }

    /// Counts the content of a file.
    fn count_content(&mut self, pieces: &[Piece]) -> Result<()> {
        let left = pieces
            .iter()
            .try_fold(self.content, |left, piece| left.checked_sub(piece.length));
        self.content = left.ok_or_else(|| Error::Limit {
            path: self.source.path.clone(),
            of: "content",
            limit: self.source.limits.unpacked,
        })?;
        Ok(())
    }
}
