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
/// are passed over, and two dots are refused. Symbolic links on the way are followed as if the tree were the root of
/// all, so that nothing gets out of it; one at the end of a path is meant itself. Directories on the way that are not
/// there are made, with [`Metadata::default`].
///
/// # Layers
/// A tree may come in layers, from the bottom up: [`begin_layer`](TreeBuilder::begin_layer) begins the next one, and
/// [`remove_lower`](TreeBuilder::remove_lower) and [`clear_lower`](TreeBuilder::clear_lower) hide what those below it
/// have, whenever they come in it.
///
/// `F` is a regular file's content: a [`SourceFile`], or a [`QueuedFile`].
#[derive(Debug)]
pub struct TreeBuilder<F> {
    /// For messages.
    path: PathBuf,
    /// The root is the first one. Those, and those files, that no entry leads to are not part of the tree.
    directories: Vec<Directory>,
    files: Vec<File<F>>,
    /// The layer that is being added.
    layer: u32,
}

#[derive(Debug, Default)]
struct Directory {
    /// The last layer that has it or anything below it.
    layer: u32,
    metadata: Metadata,
    xattrs: XattrSet,
    entries: BTreeMap<Vec<u8>, Child>,
}

/// An inode that a name stands for: an index in one of the builder's lists.
#[derive(Clone, Copy, Debug)]
enum Child {
    Directory(usize),
    File {
        index: usize,
        /// That of the name, not of the inode.
        layer: u32,
    },
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
/// Symbolic links that are followed on the way to a file: as many as Linux follows.
const LINKS_MAX: usize = 40;

impl<F> TreeBuilder<F> {
    /// An empty tree; `path` is its name in messages.
    pub fn new(path: &Path) -> Self {
        TreeBuilder {
            path: path.to_owned(),
            directories: vec![Directory::default()],
            files: Vec::new(),
            layer: 0,
        }
    }

    /// Begins the next layer.
    pub fn begin_layer(&mut self) {
        self.layer += 1;
    }

    /// The inodes so far, with those that were replaced since.
    pub fn inode_count(&self) -> usize {
        self.directories.len() + self.files.len()
    }

    /// The content of the regular file at a path.
    pub fn file(&self, path: &[u8]) -> Option<&F> {
        match self.find_file(path)? {
            File::Regular(_, file) => Some(file),
            _ => None,
        }
    }

    /// The target of the symbolic link at a path.
    pub fn target(&self, path: &[u8]) -> Option<&[u8]> {
        match self.find_file(path)? {
            File::Other(_, _, Kind::SymbolicLink(target)) => Some(target),
            _ => None,
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
            Some(Child::File { index, .. }) => self
                .place(path)
                .map(|(parent, name)| self.enter_file(parent, name, index)),
            _ => Err(Flaw::Refused("it links to a file that is not there")),
        };
        outcome.map_err(|flaw| self.error(path, flaw))
    }

    /// Removes what lower layers have at a path, with all that is below it: a whiteout. What this layer has there
    /// stays, and it is no error if there is nothing.
    ///
    /// # Errors
    /// The path is none that anything can have.
    pub fn remove_lower(&mut self, path: &[u8]) -> Result<()> {
        let outcome = self.remove(path);
        outcome.map_err(|flaw| self.error(path, flaw))
    }

    /// Removes what lower layers have in the directory at a path: an opaque whiteout.
    ///
    /// # Errors
    /// The path is none that anything can have.
    pub fn clear_lower(&mut self, path: &[u8]) -> Result<()> {
        for name in components(path) {
            check_name(name).map_err(|flaw| self.error(path, flaw))?;
        }
        if let Some(directory) = self.find_directory(components(path)) {
            self.clear(directory);
        }
        Ok(())
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
        let mut writer = TreeWriter::new(&self.metadata_of(ROOT), queue.scratch());
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
                    Child::File { index, .. } => {
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
        self.enter_file(parent, name, self.files.len());
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
            directory.layer = self.layer;
            directory.metadata = metadata;
            directory.xattrs = xattrs;
        }
        Ok(())
    }

    fn remove(&mut self, path: &[u8]) -> StdResult<(), Flaw> {
        let Some((name, above)) = split_last(path) else {
            return Err(Flaw::Refused("the root can't be removed"));
        };
        for name in components(path) {
            check_name(name)?;
        }
        let Some(parent) = self.find_directory(above.into_iter()) else {
            return Ok(());
        };
        match self.child(parent, name) {
            Some(child) if self.is_lower(child) => {
                if let Some(parent) = self.directories.get_mut(parent) {
                    parent.entries.remove(name);
                }
            }
            Some(Child::Directory(index)) => self.clear(index),
            _ => (),
        }
        Ok(())
    }

    /// Removes what lower layers have in a directory. One that no higher layer has anything below of goes as a whole.
    fn clear(&mut self, directory: usize) {
        let mut waiting = vec![directory];
        while let Some(index) = waiting.pop() {
            let entries = self.directories.get_mut(index);
            let mut entries = entries.map(|directory| mem::take(&mut directory.entries));
            if let Some(entries) = &mut entries {
                entries.retain(|_, child| !self.is_lower(*child));
                waiting.extend(entries.values().filter_map(|child| match child {
                    Child::Directory(index) => Some(*index),
                    Child::File { .. } => None,
                }));
            }
            if let Some(directory) = self.directories.get_mut(index) {
                directory.entries = entries.unwrap_or_default();
            }
        }
    }

    fn is_lower(&self, child: Child) -> bool {
        let layer = match child {
            Child::File { layer, .. } => layer,
            Child::Directory(index) => {
                let directory = self.directories.get(index);
                directory.map_or(self.layer, |directory| directory.layer)
            }
        };
        layer < self.layer
    }

    /// The directory that a path's last component is to be in, and that component. Directories on the way are made.
    fn place<'p>(&mut self, path: &'p [u8]) -> StdResult<(usize, &'p [u8]), Flaw> {
        let Some((name, above)) = split_last(path) else {
            return Err(Flaw::Refused("the root is a directory"));
        };
        check_name(name)?;
        // All of the way becomes part of the layer.
        let mut parent = ROOT;
        for step in self.walk(above.into_iter())? {
            parent = match step {
                Step::There(index) => index,
                Step::Missing(name) => self.make_directory(parent, &name),
            };
            if let Some(directory) = self.directories.get_mut(parent) {
                directory.layer = self.layer;
            }
        }
        Ok((parent, name))
    }

    /// The way to a directory from the root on, symbolic links being followed.
    fn walk<'a>(&'a self, mut way: impl Iterator<Item = &'a [u8]>) -> StdResult<Vec<Step>, Flaw> {
        // What is left of links' targets, the next name last.
        let mut ahead: Vec<&[u8]> = Vec::new();
        let mut links = 0;
        let mut walked = vec![Step::There(ROOT)];
        loop {
            let name = match ahead.pop() {
                Some(b"..") => {
                    if walked.len() > 1 {
                        walked.pop();
                    }
                    continue;
                }
                Some(name) => name,
                None => match way.next() {
                    Some(name) => name,
                    None => return Ok(walked),
                },
            };
            check_name(name)?;
            let child = match walked.last() {
                Some(Step::There(at)) => self.child(*at, name),
                _ => None,
            };
            match child {
                Some(Child::Directory(index)) => walked.push(Step::There(index)),
                Some(Child::File { index, .. }) => {
                    let Some(File::Other(_, _, Kind::SymbolicLink(target))) = self.files.get(index)
                    else {
                        return Err(Flaw::Refused("something on the way to it is no directory"));
                    };
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Flaw::Refused(
                            "too many symbolic links are on the way to it",
                        ));
                    }
                    if target.first() == Some(&b'/') {
                        walked.truncate(1);
                    }
                    ahead.extend(components(target).rev());
                }
                None => walked.push(Step::Missing(name.to_vec())),
            }
        }
    }

    fn make_directory(&mut self, parent: usize, name: &[u8]) -> usize {
        let index = self.directories.len();
        self.directories.push(Directory {
            layer: self.layer,
            ..Directory::default()
        });
        self.enter(parent, name, Child::Directory(index));
        index
    }

    fn enter_file(&mut self, parent: usize, name: &[u8], index: usize) {
        let layer = self.layer;
        self.enter(parent, name, Child::File { index, layer });
    }

    fn enter(&mut self, parent: usize, name: &[u8], child: Child) {
        if let Some(parent) = self.directories.get_mut(parent) {
            parent.entries.insert(name.to_vec(), child);
        }
    }

    /// What a path leads to; a symbolic link at its end is not followed.
    fn find(&self, path: &[u8]) -> Option<Child> {
        let (name, above) = split_last(path)?;
        self.child(self.find_directory(above.into_iter())?, name)
    }

    fn find_file(&self, path: &[u8]) -> Option<&File<F>> {
        match self.find(path)? {
            Child::File { index, .. } => self.files.get(index),
            Child::Directory(_) => None,
        }
    }

    /// The directory that a way leads to.
    fn find_directory<'a>(&'a self, way: impl Iterator<Item = &'a [u8]>) -> Option<usize> {
        match self.walk(way).ok()?.last()? {
            Step::There(index) => Some(*index),
            Step::Missing(_) => None,
        }
    }

    fn child(&self, parent: usize, name: &[u8]) -> Option<Child> {
        self.directories.get(parent)?.entries.get(name).copied()
    }

    fn error(&self, path: &[u8], flaw: Flaw) -> crate::Error {
        flaw.of(components(path).fold(self.path.clone(), |path, name| {
            path.join(OsStr::from_bytes(name))
        }))
    }
}

/// A directory on the way: one that is there, or the name of one that is not.
enum Step {
    There(usize),
    Missing(Vec<u8>),
}

/// The last component of a path, and those before it.
fn split_last(path: &[u8]) -> Option<(&[u8], Vec<&[u8]>)> {
    let mut above: Vec<&[u8]> = components(path).collect();
    Some((above.pop()?, above))
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/')
        .filter(|name| !matches!(*name, b"" | b"."))
}
