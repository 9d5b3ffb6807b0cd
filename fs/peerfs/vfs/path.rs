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
use crate::bindings;

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

    /// Opens a file below the directory for reading, with the current credentials.
    pub(crate) fn open_file(&self, name: &CStr) -> Result<OpenedFile> {
        let path = bindings::path {
            mnt: self.mount.as_ptr(),
            dentry: self.root(),
        };
        // SAFETY: the path and the name are valid during the call.
        let file = from_err_ptr(unsafe {
            bindings::file_open_root(&path, name.as_char_ptr(), bindings::PEERFS_O_RDONLY, 0)
        })?;
        // SAFETY: the file was just opened and the reference is ours. It is in no descriptor table.
        let file: ARef<File> = unsafe { ARef::from_raw(NonNull::new(file).ok_or(ENOENT)?.cast()) };
        OpenedFile::new(file)
    }

    fn root(&self) -> *mut dentry {
        // SAFETY: by the invariant.
        unsafe { self.mount.as_ref().mnt_root }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // SAFETY: by the invariant this is the reference to give up.
        unsafe { bindings::kern_unmount(self.mount.as_ptr()) };
    }
}
