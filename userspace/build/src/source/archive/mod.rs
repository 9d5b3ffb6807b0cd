// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Archives as sources of trees: one, or the layers of a container image.
//!
//! All of an archive is read once, in two passes (see [`TreeSource`]): the first one makes the tree and brings what
//! is compressed to a spool, the second one reads the files that are in the tree. Whoever made an archive is hostile:
//! nothing is ever written under a name of its, symbolic links lead nowhere out of the tree, and what it makes of
//! memory and disk is bounded by [`Limits`].

mod acl;
mod content;
mod entries;
mod header;
mod pax;
mod sparse;
mod tape;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use peerfs_store::Store;

use super::{Kind, TreeSource};
use crate::read::ReadQueue;
use crate::tree::Tree;
use crate::tree_builder::TreeBuilder;
use crate::xattrs::XattrSet;
use crate::{Error, Result};
use content::{segments_of, Spool};
use entries::{Content, Entries, Entry, What};
use tape::Tape;

pub use content::ArchiveFile;
pub use tape::{Blob, Promise, ReadProgress};

/// What a name begins with that removes another one from the layers below.
const WHITEOUT: &[u8] = b".wh.";
/// The name that removes all that the layers below have in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What names begin with that are aufs's own.
const AUFS: &[u8] = b".wh..wh.";
/// Bytes of memory that an entry takes besides what it has.
const ENTRY_MEMORY: u64 = 400;

/// What archives may take of memory and disk.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of all archives together when they are decompressed, which is as much as they may take on the disk.
    pub unpacked: u64,
    /// Bytes of memory that names, links, extended attributes and the like may take, about.
    pub memory: u64,
}

impl Default for Limits {
    /// 256 GiB, and 4 GiB of memory.
    fn default() -> Self {
        Limits {
            unpacked: 256 << 30,
            memory: 4 << 30,
        }
    }
}

/// One of the archives that a tree is made of.
pub struct Layer {
    /// Its name in messages.
    pub path: PathBuf,
    /// Its bytes.
    pub blob: Blob,
    /// What they must be.
    pub promise: Promise,
}

/// The layers of a container image, from the bottom up, as the source of a tree. They can come from anywhere: each is
/// opened when those below it have been read, and read once from its beginning to its end.
///
/// Layers are those of the [OCI image specification], and read as umoci and containerd unpack them: whiteouts concern
/// lower layers alone, wherever in the layer they come; symbolic links on the way to a name are followed within the
/// tree; what is compressed by gzip or zstd is told by its first bytes.
///
/// # Example
/// ```
/// use std::io::Cursor;
/// use std::sync::Arc;
///
/// use peerfs_build::{build, Blob, Layer, LayersSource, Options, Progress, Promise};
/// use peerfs_store::Store;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// let store = Arc::new(Store::create(&folder.path().join("store"))?);
/// let layer = Layer {
///     path: "the layer".into(),
///     // An archive without entries. What is opened may as well be a connection.
///     blob: Blob::Stream(Box::new(|| Ok(Box::new(Cursor::new([0; 1024]))))),
///     promise: Promise { size: Some(1024), ..Promise::default() },
/// };
/// let source = LayersSource::new("example", vec![layer], &store);
/// let image = build(source, &store, &Options::default(), &Progress::default())?;
/// assert_eq!(image.inode_count, 1);
/// # Ok(())
/// # }
/// ```
///
/// [OCI image specification]: https://github.com/opencontainers/image-spec/blob/v1.1.1/layer.md
pub struct LayersSource {
    path: PathBuf,
    layers: Vec<Layer>,
    store: Arc<Store>,
    limits: Limits,
    progress: Arc<ReadProgress>,
}

impl LayersSource {
    /// The layers, the lowest one first; `path` is their name in messages. What is compressed of them lies in the
    /// store's folder for temporary files meanwhile.
    pub fn new(path: impl Into<PathBuf>, layers: Vec<Layer>, store: &Arc<Store>) -> Self {
        LayersSource {
            path: path.into(),
            layers,
            store: store.clone(),
            limits: Limits::default(),
            progress: Arc::default(),
        }
    }

    /// Other limits.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// What to tell of how much was read.
    pub fn progress(mut self, progress: &Arc<ReadProgress>) -> Self {
        self.progress = progress.clone();
        self
    }
}

impl TreeSource for LayersSource {
    type File = ArchiveFile;

    fn path(&self) -> &Path {
        &self.path
    }

    fn walk(self, queue: &mut ReadQueue<'_, ArchiveFile>) -> Result<Tree> {
        let check = || queue.check_cancelled();
        let mut reading = Reading {
            tree: TreeBuilder::new(&self.path),
            spool: None,
            store: &self.store,
            limits: self.limits,
            allowance: self.limits.unpacked,
            memory: self.limits.memory,
            progress: &self.progress,
            check: &check,
        };
        for layer in self.layers {
            reading.tree.begin_layer();
            reading.archive(layer, Manner::Layer)?;
        }
        reading.finish()?.finish(queue, ReadQueue::add)
    }
}

/// An archive that was read: which files it has, and where their content is. It is the source of a tree, the one that
/// tar would unpack.
pub struct ArchiveTree {
    path: PathBuf,
    tree: TreeBuilder<ArchiveFile>,
}

impl ArchiveTree {
    /// Reads an archive from its beginning to its end. `check` is asked again and again, and what it fails with ends
    /// the reading.
    ///
    /// # Errors
    /// The archive is not what it should be, or more than the limits allow; the disk is full or failing. Nothing is
    /// left behind.
    pub fn read(
        archive: Layer,
        store: &Store,
        limits: Limits,
        progress: &Arc<ReadProgress>,
        check: &dyn Fn() -> Result<()>,
    ) -> Result<Self> {
        let path = archive.path.clone();
        let mut reading = Reading {
            tree: TreeBuilder::new(&path),
            spool: None,
            store,
            limits,
            allowance: limits.unpacked,
            memory: limits.memory,
            progress,
            check,
        };
        reading.archive(archive, Manner::Tar)?;
        let tree = reading.finish()?;
        Ok(ArchiveTree { path, tree })
    }

    /// The regular file at a path, or that which a symbolic link there leads to.
    pub fn file(&self, path: &str) -> Option<&ArchiveFile> {
        let file = self.tree.file(path.as_bytes());
        file.or_else(|| {
            let target = self.tree.target(path.as_bytes())?;
            let above = path.rsplit_once('/').map_or("", |(above, _)| above);
            self.tree.file(&lexically_joined(above.as_bytes(), target))
        })
    }
}

impl TreeSource for ArchiveTree {
    type File = ArchiveFile;

    fn path(&self) -> &Path {
        &self.path
    }

    fn walk(self, queue: &mut ReadQueue<'_, ArchiveFile>) -> Result<Tree> {
        self.tree.finish(queue, ReadQueue::add)
    }
}

/// The path that a link's target means, seen from a directory that no link leads to.
fn lexically_joined(above: &[u8], target: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in [above, target]
        .into_iter()
        .flat_map(|path| path.split(|&byte| byte == b'/'))
    {
        if name == b".." {
            names.pop();
        } else {
            names.push(name);
        }
    }
    names.join(&b'/')
}

/// How an archive is taken.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Manner {
    /// As tar does. Since nothing else tells whether all of it has come, it must have its end.
    Tar,
    /// As a layer, in which some names have a meaning.
    Layer,
}

/// Archives being read.
struct Reading<'a> {
    tree: TreeBuilder<ArchiveFile>,
    spool: Option<Spool>,
    store: &'a Store,
    limits: Limits,
    /// Bytes that may still be unpacked.
    allowance: u64,
    /// Bytes of memory that may still be taken.
    memory: u64,
    progress: &'a Arc<ReadProgress>,
    check: &'a dyn Fn() -> Result<()>,
}

impl Reading<'_> {
    fn archive(&mut self, archive: Layer, manner: Manner) -> Result<()> {
        let mut allowance = self.allowance;
        let tape = Tape::new(
            archive.blob,
            &archive.path,
            archive.promise,
            self.progress,
            (&mut allowance, self.limits.unpacked),
            self.check,
        )?;
        let mut entries = Entries::new(tape);
        while let Some(entry) = entries.next()? {
            self.entry(entry, &mut entries, manner)?;
        }
        entries.finish(manner == Manner::Tar)?;
        self.allowance = allowance;
        Ok(())
    }

    fn entry(&mut self, entry: Entry, entries: &mut Entries<'_>, manner: Manner) -> Result<()> {
        let Entry {
            path,
            metadata,
            xattrs,
            what,
        } = entry;
        if path.contains(&0) {
            return Err(entries.problem(Some(&path), "its name has a NUL"));
        }
        let inodes = self.tree.inode_count();
        let mut memory = ENTRY_MEMORY + path.len() as u64 + xattrs.bytes() as u64;
        if manner == Manner::Layer && self.whiteout(&path, entries)? {
            return self.charge(memory, entries);
        }
        match what {
            What::Regular(content) => {
                memory += 24 * content.runs.len() as u64;
                let file = self.content(content, xattrs, entries)?;
                self.tree.add_file(&path, metadata, file)?;
            }
            What::HardLink(existing) => self.tree.link(&path, &existing)?,
            What::Other(kind) => {
                if let Kind::SymbolicLink(target) = &kind {
                    memory += target.len() as u64;
                }
                self.tree.add(&path, metadata, xattrs, kind)?;
            }
        }
        memory += ENTRY_MEMORY * (self.tree.inode_count() - inodes) as u64;
        self.charge(memory, entries)
    }

    /// Does what a whiteout says; false if the entry is none.
    fn whiteout(&mut self, path: &[u8], entries: &Entries<'_>) -> Result<bool> {
        let names = || {
            path.split(|&byte| byte == b'/')
                .filter(|name| !name.is_empty())
        };
        let name = names().next_back().unwrap_or_default();
        let end = path.len() - path.iter().rev().take_while(|&&byte| byte == b'/').count();
        let above = path.get(..end - name.len()).unwrap_or_default();
        if name == OPAQUE {
            self.tree.clear_lower(above)?;
            return Ok(true);
        }
        if names().any(|name| name.starts_with(AUFS)) {
            return Ok(true);
        }
        let Some(hidden) = name.strip_prefix(WHITEOUT) else {
            return Ok(false);
        };
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(entries.problem(Some(path), "it is a whiteout of nothing"));
        }
        self.tree.remove_lower(&[above, hidden].concat())?;
        Ok(true)
    }

    /// Brings the content of a regular file to where it can be read from again.
    fn content(
        &mut self,
        content: Content,
        xattrs: XattrSet,
        entries: &mut Entries<'_>,
    ) -> Result<ArchiveFile> {
        let Content { size, runs } = content;
        if let Some((container, place)) = entries.tape().place() {
            return Ok(ArchiveFile::new(
                container,
                size,
                segments_of(&runs, place),
                xattrs,
            ));
        }
        let spool = match &mut self.spool {
            Some(spool) => spool,
            none => none.insert(Spool::new(self.store)?),
        };
        let mut segments = Vec::new();
        for run in runs {
            let mut done = 0;
            while done < run.length {
                (self.check)()?;
                let bytes = entries.content(run.length - done)?;
                spool.add(bytes, run.offset + done, &mut segments)?;
                done += bytes.len() as u64;
            }
        }
        Ok(ArchiveFile::new(spool.container(), size, segments, xattrs))
    }

    /// Counts memory that was taken.
    fn charge(&mut self, memory: u64, entries: &Entries<'_>) -> Result<()> {
        let left = self.memory.checked_sub(memory);
        self.memory = left.ok_or_else(|| Error::Limit {
            path: entries.tape().path().to_owned(),
            of: "memory, for names, attributes and maps of holes",
            limit: self.limits.memory,
        })?;
        Ok(())
    }

    fn finish(mut self) -> Result<TreeBuilder<ArchiveFile>> {
        if let Some(spool) = &mut self.spool {
            spool.flush()?;
        }
        Ok(self.tree)
    }
}
