// SPDX-License-Identifier: GPL-2.0

//! What a file is that user space passed as a descriptor.
//!
//! Locking: none; what is asked never changes while the file is referred to.

use crate::rust::bindings;
use kernel::{fs::file::flags, fs::File, prelude::*};

/// Which directory: equal for all files and mounts of it.
///
/// It is the address of the inode, so it says something only while somebody holds the directory, and
/// must never be shown to user space. (An inode number would not do: btrfs repeats them in the
/// subvolumes of one superblock.)
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) struct DirectoryId(pub(crate) usize);

impl DirectoryId {
    /// The directory that `file` has open; ENOTDIR if it is none.
    pub(crate) fn of(file: &File) -> Result<Self> {
        if file_type(file) != bindings::S_IFDIR {
            return Err(ENOTDIR);
        }
        Ok(DirectoryId(inode(file) as usize))
    }
}

/// EINVAL unless `file` is a regular file, EBADF unless it is open for reading.
pub(super) fn check_readable(file: &File) -> Result {
    if file_type(file) != bindings::S_IFREG {
        return Err(EINVAL);
    }
    match file.flags() & flags::O_ACCMODE {
        flags::O_RDONLY | flags::O_RDWR => Ok(()),
        _ => Err(EBADF),
    }
}

/// Whether two files are of the same superblock.
pub(crate) fn same_filesystem(a: &File, b: &File) -> bool {
    superblock(a) == superblock(b)
}

fn inode(file: &File) -> *mut bindings::inode {
    // SAFETY: A file has its inode from before it becomes visible until it is freed.
    unsafe { (*file.as_ptr()).f_inode }
}

fn file_type(file: &File) -> u32 {
    // SAFETY: The file holds a reference to its inode; the type in `i_mode` never changes.
    u32::from(unsafe { (*inode(file)).i_mode }) & bindings::S_IFMT
}

fn superblock(file: &File) -> *mut bindings::super_block {
    // SAFETY: The file holds a reference to its inode; `i_sb` never changes.
    unsafe { (*inode(file)).i_sb }
}
