// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The walking stage: names and inodes, and which files are to be read.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use flume::{bounded, Sender};
use peerfs_format::{EntryRecord, FileType, Record, CHUNK_MAX, NAME_MAX, ROOT_INODE, SYMLINK_MAX};
use rustix::fs::{
    fstat, major, minor, openat, readlinkat, statat, AtFlags, Dir, Mode, OFlags, Stat, CWD,
};

use crate::expected::{size, Expected};
use crate::pipeline::{FileJob, OpenDirectory, ReadContext, ReadJob, ReadPieces, ReadRequest};
use crate::tree::{Directory, Entry, Kind, Node, Tree};
use crate::xattrs;
use crate::{Error, Result};

/// Small files that are read as one job.
const BATCH_FILES: usize = 64;
/// Bytes of small files that are read as one job.
const BATCH_BYTES: u64 = 4 * CHUNK_MAX as u64;
/// Directories whose small files are read as one job: they stay open as long.
const BATCH_DIRECTORIES: usize = 4;
/// Directories on the way to the current one that stay open; those further up are opened again on the way back.
const OPEN_MAX: usize = 64;
/// Pieces of a large file that wait to be sequenced.
const PIECES_WAITING: usize = 8;

/// Where the walk sends the files to read: to the readers, and in the same order to the sequencer.
pub(crate) struct ReadQueue {
    pub(crate) requests: Sender<ReadRequest>,
    pub(crate) results: Sender<ReadPieces>,
}

/// Walks the tree at `root`. Returns None if the readers stopped listening, because they or whoever
/// comes after them failed.
pub(crate) fn walk(
    root: &Path,
    store_dir: &Path,
    queue: ReadQueue,
    context: ReadContext<'_>,
) -> Result<Option<Tree>> {
    let store = statat(CWD, store_dir, AtFlags::empty()).map_err(Error::io("read", store_dir))?;
    let mut walk = Walk {
        tree: Tree::default(),
        links: HashMap::new(),
        files: 0,
        batch: Vec::new(),
        batch_bytes: 0,
        batch_directories: 0,
        queue,
        context,
        device: 0,
        store,
        store_dir,
    };
    let is_wanted = walk.run(root)? && walk.send_batch();
    context.progress.finish_walk();
    Ok(is_wanted.then_some(walk.tree))
}

struct Walk<'a> {
    tree: Tree,
    /// Inode numbers by device and inode of the source, of those with several names.
    links: HashMap<(u64, u64), u32>,
    /// Regular files so far.
    files: u32,
    batch: Vec<FileJob>,
    batch_bytes: u64,
    batch_directories: usize,
    queue: ReadQueue,
    context: ReadContext<'a>,
    /// The root's.
    device: u64,
    store: Stat,
    store_dir: &'a Path,
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

impl Walk<'_> {
    fn run(&mut self, root: &Path) -> Result<bool> {
        let directory = OpenDirectory::open_root(root)?;
        let stat = directory.stat()?;
        let parent = ROOT_INODE as u32;
        self.device = stat.st_dev;
        self.add_node(&stat, Kind::Directory { index: 0, parent }, &directory.path)?;
        let mut visits = Vec::new();
        match self.visit(directory, &stat, parent)? {
            Some(visit) => visits.push(visit),
            None => return Ok(false),
        }
        while let Some(visit) = visits.last_mut() {
            let Some((inode, name)) = visit.subdirectories.pop() else {
                leave(&mut visits)?;
                continue;
            };
            let opened = match &visit.directory {
                Some(directory) => directory.open(&name),
                None => unreachable!("only directories that are far up are closed"),
            };
            let Some(directory) = self.context.unreadable.note(opened)? else {
                continue;
            };
            let stat = directory.stat()?;
            match self.visit(directory, &stat, inode)? {
                Some(visit) => visits.push(visit),
                None => return Ok(false),
            }
            let far = visits.len().checked_sub(OPEN_MAX + 1);
            if let Some(far) = far.and_then(|far| visits.get_mut(far)) {
                far.directory = None;
            }
        }
        Ok(true)
    }

    /// Numbers the children of a directory. None if nobody wants its files.
    fn visit(
        &mut self,
        directory: OpenDirectory,
        stat: &Stat,
        inode: u32,
    ) -> Result<Option<Visit>> {
        let is_elsewhere = self.context.options.one_file_system && stat.st_dev != self.device;
        let is_store = (stat.st_dev, stat.st_ino) == (self.store.st_dev, self.store.st_ino);
        // One on a file system of its own is passed over with that.
        if is_store && !is_elsewhere {
            return Err(Error::StoreInTree(self.store_dir.to_owned()));
        }
        let is_same = self.tree.node(inode).is_some_and(|node| {
            (node.mode, node.uid, node.gid) == (stat.st_mode, stat.st_uid, stat.st_gid)
                && node.mtime_seconds == stat.st_mtime
                && u64::from(node.mtime_nanoseconds) == stat.st_mtime_nsec
        });
        if !is_same {
            return Err(Error::Changed(directory.path.clone()));
        }
        let set = xattrs::of_descriptor(directory.descriptor.as_fd(), &directory.path);
        let set = self.context.unreadable.note(set)?;
        let set = self.context.xattrs.add(set.unwrap_or_default());
        let index = self.tree.directories.len() as u32;
        let first_entry = self.tree.entries.len();
        let names = if is_elsewhere {
            Vec::new()
        } else {
            directory.names()?
        };
        let directory = Arc::new(directory);
        let mut subdirectories = Vec::new();
        let mut bytes = 0;
        for name in names {
            self.context.options.check_cancelled()?;
            bytes += (EntryRecord::SIZE + name.len()) as u64;
            let child = self.add_child(&directory, &name, inode);
            match self.context.unreadable.note(child)? {
                Some(Child::Directory(inode)) => subdirectories.push((inode, name)),
                Some(Child::Other) | None => (),
                Some(Child::Unwanted) => return Ok(None),
            }
        }
        if !Expected::from(stat).matches(&directory.stat()?) {
            return Err(Error::Changed(directory.path.clone()));
        }
        let entries = first_entry..self.tree.entries.len();
        self.tree.directories.push(Directory { entries });
        if let Some(node) = self.tree.nodes.get_mut(inode as usize - 1) {
            node.xattrs = set;
            node.size = bytes;
            node.nlink = 2 + subdirectories.len() as u32;
            if let Kind::Directory { index: place, .. } = &mut node.kind {
                *place = index;
            }
        }
        subdirectories.reverse();
        Ok(Some(Visit {
            directory: Some(directory),
            identity: (stat.st_dev, stat.st_ino),
            subdirectories,
        }))
    }

    /// Adds an entry and, unless it is another name of one that is there, its inode.
    fn add_child(
        &mut self,
        directory: &Arc<OpenDirectory>,
        name: &[u8],
        parent: u32,
    ) -> Result<Child> {
        let path = || directory.path.join(OsStr::from_bytes(name));
        if name.len() > NAME_MAX {
            return Err(Error::TooLarge {
                what: "bytes in its name",
                path: path(),
                count: name.len() as u64,
                limit: NAME_MAX as u64,
            });
        }
        let stat = statat(&directory.descriptor, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| Error::tree("read", &path())(errno))?;
        let file_type = FileType::from_mode(stat.st_mode).ok_or_else(|| {
            Error::io("understand the type of", &path())(rustix::io::Errno::INVAL)
        })?;
        let has_links = file_type != FileType::Directory && stat.st_nlink > 1;
        let source = (stat.st_dev, stat.st_ino);
        let known = self.links.get(&source).filter(|_| has_links).copied();
        let inode = match known {
            Some(inode) => {
                if let Some(node) = self.tree.nodes.get_mut(inode as usize - 1) {
                    node.nlink += 1;
                }
                inode
            }
            None => {
                let kind = self.kind(directory, name, &stat, file_type, parent)?;
                let inode = self.add_node(&stat, kind, &path())?;
                if has_links {
                    self.links.insert(source, inode);
                }
                if file_type == FileType::Regular {
                    self.files += 1;
                    if !self.read_file(directory, name, &stat) {
                        return Ok(Child::Unwanted);
                    }
                } else if file_type != FileType::Directory {
                    let set = xattrs::of_entry(directory.descriptor.as_fd(), name, &path())?;
                    let set = self.context.xattrs.add(set);
                    if let Some(node) = self.tree.nodes.last_mut() {
                        node.xattrs = set;
                    }
                }
                inode
            }
        };
        let name = self.tree.add_bytes(name);
        self.tree.entries.push(Entry { inode, name });
        Ok(match file_type {
            FileType::Directory => Child::Directory(inode),
            _ => Child::Other,
        })
    }

    fn kind(
        &mut self,
        directory: &OpenDirectory,
        name: &[u8],
        stat: &Stat,
        file_type: FileType,
        parent: u32,
    ) -> Result<Kind> {
        Ok(match file_type {
            FileType::Regular => Kind::Regular(self.files),
            FileType::Directory => Kind::Directory { index: 0, parent },
            FileType::SymbolicLink => {
                let target =
                    readlinkat(&directory.descriptor, name, Vec::new()).map_err(|errno| {
                        let path = directory.path.join(OsStr::from_bytes(name));
                        Error::tree("read", &path)(errno)
                    })?;
                let target = target.as_bytes();
                if !(1..=SYMLINK_MAX).contains(&target.len()) {
                    return Err(Error::TooLarge {
                        what: "bytes in its target",
                        path: directory.path.join(OsStr::from_bytes(name)),
                        count: target.len() as u64,
                        limit: SYMLINK_MAX as u64,
                    });
                }
                Kind::SymbolicLink(self.tree.add_bytes(target))
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                Kind::Device(encode_device(major(stat.st_rdev), minor(stat.st_rdev)))
            }
            FileType::Fifo | FileType::Socket => Kind::Other,
        })
    }

    fn add_node(&mut self, stat: &Stat, kind: Kind, path: &Path) -> Result<u32> {
        let inode = u32::try_from(self.tree.nodes.len() + 1).map_err(|_| Error::TooLarge {
            what: "files before it",
            path: path.to_owned(),
            count: self.tree.nodes.len() as u64,
            limit: u64::from(u32::MAX),
        })?;
        let size = match kind {
            Kind::Regular(_) => size(stat),
            Kind::SymbolicLink(target) => self.tree.bytes(target).len() as u64,
            _ => 0,
        };
        self.tree.nodes.push(Node {
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            nlink: 1,
            size,
            mtime_seconds: stat.st_mtime,
            mtime_nanoseconds: stat.st_mtime_nsec as u32,
            xattrs: None,
            kind,
        });
        Ok(inode)
    }

    /// Has a file read; false if nobody wants it.
    fn read_file(&mut self, directory: &Arc<OpenDirectory>, name: &[u8], stat: &Stat) -> bool {
        let job = FileJob {
            directory: directory.clone(),
            name: name.to_vec(),
            expected: Expected::from(stat),
        };
        let size = job.expected.size;
        self.context.progress.add_found(size);
        if size >= self.context.options.layout.large_file {
            return self.send_batch() && self.send(ReadJob::Large(job), PIECES_WAITING);
        }
        let last = self.batch.last().map(|last| &last.directory);
        if !last.is_some_and(|last| Arc::ptr_eq(last, directory)) {
            if self.batch_directories == BATCH_DIRECTORIES && !self.send_batch() {
                return false;
            }
            self.batch_directories += 1;
        }
        self.batch.push(job);
        self.batch_bytes += size;
        let is_full = self.batch.len() >= BATCH_FILES || self.batch_bytes >= BATCH_BYTES;
        !is_full || self.send_batch()
    }

    fn send_batch(&mut self) -> bool {
        self.batch_bytes = 0;
        self.batch_directories = 0;
        let batch = std::mem::take(&mut self.batch);
        batch.is_empty() || self.send(ReadJob::Small(batch), 1)
    }

    fn send(&mut self, job: ReadJob, pieces_waiting: usize) -> bool {
        let (sender, receiver) = bounded(pieces_waiting);
        let request = ReadRequest {
            job,
            pieces: sender,
        };
        self.queue.results.send(receiver).is_ok() && self.queue.requests.send(request).is_ok()
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

/// What an entry turned out to be.
enum Child {
    /// A directory, to be visited later.
    Directory(u32),
    Other,
    /// A file that nobody wants.
    Unwanted,
}

impl OpenDirectory {
    const FLAGS: OFlags = OFlags::RDONLY
        .union(OFlags::DIRECTORY)
        .union(OFlags::CLOEXEC);

    /// Opens the root of the tree; a symbolic link to it is followed.
    fn open_root(path: &Path) -> Result<Self> {
        let descriptor = openat(CWD, path, Self::FLAGS, Mode::empty())
            .map_err(Error::io("open the directory", path))?;
        Ok(OpenDirectory {
            descriptor,
            path: path.to_owned(),
        })
    }

    /// Opens a subdirectory.
    fn open(&self, name: &[u8]) -> Result<Self> {
        let path = self.path.join(OsStr::from_bytes(name));
        let flags = Self::FLAGS | OFlags::NOFOLLOW;
        let descriptor = openat(&self.descriptor, name, flags, Mode::empty())
            .map_err(Error::tree("open", &path))?;
        Ok(OpenDirectory { descriptor, path })
    }

    /// Opens the directory that it is in, which must be the one that it was found in.
    fn open_parent(&self, identity: (u64, u64)) -> Result<Self> {
        let path = self.path.parent().unwrap_or(&self.path).to_owned();
        let descriptor = openat(&self.descriptor, "..", Self::FLAGS, Mode::empty())
            .map_err(Error::tree("open", &path))?;
        let parent = OpenDirectory { descriptor, path };
        let stat = parent.stat()?;
        if (stat.st_dev, stat.st_ino) != identity {
            return Err(Error::Changed(parent.path));
        }
        Ok(parent)
    }

    fn stat(&self) -> Result<Stat> {
        fstat(&self.descriptor).map_err(Error::tree("read", &self.path))
    }

    /// The names in it, sorted by their bytes.
    fn names(&self) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.descriptor).map_err(Error::tree("read", &self.path))? {
            let entry = entry.map_err(Error::tree("read", &self.path))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// As `InodeRecord::payload_first` of a device has it.
fn encode_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12)
}
