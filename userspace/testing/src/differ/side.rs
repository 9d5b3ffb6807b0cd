// SPDX-License-Identifier: GPL-2.0 OR MIT

//! One of the two trees, and the system calls on it.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    self, AtFlags, FileType, MemfdFlags, Mode, OFlags, ResolveFlags, SeekFrom, Stat, StatxFlags,
    Timespec, Timestamps, XattrFlags,
};
use rustix::io::{self, Errno};

use super::answer::{Answer, Status};
use super::operation::{Change, ChangeOpen, Operation, SeekTo};
use super::reading::{contents, direct, fill, list, mapped, spliced, vectors, zeros};
use super::SLOTS;
use crate::{Error, Result};

/// The outcome of an operation.
pub(super) type Outcome = Result<Answer, Errno>;

/// A tree, with what is open of it.
pub(super) struct Side {
    root: OwnedFd,
    slots: [Option<File>; SLOTS],
}

impl Side {
    pub(super) fn open(root: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = fs::open(root, flags, Mode::empty());
        Ok(Side {
            root: opened.map_err(Error::io("open", root))?,
            slots: [const { None }; SLOTS],
        })
    }

    fn slot(&self, slot: usize) -> Result<&File, Errno> {
        self.slots[slot].as_ref().ok_or(Errno::BADF)
    }

    /// Nothing is opened outside of the tree, wherever a link leads: it may be opened for writing.
    fn open_beneath(&self, path: &Path, flags: OFlags) -> Result<File, Errno> {
        let mode = if flags.intersects(OFlags::CREATE | OFlags::TMPFILE) {
            Mode::from_raw_mode(0o600)
        } else {
            Mode::empty()
        };
        let flags = flags | OFlags::CLOEXEC;
        loop {
            // EAGAIN says that something was renamed or mounted anywhere, so that nobody knows where a ".."
            // of the path has led: by the daemon, for instance, that puts into the store what the other side
            // waits for.
            match fs::openat2(&self.root, path, flags, mode, ResolveFlags::BENEATH) {
                Err(Errno::AGAIN) => {}
                opened => return opened.map(File::from),
            }
        }
    }

    /// Does one operation.
    pub(super) fn perform(&mut self, operation: &Operation) -> Outcome {
        match operation {
            Operation::Open { slot, path, flags } => {
                self.slots[*slot] = None;
                let file = self.open_beneath(path, *flags)?;
                let status = status(&fs::fstat(&file)?);
                self.slots[*slot] = Some(file);
                Ok(Answer::Status(status))
            }
            Operation::Close { slot } => {
                self.slots[*slot] = None;
                Ok(Answer::Done)
            }
            Operation::Read { slot, length } => {
                let file = self.slot(*slot)?;
                fill(*length, |rest, _| io::read(file, rest))
            }
            Operation::ReadAt {
                slot,
                offset,
                length,
            } => {
                let file = self.slot(*slot)?;
                fill(*length, |rest, done| io::pread(file, rest, offset + done))
            }
            Operation::ReadVectors { slot, lengths } => {
                let file = self.slot(*slot)?;
                vectors(*lengths, |buffers| io::readv(file, buffers))
            }
            Operation::ReadVectorsAt {
                slot,
                offset,
                lengths,
            } => {
                let file = self.slot(*slot)?;
                vectors(*lengths, |buffers| io::preadv(file, buffers, *offset))
            }
            Operation::ReadDirect {
                path,
                offset,
                length,
            } => {
                let file = match self.open_beneath(path, OFlags::RDONLY | OFlags::DIRECT) {
                    Err(Errno::INVAL) => return Ok(Answer::Refused),
                    file => file?,
                };
                direct(&file, *offset, *length)
            }
            Operation::Seek { slot, to } => {
                let to = match to {
                    SeekTo::Start(offset) => SeekFrom::Start(*offset),
                    SeekTo::End(offset) => SeekFrom::End(*offset),
                    SeekTo::Current(offset) => SeekFrom::Current(*offset),
                };
                fs::seek(self.slot(*slot)?, to).map(Answer::Number)
            }
            Operation::SeekData { slot, offset } => {
                self.seek_and_return(*slot, SeekFrom::Data(*offset))
            }
            Operation::SeekHole { slot, offset } => {
                self.seek_and_return(*slot, SeekFrom::Hole(*offset))
            }
            Operation::Splice {
                slot,
                offset,
                length,
            } => spliced(self.slot(*slot)?, *offset, *length),
            Operation::SendFile {
                slot,
                offset,
                length,
            } => {
                let file = self.slot(*slot)?;
                let mut position = *offset;
                let memory = fs::memfd_create("peerfs-testing", MemfdFlags::CLOEXEC)?;
                let sent = fs::sendfile(&memory, file, position.as_mut(), *length)?;
                contents(memory, sent)
            }
            Operation::CopyRange {
                slot,
                offset,
                length,
            } => {
                let file = self.slot(*slot)?;
                let mut position = *offset;
                let memory = fs::memfd_create("peerfs-testing", MemfdFlags::CLOEXEC)?;
                let copied =
                    fs::copy_file_range(file, Some(&mut position), &memory, None, *length)?;
                contents(memory, copied)
            }
            Operation::Map {
                slot,
                offset,
                length,
                way,
            } => mapped(self.slot(*slot)?, *offset, *length, *way),
            Operation::Advise {
                slot,
                offset,
                length,
                advice,
            } => {
                fs::fadvise(
                    self.slot(*slot)?,
                    *offset,
                    std::num::NonZeroU64::new(*length),
                    *advice,
                )?;
                Ok(Answer::Done)
            }
            Operation::CountUnread { slot } => {
                rustix::io::ioctl_fionread(self.slot(*slot)?).map(Answer::Number)
            }
            Operation::Status { path, follow } => {
                let stat = fs::statat(&self.root, path, follow_flag(*follow))?;
                Ok(Answer::Status(status(&stat)))
            }
            Operation::StatusOfOpen { slot } => {
                Ok(Answer::Status(status(&fs::fstat(self.slot(*slot)?)?)))
            }
            Operation::ExtendedStatus { path, flags } => {
                extended_status(&self.root, path, AtFlags::from_bits_retain(*flags))
            }
            Operation::ReadLink { path, length } => {
                let mut buffer = vec![0; *length];
                let count = fs::readlinkat_raw(&self.root, path, &mut buffer[..])?;
                buffer.truncate(count);
                Ok(Answer::Bytes(buffer))
            }
            Operation::GetXattrOfOpen { slot, name } => {
                let mut value = vec![0; 65536];
                let length = fs::fgetxattr(self.slot(*slot)?, name, &mut value[..])?;
                value.truncate(length);
                Ok(Answer::Bytes(value))
            }
            Operation::GetXattr { .. } | Operation::ListXattrs { .. } => self.xattrs(operation),
            Operation::Access { path, access } => {
                fs::accessat(&self.root, path, *access, AtFlags::empty())?;
                Ok(Answer::Done)
            }
            Operation::List {
                slot,
                buffer,
                resume,
            } => list(self.slot(*slot)?, *buffer, *resume),
            Operation::Change { path, change } => self.change(path, change).map(|()| Answer::Done),
            Operation::ChangeOpen { slot, change } => {
                change_open(self.slot(*slot)?, *change).map(|()| Answer::Done)
            }
            Operation::Lock { slot, lock } => {
                fs::flock(self.slot(*slot)?, *lock)?;
                Ok(Answer::Done)
            }
        }
    }

    /// Whether answers that may differ do so within what is allowed.
    pub(super) fn tolerates(&self, operation: &Operation, one: &Outcome, other: &Outcome) -> bool {
        // O_DIRECT is the filesystem's choice.
        if matches!(
            (one, other),
            (Ok(Answer::Refused), _) | (_, Ok(Answer::Refused))
        ) {
            return true;
        }
        let (from, slot, is_data) = match operation {
            Operation::SeekData { slot, offset } => (*offset, *slot, true),
            Operation::SeekHole { slot, offset } => (*offset, *slot, false),
            _ => return false,
        };
        let Ok(file) = self.slot(slot) else {
            return false;
        };
        let size = file.metadata().map_or(0, |metadata| metadata.len());
        match (one, other) {
            (Ok(Answer::Place(one)), Ok(Answer::Place(other))) if one == other => true,
            // What is called a hole reads as zeros.
            (_, Ok(Answer::Place(found))) if *found < from || *found > size => false,
            (_, Ok(Answer::Place(found))) if is_data => zeros(file, from, *found),
            (_, Err(Errno::NXIO)) if is_data && from < size => zeros(file, from, size),
            (_, Ok(Answer::Place(found))) => {
                *found == size || zeros(file, *found, (*found + 4096).min(size))
            }
            (Err(one), Err(other)) => one == other,
            _ => false,
        }
    }

    /// Only what is found is asked; the position is as before.
    fn seek_and_return(&self, slot: usize, to: SeekFrom) -> Outcome {
        let file = self.slot(slot)?;
        let before = fs::tell(file)?;
        let found = fs::seek(file, to);
        fs::seek(file, SeekFrom::Start(before))?;
        found.map(Answer::Place)
    }

    /// Through /proc, since these calls know no directory to begin at.
    fn xattrs(&self, operation: &Operation) -> Outcome {
        let under = |path: &Path| {
            let root = self.root.as_fd();
            let mut full =
                format!("/proc/self/fd/{}/", std::os::fd::AsRawFd::as_raw_fd(&root)).into_bytes();
            full.extend_from_slice(path.as_os_str().as_encoded_bytes());
            full
        };
        match operation {
            Operation::GetXattr {
                path,
                name,
                length,
                follow,
            } => {
                let path = under(path);
                let mut value = vec![0; *length];
                let length = match (follow, length) {
                    (true, 0) => {
                        return fs::getxattr_query(path, name).map(|n| Answer::Number(n as u64))
                    }
                    (false, 0) => {
                        return fs::lgetxattr_query(path, name).map(|n| Answer::Number(n as u64))
                    }
                    (true, _) => fs::getxattr(path, name, &mut value[..])?,
                    (false, _) => fs::lgetxattr(path, name, &mut value[..])?,
                };
                value.truncate(length);
                Ok(Answer::Bytes(value))
            }
            Operation::ListXattrs {
                path,
                length,
                follow,
            } => {
                let path = under(path);
                let mut names = vec![0; *length];
                let length = match (follow, length) {
                    (true, 0) => {
                        return fs::listxattr_query(path).map(|n| Answer::Number(n as u64))
                    }
                    (false, 0) => {
                        return fs::llistxattr_query(path).map(|n| Answer::Number(n as u64))
                    }
                    (true, _) => fs::listxattr(path, &mut names[..])?,
                    (false, _) => fs::llistxattr(path, &mut names[..])?,
                };
                let names = names[..length].split(|&byte| byte == 0);
                let mut names: Vec<Vec<u8>> = names.map(<[u8]>::to_vec).collect();
                names.sort();
                Ok(Answer::Names(names))
            }
            _ => Err(Errno::INVAL),
        }
    }

    fn change(&self, path: &Path, change: &Change) -> Result<(), Errno> {
        let root = &self.root;
        let mode = Mode::from_raw_mode(0o600);
        match change {
            Change::Unlink => fs::unlinkat(root, path, AtFlags::empty()),
            Change::RemoveDirectory => fs::unlinkat(root, path, AtFlags::REMOVEDIR),
            Change::MakeDirectory => fs::mkdirat(root, path, mode),
            Change::MakeNode => fs::mknodat(root, path, FileType::Fifo, mode, 0),
            Change::LinkTo(other) => fs::linkat(root, path, root, other, AtFlags::empty()),
            Change::SymbolicLink => fs::symlinkat("target", root, path),
            Change::Rename(other) => fs::renameat(root, path, root, other),
            Change::Mode => fs::chmodat(root, path, mode, AtFlags::empty()),
            Change::Owner => {
                let owner = Some(fs::Uid::from_raw(1));
                fs::chownat(root, path, owner, None, AtFlags::SYMLINK_NOFOLLOW)
            }
            Change::Times => {
                let time = Timespec {
                    tv_sec: 1,
                    tv_nsec: 2,
                };
                let times = Timestamps {
                    last_access: time,
                    last_modification: time,
                };
                fs::utimensat(root, path, &times, AtFlags::SYMLINK_NOFOLLOW)
            }
            Change::SetXattr(name) => {
                let file = self.open_beneath(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
                fs::fsetxattr(file, name, b"value", XattrFlags::empty())
            }
            Change::RemoveXattr(name) => {
                let file = self.open_beneath(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
                fs::fremovexattr(file, name)
            }
        }
    }
}

fn follow_flag(follow: bool) -> AtFlags {
    if follow {
        AtFlags::empty()
    } else {
        AtFlags::SYMLINK_NOFOLLOW
    }
}

fn status(stat: &Stat) -> Status {
    let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    // It has as many bits on some processors, and fewer on others.
    #[allow(clippy::useless_conversion)]
    let nlink = stat.st_nlink.into();
    Status {
        id: (stat.st_dev, stat.st_ino),
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        nlink,
        size: (!is_directory).then_some(stat.st_size as u64),
        block_size: stat.st_blksize as u64,
        mtime: (stat.st_mtime, stat.st_mtime_nsec),
        device: stat.st_rdev,
    }
}

/// The same by statx(2), which must know as much.
fn extended_status(root: &OwnedFd, path: &Path, flags: AtFlags) -> Outcome {
    let found = fs::statx(root, path, flags, StatxFlags::BASIC_STATS)?;
    if found.stx_mask & StatxFlags::BASIC_STATS.bits() != StatxFlags::BASIC_STATS.bits() {
        return Ok(Answer::Inconsistent(format!(
            "statx knows only {:#x}",
            found.stx_mask
        )));
    }
    let mode = u32::from(found.stx_mode);
    let is_directory = FileType::from_raw_mode(mode) == FileType::Directory;
    Ok(Answer::Status(Status {
        id: (
            fs::makedev(found.stx_dev_major, found.stx_dev_minor),
            found.stx_ino,
        ),
        mode,
        uid: found.stx_uid,
        gid: found.stx_gid,
        nlink: found.stx_nlink.into(),
        size: (!is_directory).then_some(found.stx_size),
        block_size: found.stx_blksize.into(),
        mtime: (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec.into()),
        device: fs::makedev(found.stx_rdev_major, found.stx_rdev_minor),
    }))
}

fn change_open(file: &File, change: ChangeOpen) -> Result<(), Errno> {
    match change {
        ChangeOpen::Write => io::write(file, b"x").map(drop),
        ChangeOpen::Truncate(length) => fs::ftruncate(file, length),
        ChangeOpen::Allocate(flags) => fs::fallocate(file, flags, 0, 4096),
        ChangeOpen::Mode => fs::fchmod(file, Mode::from_raw_mode(0o600)),
        ChangeOpen::Sync => fs::fsync(file),
        ChangeOpen::SyncData => fs::fdatasync(file),
        ChangeOpen::SyncFilesystem => fs::syncfs(file),
    }
}
