// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Owners, extended attributes, modes and times, in an order in which none undoes another: a change of the owner takes
//! set-user-ID bits and capabilities away, a mode may forbid to set attributes, and all of them are no reason for a new time.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use peerfs_format::FileType;
use peerfs_store::Inode;
use rustix::fs::{
    chmod, chownat, fchmod, fchown, fremovexattr, fsetxattr, fstat, futimens, setxattr, utimensat,
    AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, UTIME_OMIT,
};
use rustix::io::Errno;

use crate::Error;

const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";
/// Set-user-ID and set-group-ID.
const SET_ID: u32 = 0o6000;

/// Which attributes are set.
pub(super) struct Attributes {
    pub(super) same_owner: bool,
    pub(super) xattrs: Xattrs,
}

/// The extended attributes that are set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Xattrs {
    All,
    /// Those that an ordinary user may set.
    Unprivileged,
    None,
}

/// What has attributes.
#[derive(Clone, Copy)]
pub(super) enum Object<'a> {
    /// A regular file or directory that is open.
    Open(BorrowedFd<'a>),
    /// Anything else, opened as a place.
    Place(BorrowedFd<'a>),
}

impl Attributes {
    /// Sets the attributes of `inode`, all that can be set: `failed` is told what can't. Returns whether it has extended
    /// attributes that were left out.
    pub(super) fn set(
        &self,
        object: Object<'_>,
        inode: &Inode,
        path: &Path,
        failed: &dyn Fn(Error),
    ) -> bool {
        let mut left_out = false;
        let tell = |action, outcome: rustix::io::Result<()>| {
            if let Err(errno) = outcome {
                failed(Error::io(action, path)(errno));
            }
        };
        let record = inode.record();
        let mut is_owned = true;
        if self.same_owner {
            let owned = object.set_owner(Uid::from_raw(record.uid), Gid::from_raw(record.gid));
            is_owned = owned.is_ok();
            tell("set the owner of", owned);
        }
        match inode.xattrs() {
            Err(error) => failed(error.into()),
            Ok(xattrs) => {
                for (name, value) in xattrs {
                    if self.xattrs.includes(&name) {
                        tell(
                            "set an extended attribute of",
                            object.set_xattr(&name, &value),
                        );
                    } else {
                        left_out |= self.xattrs != Xattrs::None;
                    }
                }
            }
        }
        let mut mode = record.mode & 0o7777;
        // What somebody may do in another's name is theirs to say.
        if mode & SET_ID != 0 && !(is_owned && object.has_owner_of(inode)) {
            mode &= !SET_ID;
        }
        if inode.file_type() != FileType::SymbolicLink {
            tell(
                "set the mode of",
                object.set_mode(Mode::from_raw_mode(mode)),
            );
        }
        let time = Timespec {
            tv_sec: record.mtime_seconds,
            tv_nsec: record.mtime_nanoseconds.into(),
        };
        tell("set the time of", object.set_time(time));
        left_out
    }
}

impl Xattrs {
    fn includes(self, name: &[u8]) -> bool {
        match self {
            Xattrs::All => true,
            Xattrs::Unprivileged => [b"user.".as_slice(), b"system."]
                .iter()
                .any(|prefix| name.starts_with(prefix)),
            Xattrs::None => false,
        }
    }
}

impl Object<'_> {
    fn set_owner(self, uid: Uid, gid: Gid) -> rustix::io::Result<()> {
        match self {
            Object::Open(file) => fchown(file, Some(uid), Some(gid)),
            Object::Place(place) => chownat(place, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH),
        }
    }

    fn has_owner_of(self, inode: &Inode) -> bool {
        let (Object::Open(file) | Object::Place(file)) = self;
        let record = inode.record();
        fstat(file).is_ok_and(|found| (found.st_uid, found.st_gid) == (record.uid, record.gid))
    }

    fn set_xattr(self, name: &[u8], value: &[u8]) -> rustix::io::Result<()> {
        match self {
            Object::Open(file) => fsetxattr(file, name, value, XattrFlags::empty()),
            Object::Place(place) => setxattr(by_proc(place), name, value, XattrFlags::empty()),
        }
    }

    fn set_mode(self, mode: Mode) -> rustix::io::Result<()> {
        match self {
            Object::Open(file) => fchmod(file, mode),
            Object::Place(place) => chmod(by_proc(place), mode),
        }
    }

    fn set_time(self, last_modification: Timespec) -> rustix::io::Result<()> {
        let last_access = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        };
        let times = Timestamps {
            last_access,
            last_modification,
        };
        match self {
            Object::Open(file) => futimens(file, &times),
            Object::Place(place) => utimensat(place, "", &times, AtFlags::EMPTY_PATH),
        }
    }
}

/// The path of what is opened as a place. It leads there whatever is called so now, and no symbolic link is followed
/// from there.
fn by_proc(place: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", place.as_raw_fd())
}

/// Has a directory not hand its default ACL on to what is made in it from now on.
pub(super) fn remove_default_acl(directory: BorrowedFd<'_>) -> rustix::io::Result<()> {
    match fremovexattr(directory, DEFAULT_ACL) {
        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        Err(errno) => Err(errno),
    }
}
