// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The open directories and the files of a [`DirectorySource`](super::DirectorySource).

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use peerfs_format::{is_xattr_name, SYMLINK_MAX};
use rustix::fs::{
    fgetxattr, flistxattr, fstat, fstatfs, fstatvfs, lgetxattr, llistxattr, openat, seek, Dir,
    Mode, OFlags, SeekFrom, Stat, StatVfsMountFlags, CWD,
};
use rustix::io::Errno;

use crate::seen::FileIdentity;
use crate::source::{FileReader, SourceFile};
use crate::xattrs::XattrSet;
use crate::{Error, Result};

/// The longest list of names and the longest value that Linux allows, in bytes.
const LINUX_MAX: usize = 64 * 1024;

/// The types of filesystems, by which `statfs(2)` tells them (`linux/magic.h`).
const FAT: u32 = 0x4d44;
const EXFAT: u32 = 0x2011_bab0;
const FUSE: u32 = 0x6573_5546;

/// A directory of the tree, open while files of it are to be read.
pub(super) struct OpenDirectory {
    pub(super) descriptor: OwnedFd,
    /// For messages.
    pub(super) path: PathBuf,
}

impl OpenDirectory {
    const FLAGS: OFlags = OFlags::RDONLY
        .union(OFlags::DIRECTORY)
        .union(OFlags::CLOEXEC);

    /// Opens the root of the tree; a symbolic link to it is followed.
    pub(super) fn open_root(path: &Path) -> Result<Self> {
        let descriptor = openat(CWD, path, Self::FLAGS, Mode::empty())
            .map_err(Error::io("open the directory", path))?;
        Ok(OpenDirectory {
            descriptor,
            path: path.to_owned(),
        })
    }

    /// Opens a subdirectory.
    pub(super) fn open(&self, name: &[u8]) -> Result<Self> {
        let path = self.path.join(OsStr::from_bytes(name));
        let flags = Self::FLAGS | OFlags::NOFOLLOW;
        let descriptor = openat(&self.descriptor, name, flags, Mode::empty())
            .map_err(Error::tree("open", &path))?;
        Ok(OpenDirectory { descriptor, path })
    }

    /// Opens the directory that it is in, which must be the one that it was found in.
    pub(super) fn open_parent(&self, identity: (u64, u64)) -> Result<Self> {
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

    pub(super) fn stat(&self) -> Result<Stat> {
        fstat(&self.descriptor).map_err(Error::tree("read", &self.path))
    }

    /// Whether its filesystem has a time of change that follows a clock and that nobody can set. What can't be written to
    /// has the times that its maker chose, perhaps the same ones for all that it made; others make that time up.
    pub(super) fn has_clock(&self) -> bool {
        const MAKE_IT_UP: [u32; 3] = [FAT, EXFAT, FUSE];
        let descriptor = &self.descriptor;
        let is_writable = fstatvfs(descriptor)
            .is_ok_and(|found| !found.f_flag.contains(StatVfsMountFlags::RDONLY));
        is_writable
            && fstatfs(descriptor).is_ok_and(|found| !MAKE_IT_UP.contains(&(found.f_type as u32)))
    }

    /// The names in it, sorted by their bytes.
    pub(super) fn names(&self) -> Result<Vec<Vec<u8>>> {
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

/// A regular file of a directory.
pub struct DirectoryFile {
    pub(super) directory: Arc<OpenDirectory>,
    pub(super) name: Vec<u8>,
    pub(super) expected: Expected,
    pub(super) attributes: Attributes,
}

impl DirectoryFile {
    fn path(&self) -> PathBuf {
        self.directory.path.join(OsStr::from_bytes(&self.name))
    }

    /// Fails if the file is not as the walk found it.
    fn check(&self, file: &File) -> Result<()> {
        let stat = fstat(file).map_err(|errno| Error::tree("read", &self.path())(errno))?;
        if self.expected.matches(&stat) {
            Ok(())
        } else {
            Err(Error::Changed(self.path()))
        }
    }
}

impl SourceFile for DirectoryFile {
    type Reader = DirectoryReader;

    fn size(&self) -> u64 {
        self.expected.size
    }

    fn open(self) -> Result<DirectoryReader> {
        // Should it be a FIFO by now, opening must not wait, nor what is in it be read.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let directory = &self.directory.descriptor;
        let file = openat(directory, self.name.as_slice(), flags, Mode::empty())
            .map_err(|errno| Error::tree("open", &self.path())(errno))
            .map(File::from)?;
        self.check(&file)?;
        Ok(DirectoryReader { source: self, file })
    }
}

/// An open regular file of a directory.
pub struct DirectoryReader {
    source: DirectoryFile,
    file: File,
}

impl FileReader for DirectoryReader {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let outcome = self.file.read_exact_at(buffer, offset);
        outcome.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::Changed(self.source.path()),
            _ => Error::io("read", &self.source.path())(error),
        })
    }

    fn next_data(&mut self, offset: u64) -> Result<Range<u64>> {
        let Expected {
            size, is_sparse, ..
        } = self.source.expected;
        if !is_sparse {
            return Ok(offset..size);
        }
        let data = match seek(&self.file, SeekFrom::Data(offset)) {
            Ok(data) => data,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => return Ok(size..size),
            // The file system does not know.
            Err(Errno::INVAL) => offset,
            Err(errno) => return Err(Error::tree("read", &self.source.path())(errno)),
        };
        match seek(&self.file, SeekFrom::Hole(data)) {
            Ok(end) => Ok(data..end),
            Err(Errno::NXIO | Errno::INVAL) => Ok(data..size),
            Err(errno) => Err(Error::tree("read", &self.source.path())(errno)),
        }
    }

    fn finish(self) -> Result<XattrSet> {
        // Some file systems say that files are empty, or shorter than they are.
        match self.file.read_at(&mut [0], self.source.expected.size) {
            Ok(0) => (),
            Ok(_) => return Err(Error::Changed(self.source.path())),
            Err(error) => return Err(Error::io("read", &self.source.path())(error)),
        }
        let set = xattrs_of_descriptor(
            self.file.as_fd(),
            &self.source.path(),
            self.source.attributes,
        )?;
        self.source.check(&self.file)?;
        Ok(set)
    }
}

/// The properties of a file that must stay the same.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::source) struct Expected {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, u64),
    changed: (i64, u64),
    /// Whether the file system says that it has holes.
    is_sparse: bool,
}

impl From<&Stat> for Expected {
    fn from(stat: &Stat) -> Self {
        Expected {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: size(stat),
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
            is_sparse: (stat.st_blocks as u64).saturating_mul(512) < size(stat),
        }
    }
}

impl Expected {
    /// What tells the file from what it was at another time.
    pub(super) fn identity(&self) -> FileIdentity {
        let time = |(seconds, nanoseconds): (i64, u64)| (seconds, nanoseconds as u32); // below 10^9
        FileIdentity {
            device: self.device,
            inode: self.inode,
            size: self.size,
            modified: time(self.modified),
            changed: time(self.changed),
        }
    }

    /// Whether `stat` is of the same file with the same content. Blocks may be allocated late.
    pub(in crate::source) fn matches(&self, stat: &Stat) -> bool {
        let now = Expected::from(stat);
        Expected {
            is_sparse: self.is_sparse,
            ..now
        } == *self
    }
}

/// `st_size`, which is never negative.
fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or_default()
}

/// The extended attributes that are taken into an image.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Attributes {
    /// All that an image can hold.
    #[default]
    All,
    /// Only what decides about who may do what: `security.*` and access control lists.
    Security,
    /// None.
    None,
}

impl Attributes {
    fn has(self, name: &[u8]) -> bool {
        match self {
            Attributes::All => true,
            Attributes::Security => {
                name.starts_with(b"security.") || name.starts_with(b"system.posix_acl_")
            }
            Attributes::None => false,
        }
    }
}

/// The extended attributes of an open file or directory; `path` is for messages.
pub(super) fn xattrs_of_descriptor(
    file: BorrowedFd<'_>,
    path: &Path,
    wanted: Attributes,
) -> Result<XattrSet> {
    read_xattrs(
        path,
        wanted,
        |buffer| flistxattr(file, buffer),
        |name, buffer| fgetxattr(file, name, buffer),
    )
}

/// The extended attributes of something that can't be opened itself, such as a symbolic link or a device: the entry `name`
/// of an open directory. `path` is its name in messages, and may be where it is.
pub(super) fn xattrs_of_entry(
    directory: BorrowedFd<'_>,
    name: &[u8],
    path: &Path,
    leads_there: bool,
    wanted: Attributes,
) -> Result<XattrSet> {
    // Linux had no call that takes the directory before 6.13, and paths have a limit: the same as
    // that of symbolic links' targets.
    let mut place = path.as_os_str().as_bytes().to_vec();
    if !leads_there || place.len() > SYMLINK_MAX {
        place = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
        place.extend_from_slice(name);
    }
    read_xattrs(
        path,
        wanted,
        |buffer| llistxattr(place.as_slice(), buffer),
        |name, buffer| lgetxattr(place.as_slice(), name, buffer),
    )
}

fn read_xattrs(
    path: &Path,
    wanted: Attributes,
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&[u8], &mut [u8]) -> rustix::io::Result<usize>,
) -> Result<XattrSet> {
    if wanted == Attributes::None {
        return Ok(XattrSet::default());
    }
    // Most files have none, and few have many. (rustix does not ask for a length with an empty
    // buffer.)
    let mut short = [0; 1024];
    let mut long = Vec::new();
    let names: &mut [u8] = match list(&mut short) {
        Ok(length) => short.get_mut(..length).unwrap_or_default(),
        Err(Errno::OPNOTSUPP) => return Ok(XattrSet::default()),
        Err(Errno::RANGE) => {
            long.resize(LINUX_MAX, 0);
            let length =
                list(&mut long).map_err(Error::tree("list the extended attributes of", path))?;
            long.get_mut(..length).unwrap_or_default()
        }
        Err(errno) => return Err(Error::tree("list the extended attributes of", path)(errno)),
    };
    let mut set = XattrSet::default();
    for name in names
        .split(|&byte| byte == 0)
        .filter(|name| is_xattr_name(name) && wanted.has(name))
    {
        let mut value = vec![0; LINUX_MAX];
        match get(name, &mut value) {
            Ok(length) => value.truncate(length),
            Err(Errno::NODATA) => return Err(Error::Changed(path.to_owned())),
            Err(errno) => return Err(Error::tree("read the extended attributes of", path)(errno)),
        }
        value.shrink_to_fit();
        set.insert(name, value, path)?;
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{fsetxattr, mkfifoat, XattrFlags};

    use super::*;

    #[test]
    fn few_and_many_xattrs_are_found() {
        // In the build's own folder: /tmp may be of a kind that has no user attributes.
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = folder.path().join("file");
        let file = File::create(&path).unwrap();
        let found = || xattrs_of_descriptor(file.as_fd(), &path, Attributes::All).unwrap();
        let mut expected = XattrSet::default();
        assert_eq!(found(), expected);
        for number in 100..160 {
            let name = format!("user.a name that makes the list long {number}");
            fsetxattr(&file, &name, b"value", XattrFlags::empty()).unwrap();
            let value = b"value".to_vec();
            expected.insert(name.as_bytes(), value, &path).unwrap();
        }
        assert_eq!(found(), expected);
        fsetxattr(&file, "user.empty", b"", XattrFlags::empty()).unwrap();
        expected.insert(b"user.empty", Vec::new(), &path).unwrap();
        assert_eq!(found(), expected);
    }

    #[test]
    fn a_fifo_in_the_place_of_a_file_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "content").unwrap();
        let expected = Expected::from(&rustix::fs::stat(&path).unwrap());
        let directory = Arc::new(OpenDirectory {
            descriptor: File::open(folder.path()).unwrap().into(),
            path: folder.path().to_owned(),
        });
        std::fs::remove_file(&path).unwrap();
        mkfifoat(&directory.descriptor, "file", Mode::RUSR | Mode::WUSR).unwrap();
        let is_changed = || {
            let file = DirectoryFile {
                directory: directory.clone(),
                name: b"file".to_vec(),
                expected,
                attributes: Attributes::All,
            };
            matches!(file.open(), Err(Error::Changed(changed)) if changed == path)
        };
        // With nobody who writes, and with somebody who does not write yet.
        assert!(is_changed());
        let _writer = File::options().read(true).write(true).open(&path).unwrap();
        assert!(is_changed());
    }
}
