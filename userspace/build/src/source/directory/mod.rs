// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A directory as the source of a tree.

mod exclude;
pub(super) mod file;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use peerfs_format::{FileType, ROOT_INODE};
use peerfs_store::Store;
use rustix::fs::{major, minor, readlinkat, statat, AtFlags, Stat, CWD};

use super::{check_name, DeviceNumber, Flaw, Kind, Metadata, TreeSource};
use crate::read::ReadQueue;
use crate::tree::{Tree, TreeWriter};
use crate::{Error, Result};
use exclude::Exclusions;
use file::{DirectoryFile, Expected, OpenDirectory};

pub use exclude::PatternError;
pub use file::Attributes;

/// Directories whose small files are read as one job: they stay open as long.
const BATCH_DIRECTORIES: usize = 4;
/// Directories on the way to the current one that stay open; those further up are opened again on the way back.
const OPEN_MAX: usize = 64;

/// A directory and all that is below it, as it is found on this machine. It must not change meanwhile: if it does,
/// the build fails.
#[derive(Clone, Debug)]
pub struct DirectorySource {
    root: PathBuf,
    /// The root in messages.
    name: PathBuf,
    store: PathBuf,
    one_file_system: bool,
    exclusions: Exclusions,
    owner: Option<Owner>,
    attributes: Attributes,
    /// Seconds since 1970.
    latest: Option<i64>,
}

/// An owner and a group, as numbers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Owner {
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl DirectorySource {
    /// The directory at `root`; a symbolic link to it is followed. The store that the image goes to must not be
    /// below it.
    pub fn new(root: impl Into<PathBuf>, store: &Store) -> Self {
        let root = root.into();
        DirectorySource {
            name: root.clone(),
            root,
            store: store.root_dir().to_owned(),
            one_file_system: false,
            exclusions: Exclusions::default(),
            owner: None,
            attributes: Attributes::All,
            latest: None,
        }
    }

    /// Calls it by another name in messages.
    pub fn named(mut self, name: impl Into<PathBuf>) -> Self {
        self.name = name.into();
        self
    }

    /// Leaves out what matches a pattern, and all that is below it. A pattern is a glob, in which only `**` goes over slashes;
    /// one with a slash in it is compared with paths from the root of the tree, any other one with names anywhere.
    ///
    /// # Errors
    /// The pattern can't be understood.
    pub fn exclude(mut self, pattern: &str) -> std::result::Result<Self, PatternError> {
        self.exclusions.add(pattern)?;
        Ok(self)
    }

    /// Says that everything is this owner's.
    pub fn owner(mut self, owner: Option<Owner>) -> Self {
        self.owner = owner;
        self
    }

    /// Chooses which extended attributes are taken.
    pub fn attributes(mut self, attributes: Attributes) -> Self {
        self.attributes = attributes;
        self
    }

    /// Takes times after this one, in seconds since 1970, as this one.
    pub fn latest(mut self, latest: Option<i64>) -> Self {
        self.latest = latest;
        self
    }

    fn metadata(&self, stat: &Stat) -> Metadata {
        let owner = self.owner.unwrap_or(Owner {
            uid: stat.st_uid,
            gid: stat.st_gid,
        });
        let modified = (stat.st_mtime, stat.st_mtime_nsec as u32);
        let latest = self.latest.map_or(modified, |latest| (latest, 0));
        let (mtime_seconds, mtime_nanoseconds) = modified.min(latest);
        Metadata {
            permissions: stat.st_mode & 0o7777,
            uid: owner.uid,
            gid: owner.gid,
            mtime_seconds,
            mtime_nanoseconds,
        }
    }

    /// Whether directories that other file systems are mounted on are taken as empty ones; they are not at first.
    pub fn one_file_system(mut self, one_file_system: bool) -> Self {
        self.one_file_system = one_file_system;
        self
    }
}

impl TreeSource for DirectorySource {
    type File = DirectoryFile;

    fn path(&self) -> &Path {
        &self.name
    }

    fn walk(self, queue: &mut ReadQueue<'_, DirectoryFile>) -> Result<Tree> {
        let store = statat(CWD, &self.store, AtFlags::empty());
        let store = store.map_err(Error::io("read", &self.store))?;
        let mut root = OpenDirectory::open_root(&self.root)?;
        root.path = self.name.clone();
        let stat = root.stat()?;
        let mut walk = Walk {
            writer: TreeWriter::new(&self.metadata(&stat), queue.scratch()),
            links: HashMap::new(),
            clocks: HashMap::new(),
            device: stat.st_dev,
            store,
            batch_directories: 0,
            source: &self,
            queue,
        };
        walk.run(root, &stat)?;
        Ok(walk.writer.finish())
    }
}

struct Walk<'a, 'q> {
    writer: TreeWriter,
    /// Inode numbers by device and inode of the source, of those with several names.
    links: HashMap<(u64, u64), u32>,
    /// By devices, whether the times there tell that a file was changed.
    clocks: HashMap<u64, bool>,
    /// The root's.
    device: u64,
    store: Stat,
    /// Directories with files since the queue was flushed, at most.
    batch_directories: usize,
    source: &'a DirectorySource,
    queue: &'a mut ReadQueue<'q, DirectoryFile>,
}

/// A directory that is being visited.
struct Visit {
    /// None while it is far up.
    directory: Option<Arc<OpenDirectory>>,
    /// Its device and inode.
    identity: (u64, u64),
    /// Its subdirectories that are still to be visited, the next one last.
    subdirectories: Vec<(u32, Vec<u8>)>,
}

impl Walk<'_, '_> {
    fn run(&mut self, root: OpenDirectory, stat: &Stat) -> Result<()> {
        let mut visits = vec![self.visit(root, stat, ROOT_INODE as u32)?];
        while let Some(visit) = visits.last_mut() {
            let Some((inode, name)) = visit.subdirectories.pop() else {
                leave(&mut visits)?;
                continue;
            };
            let opened = match &visit.directory {
                Some(directory) => directory.open(&name),
                None => unreachable!("only directories that are far up are closed"),
            };
            let Some(directory) = self.queue.note_unreadable(opened)? else {
                continue;
            };
            let stat = directory.stat()?;
            visits.push(self.visit(directory, &stat, inode)?);
            let far = visits.len().checked_sub(OPEN_MAX + 1);
            if let Some(far) = far.and_then(|far| visits.get_mut(far)) {
                far.directory = None;
            }
        }
        Ok(())
    }

    /// Numbers the children of a directory.
    fn visit(&mut self, directory: OpenDirectory, stat: &Stat, inode: u32) -> Result<Visit> {
        let is_elsewhere = self.source.one_file_system && stat.st_dev != self.device;
        let is_store = (stat.st_dev, stat.st_ino) == (self.store.st_dev, self.store.st_ino);
        // One on a file system of its own is passed over with that.
        if is_store && !is_elsewhere {
            return Err(Error::StoreInTree(self.source.store.clone()));
        }
        let now = self.source.metadata(stat);
        let is_same = self.writer.tree().node(inode).is_some_and(|node| {
            (node.mode & 0o7777, node.uid, node.gid) == (now.permissions, now.uid, now.gid)
                && (node.mtime_seconds, node.mtime_nanoseconds)
                    == (now.mtime_seconds, now.mtime_nanoseconds)
        });
        if !is_same {
            return Err(Error::Changed(directory.path.clone()));
        }
        let set = file::xattrs_of_descriptor(
            directory.descriptor.as_fd(),
            &directory.path,
            self.source.attributes,
        );
        let set = self.queue.note_unreadable(set)?;
        let xattrs = self.queue.keep_xattrs(set.unwrap_or_default());
        self.clocks
            .entry(stat.st_dev)
            .or_insert_with(|| directory.has_clock());
        let names = if is_elsewhere {
            Vec::new()
        } else {
            directory.names()?
        };
        let directory = Arc::new(directory);
        let mut subdirectories = Vec::new();
        for name in names {
            self.queue.check_cancelled()?;
            if self
                .source
                .exclusions
                .has(&name, || self.path_in_tree(&directory, &name))
            {
                continue;
            }
            let child = self.add_child(&directory, &name, inode);
            if let Some(Child::Directory(inode)) = self.queue.note_unreadable(child)? {
                subdirectories.push((inode, name));
            }
        }
        if !Expected::from(stat).matches(&directory.stat()?) {
            return Err(Error::Changed(directory.path.clone()));
        }
        self.writer.end_directory(inode, xattrs);
        // Its files have it open.
        if Arc::strong_count(&directory) > 1 {
            self.batch_directories += 1;
            if self.batch_directories >= BATCH_DIRECTORIES {
                self.batch_directories = 0;
                self.queue.flush()?;
            }
        }
        subdirectories.reverse();
        Ok(Visit {
            directory: Some(directory),
            identity: (stat.st_dev, stat.st_ino),
            subdirectories,
        })
    }

    /// The path of an entry from the root of the tree.
    fn path_in_tree(&self, directory: &OpenDirectory, name: &[u8]) -> PathBuf {
        let below = directory.path.strip_prefix(&self.source.name);
        below
            .unwrap_or(&directory.path)
            .join(OsStr::from_bytes(name))
    }

    /// Adds an entry and, unless it is another name of one that is there, its inode.
    fn add_child(
        &mut self,
        directory: &Arc<OpenDirectory>,
        name: &[u8],
        parent: u32,
    ) -> Result<Child> {
        let path = || directory.path.join(OsStr::from_bytes(name));
        let fail = |flaw: Flaw| flaw.of(path());
        check_name(name).map_err(fail)?;
        let stat = statat(&directory.descriptor, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| Error::tree("read", &path())(errno))?;
        let file_type = FileType::from_mode(stat.st_mode).ok_or_else(|| {
            Error::io("understand the type of", &path())(rustix::io::Errno::INVAL)
        })?;
        let has_links = file_type != FileType::Directory && stat.st_nlink > 1;
        let identity = (stat.st_dev, stat.st_ino);
        if let Some(inode) = self.links.get(&identity).filter(|_| has_links) {
            self.writer.link(name, *inode);
            return Ok(Child::Other);
        }
        let metadata = self.source.metadata(&stat);
        let inode = match kind(directory, name, &stat, file_type)? {
            None => {
                let expected = Expected::from(&stat);
                // Of a file on another device than all directories nobody knows.
                let has_clock = self.clocks.get(&stat.st_dev).copied();
                let identity = has_clock.unwrap_or(false).then(|| expected.identity());
                let known = match &identity {
                    Some(identity) => self.queue.add_known(identity)?,
                    None => None,
                };
                let file = match known {
                    Some(file) => file,
                    None => self.queue.add(DirectoryFile {
                        directory: directory.clone(),
                        name: name.to_vec(),
                        expected,
                        attributes: self.source.attributes,
                    })?,
                };
                let inode = self.writer.add_file(name, &metadata, file);
                if let (Some(identity), Ok(inode)) = (identity, &inode) {
                    self.queue.remember(identity, *inode);
                }
                inode
            }
            Some(kind) => {
                kind.check().map_err(fail)?;
                let xattrs = match kind {
                    Kind::Directory => None,
                    _ => self.queue.keep_xattrs(file::xattrs_of_entry(
                        directory.descriptor.as_fd(),
                        name,
                        &path(),
                        self.source.name == self.source.root,
                        self.source.attributes,
                    )?),
                };
                self.writer.add(parent, name, &metadata, &kind, xattrs)
            }
        };
        let inode = inode.map_err(fail)?;
        if has_links {
            self.links.insert(identity, inode);
        }
        Ok(match file_type {
            FileType::Directory => Child::Directory(inode),
            _ => Child::Other,
        })
    }
}

/// Ends the last visit and goes back to the directory above, which is opened again if it was closed.
fn leave(visits: &mut Vec<Visit>) -> Result<()> {
    let left = visits.pop().and_then(|visit| visit.directory);
    if let (Some(left), Some(above)) = (left, visits.last_mut()) {
        if above.directory.is_none() {
            above.directory = Some(Arc::new(left.open_parent(above.identity)?));
        }
    }
    Ok(())
}

/// An entry that was looked at.
enum Child {
    /// A directory, to be visited later.
    Directory(u32),
    Other,
}

/// The kind of an entry; None of a regular file.
fn kind(
    directory: &OpenDirectory,
    name: &[u8],
    stat: &Stat,
    file_type: FileType,
) -> Result<Option<Kind>> {
    let number = DeviceNumber {
        major: major(stat.st_rdev),
        minor: minor(stat.st_rdev),
    };
    Ok(Some(match file_type {
        FileType::Regular => return Ok(None),
        FileType::Directory => Kind::Directory,
        FileType::SymbolicLink => {
            let target = readlinkat(&directory.descriptor, name, Vec::new()).map_err(|errno| {
                let path = directory.path.join(OsStr::from_bytes(name));
                Error::tree("read", &path)(errno)
            })?;
            Kind::SymbolicLink(target.into_bytes())
        }
        FileType::CharacterDevice => Kind::CharacterDevice(number),
        FileType::BlockDevice => Kind::BlockDevice(number),
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
    }))
}
