// SPDX-License-Identifier: GPL-2.0

//! `struct path`: a directory that is kept open, over a private clone of its mount.
//!
//! Locking: none of its own. A path walk takes what the filesystems on its way want, and sleeps: not to be
//! called with a folio or a spinlock locked. Giving a directory up waits for a grace period of RCU.

use core::ptr::NonNull;

use kernel::bindings::dentry;
use kernel::error::{from_err_ptr, to_result};
use kernel::ffi::c_int;
use kernel::fs::File;
use kernel::prelude::*;
use kernel::str::{CStr, CStrExt};
use kernel::sync::aref::ARef;

use super::descriptor::DirectoryId;
use super::OpenedFile;
use crate::rust::bindings;

/// A directory over a private clone of its mount: what is mounted or unmounted there later does not
/// change what it shows.
///
/// # Invariants
///
/// `mount` is a private mount that is ours, and its root is the directory.
pub(crate) struct Directory {
    mount: NonNull<bindings::vfsmount>,
}

// SAFETY: a mount may be used and given up by any task.
unsafe impl Send for Directory {}
// SAFETY: as above.
unsafe impl Sync for Directory {}

impl Directory {
    /// The directory at `path`, looked up by the current task.
    pub(crate) fn open(path: &CStr) -> Result<Self> {
        let mut found = bindings::path::default();
        // SAFETY: the string and the place for the result are valid.
        to_result(unsafe {
            bindings::kern_path(
                path.as_char_ptr(),
                bindings::PEERFS_LOOKUP_DIRECTORY,
                &mut found,
            )
        })?;
        // SAFETY: `found` was filled by the lookup.
        let mount = from_err_ptr(unsafe { bindings::clone_private_mount(&found) });
        // SAFETY: the lookup took the references that this gives up.
        unsafe { bindings::path_put(&found) };
        Ok(Directory {
            mount: NonNull::new(mount?).ok_or(ENOENT)?,
        })
    }

    /// Which directory this is.
    pub(crate) fn id(&self) -> DirectoryId {
        // SAFETY: by the invariant; a mount's root is positive and stays.
        let inode = unsafe { (*self.root()).d_inode };
        DirectoryId(inode as usize)
    }

    /// Whether the current task may create files in it.
    pub(crate) fn is_writable(&self) -> bool {
        let path = bindings::path {
            mnt: self.mount.as_ptr(),
            dentry: self.root(),
        };
        // SAFETY: by the invariant the mount and its root are valid. The clone kept the flags and
        // the mapping of owners of the mount that it was made of.
        unsafe {
            !bindings::__mnt_is_readonly(path.mnt)
                && bindings::peerfs_path_permission(&path, bindings::PEERFS_MAY_CHANGE_DIRECTORY)
                    == 0
        }
    }

    /// How many filesystems are stacked on each other down from this one.
    pub(crate) fn stack_depth(&self) -> c_int {
        // SAFETY: by the invariant; the depth never changes.
        unsafe { (*self.mount.as_ref().mnt_sb).s_stack_depth }
    }

    /// Whether what it has is on a block device or in memory, and comes from there without stacked filesystems or
    /// programs in user space, as far as can be told: on others nobody knows what a read waits for.
    pub(crate) fn is_local(&self) -> bool {
        const IN_MEMORY: [u32; 2] = [bindings::TMPFS_MAGIC, bindings::RAMFS_MAGIC];
        // SAFETY: by the invariant; none of these changes.
        let (depth, magic, device) = unsafe {
            let super_block = self.mount.as_ref().mnt_sb;
            (
                (*super_block).s_stack_depth,
                (*super_block).s_magic as u32,
                (*super_block).s_bdev,
            )
        };
        let is_on_disk = !device.is_null() && magic != bindings::FUSE_SUPER_MAGIC;
        // It has several devices, and names none.
        let is_btrfs = magic == bindings::BTRFS_SUPER_MAGIC;
        depth == 0 && (is_on_disk || is_btrfs || IN_MEMORY.contains(&magic))
    }

    /// Opens a regular file below the directory for reading, with the current credentials. What else is in its
    /// place is left alone: nothing is opened that might act or wait, no symbolic link is followed, and nobody
    /// is waited for who holds a lease.
    pub(crate) fn open_file(&self, name: &CStr) -> Result<Found> {
        let mut path = bindings::path::default();
        // SAFETY: by the invariant the mount and its root are valid; the name and the place for the result are.
        let result = to_result(unsafe {
            bindings::vfs_path_lookup(
                self.root(),
                self.mount.as_ptr(),
                name.as_char_ptr(),
                bindings::PEERFS_LOOKUP_NO_SYMLINKS,
                &mut path,
            )
        });
        match result {
            Ok(()) => {}
            Err(error) if error == ENOENT => return Ok(Found::Nothing),
            Err(error) if error == ELOOP => {
                return Ok(Found::Unusable("is behind a symbolic link"))
            }
            Err(error) if error == ENOTDIR => {
                return Ok(Found::Unusable("is below something that is no folder"))
            }
            Err(error) => return Err(error),
        }
        // SAFETY: `path` was filled by the lookup.
        let file = unsafe { open_regular(&path) };
        // SAFETY: the lookup took the references that this gives up.
        unsafe { bindings::path_put(&path) };
        match file {
            Ok(Some(file)) => Ok(Found::File(OpenedFile::new(file)?)),
            Ok(None) => Ok(Found::Unusable("is no regular file")),
            Err(error) if error == EAGAIN => Ok(Found::Unusable("is leased by who writes to it")),
            Err(error) => Err(error),
        }
    }

    fn root(&self) -> *mut dentry {
        // SAFETY: by the invariant.
        unsafe { self.mount.as_ref().mnt_root }
    }
}

/// What there is in the place of a file.
pub(crate) enum Found {
    /// The file.
    File(OpenedFile),
    /// Nothing.
    Nothing,
    /// Something that is not to be opened: why.
    Unusable(&'static str),
}

/// Opens what is at a path for reading, as the current task may; `None` if it is no regular file.
///
/// # Safety
///
/// `path` must be a valid path, of something that exists.
unsafe fn open_regular(path: &bindings::path) -> Result<Option<ARef<File>>> {
    // SAFETY: by the requirements; the type of an inode never changes.
    let mode = unsafe { (*(*path.dentry).d_inode).i_mode };
    if u32::from(mode) & bindings::S_IFMT != bindings::S_IFREG {
        return Ok(None);
    }
    // SAFETY: as above. These are the permissions that open(2) takes.
    to_result(unsafe { bindings::peerfs_path_permission(path, bindings::PEERFS_MAY_OPEN_READ) })?;
    // SAFETY: as above, and the current credentials stay during the call.
    let file = from_err_ptr(unsafe {
        let credential = bindings::peerfs_get_current_cred();
        let file = bindings::dentry_open(path, bindings::PEERFS_O_RDONLY_NONBLOCK, credential);
        bindings::peerfs_put_cred(credential);
        file
    })?;
    // SAFETY: the file was just opened and the reference is ours. It is in no descriptor table.
    let file: ARef<File> = unsafe { ARef::from_raw(NonNull::new(file).ok_or(ENOENT)?.cast()) };
    // SAFETY: the file is valid.
    to_result(unsafe {
        bindings::peerfs_security_file_post_open(file.as_ptr(), bindings::PEERFS_MAY_OPEN_READ)
    })?;
    Ok(Some(file))
}

impl Drop for Directory {
    fn drop(&mut self) {
        // SAFETY: by the invariant this is the reference to give up.
        unsafe { bindings::kern_unmount(self.mount.as_ptr()) };
    }
}
