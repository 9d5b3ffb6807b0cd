// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the kernel is told of an inode.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType as FuseType, INodeNo};
use peerfs_format::{FileType, InodeRecord};
use peerfs_store::Inode;

/// How long the kernel may keep what it was told: nothing of an image ever changes.
pub(crate) const FOREVER: Duration = Duration::from_secs(1 << 31);
/// Bytes of the blocks that readers are told to read in.
const BLOCK_SIZE: u32 = 4096;

/// An inode's attributes; the same as those of the kernel's filesystem.
pub(crate) fn attributes(inode: &Inode) -> FileAttr {
    let record = inode.record();
    let time = modification_time(record);
    FileAttr {
        ino: INodeNo(inode.number()),
        size: record.size,
        blocks: match inode.file_type() {
            FileType::Regular => record.allocated.div_ceil(512),
            _ => 0,
        },
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: kind(inode.file_type()),
        perm: (record.mode & 0o7777) as u16,
        nlink: record.nlink,
        uid: record.uid,
        gid: record.gid,
        // As the image has it, the kernel encodes it.
        rdev: inode.device().map_or(0, |_| record.payload_first),
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// An inode's type.
pub(crate) fn kind(file_type: FileType) -> FuseType {
    match file_type {
        FileType::Regular => FuseType::RegularFile,
        FileType::Directory => FuseType::Directory,
        FileType::SymbolicLink => FuseType::Symlink,
        FileType::CharacterDevice => FuseType::CharDevice,
        FileType::BlockDevice => FuseType::BlockDevice,
        FileType::Fifo => FuseType::NamedPipe,
        FileType::Socket => FuseType::Socket,
    }
}

/// Also one before 1970.
fn modification_time(record: &InodeRecord) -> SystemTime {
    let seconds = Duration::from_secs(record.mtime_seconds.unsigned_abs());
    let whole = if record.mtime_seconds < 0 {
        UNIX_EPOCH.checked_sub(seconds)
    } else {
        UNIX_EPOCH.checked_add(seconds)
    };
    let nanoseconds = Duration::from_nanos(record.mtime_nanoseconds.into());
    whole
        .and_then(|time| time.checked_add(nanoseconds))
        .unwrap_or(UNIX_EPOCH)
}
