// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Attempts to change a mount.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{
    self as sys, AtFlags, FileType, IFlags, Mode, OFlags, RenameFlags, Timespec, Timestamps,
    XattrFlags, CWD,
};
use rustix::io::Errno;

use crate::{ensure, Error, Result};

/// Tries everything on the root and on a file and a directory of it.
pub(crate) fn check(mount: &Path) -> Result<()> {
    let paths = crate::entry::walk(mount).map_err(Error::io("read", mount))?;
    let find = |wanted: fn(&fs::Metadata) -> bool| {
        let mut full = paths.iter().skip(1).map(|path| mount.join(path));
        let fits = |path: &std::path::PathBuf| fs::symlink_metadata(path).is_ok_and(|m| wanted(&m));
        full.find(fits)
            .ok_or_else(|| Error::Finding("the mount has no file or no directory".to_owned()))
    };
    let file = &find(|metadata| metadata.is_file() && metadata.size() > 0)?;
    let directory = &find(fs::Metadata::is_dir)?;
    let new = &directory.join("new entry");
    let mode = Mode::from_raw_mode(0o644);
    let now = Timespec {
        tv_sec: 1,
        tv_nsec: 1,
    };
    let times = &Timestamps {
        last_access: now,
        last_modification: now,
    };
    let open = |path: &Path, flags| sys::open(path, flags, mode).map(drop);
    let std = |result: std::io::Result<()>| {
        result.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))
    };

    let attempts = [
        ("open for writing", open(file, OFlags::WRONLY)),
        ("open for reading and writing", open(file, OFlags::RDWR)),
        (
            "open and truncate",
            open(file, OFlags::RDONLY | OFlags::TRUNC),
        ),
        (
            "open to append",
            open(file, OFlags::WRONLY | OFlags::APPEND),
        ),
        ("create", open(new, OFlags::WRONLY | OFlags::CREATE)),
        (
            "create exclusively",
            open(new, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL),
        ),
        (
            "create without a name",
            open(directory, OFlags::RDWR | OFlags::TMPFILE),
        ),
        ("mkdir", sys::mkdir(new, mode)),
        ("mknod", sys::mknodat(CWD, new, FileType::Fifo, mode, 0)),
        ("symlink", sys::symlink("target", new)),
        ("link", sys::link(file, new)),
        ("unlink", sys::unlink(file)),
        ("rmdir", sys::rmdir(directory)),
        ("rename", sys::rename(file, new)),
        (
            "exchange",
            sys::renameat_with(CWD, file, CWD, directory, RenameFlags::EXCHANGE),
        ),
        ("chmod", sys::chmod(file, mode)),
        (
            "chown",
            std(std::os::unix::fs::lchown(file, Some(1), Some(1))),
        ),
        (
            "set times",
            sys::utimensat(CWD, file, times, AtFlags::empty()),
        ),
        (
            "set an xattr",
            sys::setxattr(file, "user.new", b"value", XattrFlags::empty()),
        ),
        ("remove an xattr", sys::removexattr(file, "user.root")),
        ("chmod of a directory", sys::chmod(directory, mode)),
        ("chmod of the root", sys::chmod(mount, mode)),
    ];
    for (attempt, result) in attempts {
        ensure(result == Err(Errno::ROFS), || {
            format!("{attempt}: {result:?} instead of EROFS")
        })?;
    }

    // Through a descriptor that was opened for reading only.
    let opened = File::open(file).map_err(Error::io("open", file))?;
    let attempts = [
        ("fchmod", sys::fchmod(&opened, mode)),
        (
            "fset an xattr",
            sys::fsetxattr(&opened, "user.new", b"value", XattrFlags::empty()),
        ),
    ];
    for (attempt, result) in attempts {
        ensure(result == Err(Errno::ROFS), || {
            format!("{attempt}: {result:?} instead of EROFS")
        })?;
    }
    // No filesystem answers these on such a descriptor with EROFS; they must fail all the same.
    ensure(rustix::io::pwrite(&opened, b"x", 0).is_err(), || {
        "a write succeeded".to_owned()
    })?;
    ensure(sys::ftruncate(&opened, 0).is_err(), || {
        "a truncation succeeded".to_owned()
    })?;
    ensure(
        sys::ioctl_setflags(&opened, IFlags::IMMUTABLE).is_err(),
        || "setting flags succeeded".to_owned(),
    )
}
