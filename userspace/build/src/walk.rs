// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The walking stage: names and inodes, and which files are to be read.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use flume::{bounded, Sender};
use peerfs_format::{EntryRecord, FileType, Record, CHUNK_MAX, ROOT_INODE};
use rustix::fs::{
    fstat, major, minor, openat, readlinkat, statat, AtFlags, Dir, Mode, OFlags, Stat, CWD,
};

use crate::expected::{size, Expected};
use crate::message::{FileJob, OpenDirectory, ReadJob, ReadPieces, ReadRequest};
use crate::tree::{Directory, Entry, Kind, Node, Tree};
use crate::xattrs::{self, XattrSets};
use crate::{Error, Progress, Result};

/// Small files that are read as one job.
const BATCH_FILES: usize = 64;
/// Bytes of small files that are read as one job.
const BATCH_BYTES: u64 = 4 * CHUNK_MAX as u64;
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
    large_file: u64,
    queue: ReadQueue,
    xattrs: &XattrSets,
    progress: &Progress,
) -> Result<Option<Tree>> {
    let store = statat(CWD, store_dir, AtFlags::empty()).map_err(Error::io("read", store_dir))?;
    let mut walk = Walk {
        tree: Tree::default(),
        links: HashMap::new(),
        files: 0,
        batch: Vec::new(),
        batch_bytes: 0,
        large_file,
        queue,
        xattrs,
        progress,
        store,
        store_dir,
    };
    let is_wanted = walk.run(root)? && walk.send_batch();
    progress.finish_walk();
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
    /// The size from which on a file is read by itself.
    large_file: u64,
    queue: ReadQueue,
    xattrs: &'a XattrSets,
    progress: &'a Progress,
    store: Stat,
    store_dir: &'a Path,
}

/// A directory that is being visited.
struct Visit {
    directory: Arc<OpenDirectory>,
    /// Its subdirectories that are still to be visited, the next one last.
    subdirectories: Vec<(u32, Vec<u8>)>,
}

impl Walk<'_> {
    fn run(&mut self, root: &Path) -> Result<bool> {
        let directory = OpenDirectory::open_root(root)?;
        let stat = directory.stat()?;
        let parent = ROOT_INODE as u32;
        self.add_node(&stat, Kind::Directory { index: 0, parent }, &directory.path)?;
        let mut visits = vec![match self.visit(directory, &stat, parent)? {
            Some(visit) => visit,
            None => return Ok(false),
        }];
        while let Some(visit) = visits.last_mut() {
            let Some((inode, name)) = visit.subdirectories.pop() else {
                visits.pop();
                continue;
            };
            let directory = visit.directory.open(&name)?;
            let stat = directory.stat()?;
            match self.visit(directory, &stat, inode)? {
                Some(visit) => visits.push(visit),
                None => return Ok(false),
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
        if (stat.st_dev, stat.st_ino) == (self.store.st_dev, self.store.st_ino) {
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
        let set = xattrs::of_descriptor(directory.descriptor.as_fd(), &directory.path)?;
        let set = self.xattrs.add(set);
        let index = self.tree.directories.len() as u32;
        let first_entry = self.tree.entries.len();
        let names = directory.names()?;
        let directory = Arc::new(directory);
        let mut subdirectories = Vec::new();
        let mut bytes = 0;
        for name in names {
            bytes += (EntryRecord::SIZE + name.len()) as u64;
            let Some((child, file_type)) = self.add_child(&directory, &name, inode)? else {
                return Ok(None);
            };
            if file_type == FileType::Directory {
                subdirectories.push((child, name));
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
            directory,
            subdirectories,
        }))
    }

    /// Adds an entry and, unless it is another name of one that is there, its inode. None if nobody
    /// wants the file.
    fn add_child(
        &mut self,
        directory: &Arc<OpenDirectory>,
        name: &[u8],
        parent: u32,
    ) -> Result<Option<(u32, FileType)>> {
        let path = || directory.path.join(OsStr::from_bytes(name));
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
                        return Ok(None);
                    }
                } else if file_type != FileType::Directory {
                    let set = xattrs::of_entry(directory.descriptor.as_fd(), name, &path())?;
                    let set = self.xattrs.add(set);
                    if let Some(node) = self.tree.nodes.last_mut() {
                        node.xattrs = set;
                    }
                }
                inode
            }
        };
        let name = self.tree.add_bytes(name);
        self.tree.entries.push(Entry { inode, name });
        Ok(Some((inode, file_type)))
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
                Kind::SymbolicLink(self.tree.add_bytes(target.as_bytes()))
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                Kind::Device(encode_device(major(stat.st_rdev), minor(stat.st_rdev)))
            }
            FileType::Fifo | FileType::Socket => Kind::Other,
        })
    }

    fn add_node(&mut self, stat: &Stat, kind: Kind, path: &Path) -> Result<u32> {
        let inode = u32::try_from(self.tree.nodes.len() + 1).map_err(|_| Error::TooLarge {
            what: "the inodes",
            path: path.to_owned(),
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
        self.progress.add_found(size);
        if size >= self.large_file {
            return self.send_batch() && self.send(ReadJob::Large(job), PIECES_WAITING);
        }
        self.batch.push(job);
        self.batch_bytes += size;
        let is_full = self.batch.len() >= BATCH_FILES || self.batch_bytes >= BATCH_BYTES;
        !is_full || self.send_batch()
    }

    fn send_batch(&mut self) -> bool {
        self.batch_bytes = 0;
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
