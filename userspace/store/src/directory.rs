// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The directory of a store, and the one way to what is in it.
//!
//! Whoever may write to a store may put anything there: a symbolic link to some file of the machine, a
//! FIFO that nobody writes to, a file that another process has a lease on. A daemon of root serves it
//! all the same. So nothing here follows a link or leaves the directory, nothing is used that is no
//! regular file, nothing is emptied by being opened, and nothing waits for another process for longer
//! than [`PATIENCE`]. Only the way to the directory itself, which the user has named, may have links.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{
    fcntl_setfl, flock, linkat, mkdirat, open, openat2, renameat, unlinkat, AtFlags, Dir,
    FlockOperation, Mode, OFlags, ResolveFlags, CWD,
};
use rustix::io::Errno;

use crate::layout;
use crate::{Error, Result};

/// The time that a file is waited for that another process has a lease on, or an index that it has locked.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// Files that everybody may read, as far as the umask lets them.
pub(crate) const READABLE: Mode = Mode::from_raw_mode(0o644);
/// Files that are for their owner.
pub(crate) const PRIVATE: Mode = Mode::from_raw_mode(0o600);

/// The directory of a store, open. All names are relative to it, and are those of [`layout`].
pub(crate) struct StoreDirectory {
    path: PathBuf,
    descriptor: OwnedFd,
}

/// A file, as it was at a time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct FileId {
    inode: (u64, u64),
    changed: (i64, i64),
}

impl StoreDirectory {
    /// The directory at `path`.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(StoreDirectory {
            path: path.to_owned(),
            descriptor: open(path, flags, Mode::empty())?,
        })
    }

    /// The directory at `path`, which is made if it is not there.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        Self::open(path)
    }

    /// The path that the user gave.
    pub(crate) fn root_dir(&self) -> &Path {
        &self.path
    }

    /// The path of something in it, to be shown to people.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Opens a file to read it; None if there is none.
    ///
    /// # Errors
    /// [`Error::NotARegularFile`] or [`Error::Io`].
    pub(crate) fn read(&self, name: &str) -> Result<Option<File>> {
        self.if_there(name, self.open_file(name, OFlags::RDONLY, Mode::empty()))
    }

    /// Opens a file to read and write it; None if there is none.
    ///
    /// # Errors
    /// As for [`StoreDirectory::read`].
    pub(crate) fn write(&self, name: &str) -> Result<Option<File>> {
        self.if_there(name, self.open_file(name, OFlags::RDWR, Mode::empty()))
    }

    /// Opens a file to read and write it, and makes an empty one if there is none.
    ///
    /// # Errors
    /// As for [`StoreDirectory::read`].
    pub(crate) fn write_or_create(&self, name: &str, mode: Mode) -> Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE;
        let create = || self.open_file(name, flags, mode);
        self.making_directories(create)
            .map_err(self.failed("create", name))
    }

    /// The metadata of a name, of whatever kind it is; None if there is nothing.
    pub(crate) fn metadata(&self, name: &str) -> io::Result<Option<Metadata>> {
        match self.open_at(name, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            found => File::from(found?).metadata().map(Some),
        }
    }

    /// What tells a file from the one that has its name before or after it; None if there is nothing.
    pub(crate) fn id(&self, name: &str) -> io::Result<Option<FileId>> {
        let found = self.metadata(name)?;
        Ok(found.map(|found| FileId {
            inode: (found.dev(), found.ino()),
            changed: (found.ctime(), found.ctime_nsec()),
        }))
    }

    /// Whether there is a regular file.
    pub(crate) fn has_file(&self, name: &str) -> bool {
        self.metadata(name)
            .is_ok_and(|found| found.is_some_and(|metadata| metadata.is_file()))
    }

    /// The names in a directory; none if there is no such directory. Those that are not UTF-8 are not
    /// ours and left out.
    ///
    /// # Errors
    /// [`Error::NotARegularFile`] or [`Error::Io`].
    pub(crate) fn names(&self, directory: &str) -> Result<Vec<String>> {
        let opened = self.open_directory(directory);
        let Some(opened) = self.if_there(directory, opened)? else {
            return Ok(Vec::new());
        };
        let failed = || self.failed("read", directory);
        let mut names = Vec::new();
        for entry in Dir::new(opened).map_err(|errno| failed()(errno.into()))? {
            let entry = entry.map_err(|errno| failed()(errno.into()))?;
            if let Ok(name) = entry.file_name().to_str() {
                if name != "." && name != ".." {
                    names.push(name.to_owned());
                }
            }
        }
        Ok(names)
    }

    /// Makes the directories of a store that are not there.
    ///
    /// # Errors
    /// [`Error::NotARegularFile`] or [`Error::Io`].
    pub(crate) fn make_directories(&self) -> Result<()> {
        for name in layout::DIRECTORIES {
            self.make_directory(name)
                .map_err(self.failed("create", name))?;
        }
        Ok(())
    }

    /// Makes a directory that is in one that is there; nothing if it has a name already.
    pub(crate) fn make_directory(&self, name: &str) -> io::Result<()> {
        let (parent, last) = self.parent(name)?;
        match mkdirat(parent, last, Mode::from_raw_mode(0o777)) {
            // What else it may be is seen when something is to be put into it.
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Makes a file that has no name yet; None if this file system has no such files.
    pub(crate) fn create_nameless(&self, directory: &str) -> io::Result<Option<File>> {
        let create = || self.open_at(directory, OFlags::TMPFILE | OFlags::RDWR, READABLE);
        match self.making_directories(create) {
            Ok(file) => Ok(Some(file.into())),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Makes a file of a name that nothing has.
    pub(crate) fn create_new(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        self.making_directories(|| self.open_file(name, flags, READABLE))
    }

    /// Gives a file of [`StoreDirectory::create_nameless`] a name that nothing has.
    pub(crate) fn link(&self, file: &File, name: &str) -> io::Result<()> {
        let (parent, last) = self.parent(name)?;
        match linkat(file, "", &parent, last, AtFlags::EMPTY_PATH) {
            // Older kernels want a privilege for this, and have another way.
            Err(Errno::NOENT) => {
                use std::os::fd::AsRawFd;
                let path = format!("/proc/self/fd/{}", file.as_raw_fd());
                Ok(linkat(CWD, path, &parent, last, AtFlags::SYMLINK_FOLLOW)?)
            }
            linked => Ok(linked?),
        }
    }

    /// Gives something another name, which what had it before loses.
    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let rename = || {
            let (old, from) = self.parent(from)?;
            let (new, to) = self.parent(to)?;
            Ok(renameat(old, from, new, to)?)
        };
        self.making_directories(rename)
    }

    /// Removes a name, if it is there, of whatever but a directory.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        let remove = || -> io::Result<()> {
            let (parent, last) = self.parent(name)?;
            Ok(unlinkat(parent, last, AtFlags::empty())?)
        };
        match remove() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Brings the names in a directory to the disk; the store's own is `.`.
    pub(crate) fn sync(&self, directory: &str) -> io::Result<()> {
        match self.open_directory(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            opened => File::from(opened?).sync_all(),
        }
    }

    /// Locks a file for this process alone. It is waited for only so long: everybody who may read the
    /// file may have locked it, and never give it up.
    ///
    /// # Errors
    /// [`Error::Locked`], and those of [`StoreDirectory::read`].
    pub(crate) fn lock(&self, name: &str, file: &File) -> Result<()> {
        self.lock_as(name, file, FlockOperation::NonBlockingLockExclusive)
    }

    /// As [`StoreDirectory::lock`], beside others who do the same.
    ///
    /// # Errors
    /// As for [`StoreDirectory::lock`].
    pub(crate) fn lock_shared(&self, name: &str, file: &File) -> Result<()> {
        self.lock_as(name, file, FlockOperation::NonBlockingLockShared)
    }

    fn lock_as(&self, name: &str, file: &File, operation: FlockOperation) -> Result<()> {
        let locked = patiently(|| flock(file, operation));
        locked.map_err(|errno| match errno {
            Errno::WOULDBLOCK => Error::Locked(self.path(name)),
            errno => self.failed("lock", name)(errno.into()),
        })
    }

    fn open_file(&self, name: &str, flags: OFlags, mode: Mode) -> io::Result<File> {
        let careful = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = File::from(self.open_at(name, flags | careful, mode)?);
        if !file.metadata()?.is_file() {
            return Err(Errno::LOOP.into());
        }
        // That it is not waited for was for the opening only.
        fcntl_setfl(&file, OFlags::empty())?;
        Ok(file)
    }

    fn open_directory(&self, name: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        self.open_at(name, flags, Mode::empty())
    }

    fn open_at(&self, name: &str, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let flags = flags | OFlags::CLOEXEC;
        let opened = patiently(|| openat2(&self.descriptor, name, flags, mode, resolve));
        Ok(opened?)
    }

    /// The directory that a name is in, and the rest of the name.
    fn parent<'a>(&self, name: &'a str) -> io::Result<(OwnedFd, &'a str)> {
        let (directory, last) = name.rsplit_once('/').unwrap_or((".", name));
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let parent = self.open_at(directory, flags, Mode::empty())?;
        Ok((parent, last))
    }

    /// Does something for which a directory may be missing.
    fn making_directories<T>(&self, act: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match act() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                layout::DIRECTORIES
                    .iter()
                    .try_for_each(|name| self.make_directory(name))?;
                act()
            }
            done => done,
        }
    }

    fn if_there<T>(&self, name: &str, opened: io::Result<T>) -> Result<Option<T>> {
        match opened {
            Ok(opened) => Ok(Some(opened)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("open", name)(error)),
        }
    }

    /// For `map_err`: what was tried with what in the store.
    pub(crate) fn failed<'a>(
        &'a self,
        action: &'static str,
        name: &'a str,
    ) -> impl FnOnce(io::Error) -> Error + 'a {
        move |source| match Errno::from_io_error(&source) {
            // A link, or on the way to it; a FIFO or a socket; a directory; a file for a directory.
            Some(Errno::LOOP | Errno::NXIO | Errno::ISDIR | Errno::NOTDIR) => {
                Error::NotARegularFile(self.path(name))
            }
            _ => Error::io(action, &self.path(name))(source),
        }
    }
}

impl AsFd for StoreDirectory {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Tries again for a while what another process is in the way of.
fn patiently<T>(act: impl Fn() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    let start = Instant::now();
    loop {
        match act() {
            Err(Errno::INTR) => (),
            Err(Errno::WOULDBLOCK) if start.elapsed() < PATIENCE => thread::sleep(PAUSE),
            done => return done,
        }
    }
}
