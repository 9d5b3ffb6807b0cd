// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Making a tree from files that come in any order.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::mem;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::result::Result as StdResult;

use peerfs_format::ROOT_INODE;

use crate::read::{QueuedFile, ReadQueue};
use crate::source::{check_name, Flaw, Kind, Metadata, SourceFile};
use crate::tree::{Tree, TreeWriter};
use crate::xattrs::XattrSet;
use crate::Result;

/// A tree being made, whose files come in any order. What comes later replaces what has the same path, as when an
/// archive is unpacked; a directory that is there already gets other metadata and keeps what is in it.
///
/// Paths are relative to the root, and bytes: `usr/bin/env`. Slashes too many and components that are a dot
/// are passed over, two dots are refused, and symbolic links are not followed. Directories on the way
/// that are not there are made, with [`Metadata::default`].
///
/// `F` is a regular file's content: a [`SourceFile`], or a [`QueuedFile`].
#[derive(Debug)]
pub struct TreeBuilder<F> {
    /// For messages.
    path: PathBuf,
    /// The root is the first one. Those, and those files, that no entry leads to are not part of the tree.
    directories: Vec<Directory>,
    files: Vec<File<F>>,
}

#[derive(Debug, Default)]
struct Directory {
    metadata: Metadata,
    xattrs: XattrSet,
    entries: BTreeMap<Vec<u8>, Child>,
}

/// An inode that a name stands for: an index in one of the builder's lists.
#[derive(Clone, Copy, Debug)]
enum Child {
    Directory(usize),
    File(usize),
}

/// Anything but a directory.
#[derive(Debug)]
enum File<F> {
    Regular(Metadata, F),
    Other(Metadata, XattrSet, Kind),
    /// It is in the tree already, with this inode number.
    Written(u32),
}

const ROOT: usize = 0;

impl<F> TreeBuilder<F> {
    /// An empty tree; `path` is its name in messages.
    pub fn new(path: &Path) -> Self {
        TreeBuilder {
            path: path.to_owned(),
            directories: vec![Directory::default()],
            files: Vec::new(),
        }
    }

    /// Adds a regular file, whose extended attributes come with its content.
    ///
    /// # Errors
    /// An image can't hold it, or something on the way to it is no directory.
    pub fn add_file(&mut self, path: &[u8], metadata: Metadata, file: F) -> Result<()> {
        let outcome = metadata.check();
        outcome
            .and_then(|()| self.insert(path, File::Regular(metadata, file)))
            .map_err(|flaw| self.error(path, flaw))
    }

    /// Adds anything but a regular file. The root, whose path is empty, is there already.
    ///
    /// # Errors
    /// An image can't hold it, or something on the way to it is no directory.
    pub fn add(
        &mut self,
        path: &[u8],
        metadata: Metadata,
        xattrs: XattrSet,
        kind: Kind,
    ) -> Result<()> {
        let outcome = metadata.check().and_then(|()| kind.check());
        outcome
            .and_then(|()| match kind {
                Kind::Directory => self.insert_directory(path, metadata, xattrs),
                kind => self.insert(path, File::Other(metadata, xattrs, kind)),
            })
            .map_err(|flaw| self.error(path, flaw))
    }

    /// Adds another name of something that is there and is no directory.
    ///
    /// # Errors
    /// It is not there or is a directory, or something on the way to the new name is none.
    pub fn link(&mut self, path: &[u8], existing: &[u8]) -> Result<()> {
        let outcome = match self.find(existing) {
            Some(child @ Child::File(_)) => self
                .place(path)
                .map(|(parent, name)| self.enter(parent, name, child)),
            _ => Err(Flaw::Refused("it links to a file that is not there")),
        };
        outcome.map_err(|flaw| self.error(path, flaw))
    }

    /// Makes the tree, and has the regular files in it handed over in its order: by [`ReadQueue::add`], unless they
    /// are [`QueuedFile`]s already.
    ///
    /// # Errors
    /// There are more files than an image can hold; the build was given up; and what `hand_over` fails with.
    pub fn finish<'q, S: SourceFile>(
        mut self,
        queue: &mut ReadQueue<'q, S>,
        mut hand_over: impl FnMut(&mut ReadQueue<'q, S>, F) -> Result<QueuedFile>,
    ) -> Result<Tree> {
        let mut writer = TreeWriter::new(&self.metadata_of(ROOT));
        // Directories that are still to be written, the next one last.
        let mut waiting = vec![(ROOT_INODE as u32, ROOT)];
        while let Some((parent, index)) = waiting.pop() {
            let directory = self.directories.get_mut(index).map(mem::take);
            let directory = directory.unwrap_or_default();
            let first = waiting.len();
            for (name, child) in directory.entries {
                queue.check_cancelled()?;
                let added = match child {
                    Child::Directory(index) => {
                        let metadata = self.metadata_of(index);
                        let added = writer.add(parent, &name, &metadata, &Kind::Directory, None);
                        waiting.extend(added.ok().map(|inode| (inode, index)));
                        added.map(|_| ())
                    }
                    Child::File(index) => {
                        let Some(place) = self.files.get_mut(index) else {
                            continue;
                        };
                        let added = match mem::replace(place, File::Written(0)) {
                            File::Written(inode) => {
                                writer.link(&name, inode);
                                Ok(inode)
                            }
                            File::Regular(metadata, file) => {
                                let file = hand_over(queue, file)?;
                                writer.add_file(&name, &metadata, file)
                            }
                            File::Other(metadata, xattrs, kind) => {
                                let xattrs = queue.keep_xattrs(xattrs);
                                writer.add(parent, &name, &metadata, &kind, xattrs)
                            }
                        };
                        added.map(|inode| *place = File::Written(inode))
                    }
                };
                added.map_err(|flaw| {
                    let parent = writer.tree().path_of(parent, &self.path);
                    flaw.of(parent.join(OsStr::from_bytes(&name)))
                })?;
            }
            waiting.get_mut(first..).unwrap_or_default().reverse();
            writer.end_directory(parent, queue.keep_xattrs(directory.xattrs));
        }
        Ok(writer.finish())
    }

    fn metadata_of(&self, directory: usize) -> Metadata {
        let directory = self.directories.get(directory);
        directory.map_or_else(Metadata::default, |directory| directory.metadata)
    }

    /// Adds a file, whose content and metadata have been checked.
    fn insert(&mut self, path: &[u8], file: File<F>) -> StdResult<(), Flaw> {
        let (parent, name) = self.place(path)?;
        self.enter(parent, name, Child::File(self.files.len()));
        self.files.push(file);
        Ok(())
    }

    fn insert_directory(
        &mut self,
        path: &[u8],
        metadata: Metadata,
        xattrs: XattrSet,
    ) -> StdResult<(), Flaw> {
        let index = if components(path).next().is_none() {
            ROOT
        } else {
            let (parent, name) = self.place(path)?;
            match self.child(parent, name) {
                Some(Child::Directory(index)) => index,
                _ => self.make_directory(parent, name),
            }
        };
        if let Some(directory) = self.directories.get_mut(index) {
            directory.metadata = metadata;
            directory.xattrs = xattrs;
        }
        Ok(())
    }

    /// The directory that a path's last component is to be in, and that component. Directories on the way are made.
    fn place<'p>(&mut self, path: &'p [u8]) -> StdResult<(usize, &'p [u8]), Flaw> {
        let mut parent = ROOT;
        let mut components = components(path).peekable();
        while let Some(name) = components.next() {
            check_name(name)?;
            if components.peek().is_none() {
                return Ok((parent, name));
            }
            parent = match self.child(parent, name) {
                Some(Child::Directory(index)) => index,
                Some(Child::File(_)) => {
                    return Err(Flaw::Refused("something on the way to it is no directory"))
                }
                None => self.make_directory(parent, name),
            };
        }
        Err(Flaw::Refused("the root is a directory"))
    }

    fn make_directory(&mut self, parent: usize, name: &[u8]) -> usize {
        let index = self.directories.len();
        self.directories.push(Directory::default());
        self.enter(parent, name, Child::Directory(index));
        index
    }

    fn enter(&mut self, parent: usize, name: &[u8], child: Child) {
        if let Some(parent) = self.directories.get_mut(parent) {
            parent.entries.insert(name.to_vec(), child);
        }
    }

    fn child(&self, parent: usize, name: &[u8]) -> Option<Child> {
        self.directories.get(parent)?.entries.get(name).copied()
    }

    fn find(&self, path: &[u8]) -> Option<Child> {
        components(path).try_fold(Child::Directory(ROOT), |at, name| match at {
            Child::Directory(parent) => self.child(parent, name),
            Child::File(_) => None,
        })
    }

    fn error(&self, path: &[u8], flaw: Flaw) -> crate::Error {
        flaw.of(components(path).fold(self.path.clone(), |path, name| {
            path.join(OsStr::from_bytes(name))
        }))
    }
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/')
        .filter(|name| !matches!(*name, b"" | b"."))
}
