// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The directory that is extracted to. Everything in it is reached from its descriptor, and never by way of a symbolic
//! link or out of it, whatever somebody else puts there meanwhile.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use peerfs_store::Inode;
use rustix::fs::{
    linkat, mkdirat, mknodat, openat, openat2, statat, symlinkat, unlinkat, AtFlags, FileType,
    Mode, OFlags, ResolveFlags, CWD,
};
use rustix::io::Errno;

use super::ladder::Ladder;
use crate::walk::join;
use crate::{Error, Result};

/// The longest path that one system call is given (PATH_MAX without its NUL).
const PATH_MAX: usize = 4095;
/// What nobody else may touch before it has its owner and mode.
const PRIVATE_DIRECTORY: Mode = Mode::RWXU;
const PRIVATE_FILE: Mode = Mode::from_raw_mode(0o600);

/// The directory that is extracted to.
pub(super) struct Target {
    path: PathBuf,
    root: OwnedFd,
    /// Whether what is in the place of something is removed.
    overwrite: bool,
    ladder: Mutex<Ladder>,
}

/// A directory in it that is open, and its path from there.
pub(super) struct Directory {
    pub(super) path: Vec<u8>,
    descriptor: Arc<OwnedFd>,
}

impl Target {
    /// Opens the directory, which is made if there is none; the one that it would be in must be there.
    pub(super) fn open(path: &Path, overwrite: bool) -> Result<Self> {
        match rustix::fs::mkdir(path, PRIVATE_DIRECTORY) {
            Ok(()) | Err(Errno::EXIST) => (),
            Err(errno) => return Err(Error::io("create", path)(errno)),
        }
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, path, flags, Mode::empty()).map_err(Error::io("open", path))?;
        if !overwrite {
            let mut entries = fs::read_dir(path).map_err(Error::io("read", path))?;
            if entries.next().is_some() {
                return Err(Error::NotEmpty(path.to_owned()));
            }
        }
        Ok(Target {
            path: path.to_owned(),
            root,
            overwrite,
            ladder: Mutex::default(),
        })
    }

    /// The path for messages of something in it.
    pub(super) fn shown(&self, path: &[u8]) -> PathBuf {
        match path {
            b"" => self.path.clone(),
            _ => self.path.join(OsStr::from_bytes(path)),
        }
    }

    /// Opens a directory that was made.
    pub(super) fn directory(&self, path: &[u8]) -> Result<Directory> {
        let failed = |errno| match errno {
            Errno::LOOP | Errno::NOTDIR | Errno::XDEV | Errno::NOENT | Errno::AGAIN => {
                Error::Replaced(self.shown(path))
            }
            errno => Error::io("open", self.shown(path))(errno),
        };
        let mut ladder = self.ladder.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = ladder.open(path, |at, part| {
            open_beneath(at.unwrap_or(&self.root), part)
        });
        let descriptor = match opened.map_err(failed)? {
            Some(descriptor) => descriptor,
            None => Arc::new(open_beneath(&self.root, b".").map_err(failed)?),
        };
        Ok(Directory {
            path: path.to_vec(),
            descriptor,
        })
    }

    /// Makes a directory, and says whether it is new: one that is there already stays, if it may.
    pub(super) fn make_directory(&self, parent: &Directory, name: &[u8]) -> Result<bool> {
        let make = || mkdirat(parent, name, PRIVATE_DIRECTORY);
        let made = match make() {
            Err(Errno::EXIST) if self.overwrite => {
                let found = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
                let is_directory =
                    found.is_ok_and(|found| FileType::from_raw_mode(found.st_mode).is_dir());
                if is_directory {
                    return Ok(false);
                }
                self.make_room(parent, name)?;
                make()
            }
            made => made,
        };
        made.map_err(Error::io("create", self.shown(&join(&parent.path, name))))?;
        Ok(true)
    }

    /// Makes something by `make`, in the place of what is there if it may.
    fn make<T>(
        &self,
        directory: &Directory,
        name: &[u8],
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<T> {
        let made = match make() {
            Err(Errno::EXIST) if self.overwrite => {
                self.make_room(directory, name)?;
                make()
            }
            made => made,
        };
        made.map_err(Error::io(
            "create",
            self.shown(&join(&directory.path, name)),
        ))
    }

    fn make_room(&self, directory: &Directory, name: &[u8]) -> Result<()> {
        let removed = match unlinkat(directory, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => unlinkat(directory, name, AtFlags::REMOVEDIR),
            removed => removed,
        };
        match removed {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(Error::io(
                "replace",
                self.shown(&join(&directory.path, name)),
            )(errno)),
        }
    }

    /// Makes a regular file, and opens it to be written.
    pub(super) fn make_file(&self, directory: &Directory, name: &[u8]) -> Result<OwnedFd> {
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.make(directory, name, || {
            openat(directory, name, flags, PRIVATE_FILE)
        })
    }

    /// Makes a symbolic link, device, named pipe or socket, and opens it as a place.
    pub(super) fn make_node(
        &self,
        directory: &Directory,
        name: &[u8],
        inode: &Inode,
    ) -> Result<OwnedFd> {
        let kind = FileType::from_raw_mode(inode.mode());
        if kind.is_symlink() {
            let link_target = inode.symlink_target()?;
            self.make(directory, name, || {
                symlinkat(link_target.as_slice(), directory, name)
            })?;
        } else {
            let (major, minor) = inode.device().unwrap_or((0, 0));
            let device = rustix::fs::makedev(major, minor);
            self.make(directory, name, || {
                mknodat(directory, name, kind, PRIVATE_FILE, device)
            })?;
        }
        let shown = || self.shown(&join(&directory.path, name));
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node =
            openat(directory, name, flags, Mode::empty()).map_err(Error::io("open", shown()))?;
        let found = rustix::fs::fstat(&node).map_err(Error::io("open", shown()))?;
        // What has another name is not what was just made.
        match FileType::from_raw_mode(found.st_mode) == kind && found.st_nlink == 1 {
            true => Ok(node),
            false => Err(Error::Replaced(shown())),
        }
    }

    /// Gives what has the name `first` in one directory another one.
    pub(super) fn link(
        &self,
        from: &Directory,
        first: &[u8],
        directory: &Directory,
        name: &[u8],
    ) -> Result<()> {
        self.make(directory, name, || {
            linkat(from, first, directory, name, AtFlags::empty())
        })
    }

    /// Removes a file that could not be written, as far as that is possible.
    pub(super) fn give_up(&self, directory: &Directory, name: &[u8]) {
        let _ = unlinkat(directory, name, AtFlags::empty());
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        (*self.descriptor).as_fd()
    }
}

/// Opens what is on a path below a directory, by way of no symbolic link.
fn open_beneath(at: &OwnedFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let open = |at: &OwnedFd, part: &[u8]| {
        openat2(
            at,
            part,
            OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )
    };
    let (part, mut rest) = first_part(path);
    let mut opened = open(at, part)?;
    while !rest.is_empty() {
        let (part, behind) = first_part(rest);
        opened = open(&opened, part)?;
        rest = behind;
    }
    Ok(opened)
}

/// As many names of a path as one system call takes, and the rest.
fn first_part(path: &[u8]) -> (&[u8], &[u8]) {
    if path.len() <= PATH_MAX {
        return (path, b"");
    }
    let (head, _) = path.split_at(PATH_MAX + 1);
    // A name is shorter than that.
    let slash = head.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    let (part, behind) = path.split_at(slash);
    (part, behind.strip_prefix(b"/").unwrap_or(behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_paths_come_in_parts() {
        assert_eq!(first_part(b"a/b"), (&b"a/b"[..], &b""[..]));
        let long = vec![b"0123456789".as_slice(); 1000].join(&b'/');
        let mut parts = Vec::new();
        let mut rest = long.as_slice();
        while !rest.is_empty() {
            let (part, behind) = first_part(rest);
            assert!((1..=PATH_MAX).contains(&part.len()));
            parts.push(part);
            rest = behind;
        }
        assert_eq!(parts.len(), 3);
        assert_eq!(parts.join(&b'/'), long);
    }
}
