// SPDX-License-Identifier: GPL-2.0

//! `struct dentry` and the inode operations, whose entry it is.
//!
//! Locking: the VFS looks a name up with the directory's `i_rwsem` held, at least shared, and no two tasks
//! look up the same name at once. Links are followed under RCU or with a reference: targets do not change.

use core::marker::PhantomData;
use core::ptr;

use kernel::ffi::{c_int, c_uint};
use kernel::sync::aref::ARef;

use super::{xattr, FileSystem, Inode};
use crate::rust::bindings;

/// The superblock of a dentry.
///
/// # Safety
///
/// `dentry` must be valid.
pub(super) unsafe fn super_block(dentry: *mut bindings::dentry) -> *mut bindings::super_block {
    // SAFETY: by the requirements; the field never changes.
    unsafe { (*dentry).d_sb }
}

/// The inode operations of directories.
pub(super) fn directory_operations<T: FileSystem>() -> &'static bindings::inode_operations {
    &Operations::<T>::DIRECTORY
}

/// The inode operations of symbolic links.
pub(super) fn link_operations<T: FileSystem>() -> &'static bindings::inode_operations {
    &Operations::<T>::LINK
}

/// The inode operations of everything else.
pub(super) fn plain_operations<T: FileSystem>() -> &'static bindings::inode_operations {
    &Operations::<T>::PLAIN
}

struct Operations<T>(PhantomData<T>);

impl<T: FileSystem> Operations<T> {
    const PLAIN: bindings::inode_operations = bindings::inode_operations {
        getattr: Some(Self::getattr),
        listxattr: Some(xattr::list::<T>),
        get_inode_acl: Some(xattr::get_inode_acl::<T>),
        ..pin_init::zeroed()
    };

    const DIRECTORY: bindings::inode_operations = bindings::inode_operations {
        lookup: Some(Self::lookup),
        getattr: Some(Self::getattr),
        listxattr: Some(xattr::list::<T>),
        get_inode_acl: Some(xattr::get_inode_acl::<T>),
        ..pin_init::zeroed()
    };

    const LINK: bindings::inode_operations = bindings::inode_operations {
        get_link: Some(bindings::simple_get_link),
        getattr: Some(Self::getattr),
        listxattr: Some(xattr::list::<T>),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// Only for the VFS, by its rules for `getattr`.
    unsafe extern "C" fn getattr(
        idmap: *mut bindings::mnt_idmap,
        path: *const bindings::path,
        stat: *mut bindings::kstat,
        request_mask: u32,
        _flags: c_uint,
    ) -> c_int {
        // SAFETY: the VFS gives the path of a positive dentry and an answer to fill in.
        let (inode, stat) = unsafe { ((*(*path).dentry).d_inode, &mut *stat) };
        stat.attributes |= u64::from(bindings::STATX_ATTR_IMMUTABLE);
        stat.attributes_mask |= u64::from(bindings::STATX_ATTR_IMMUTABLE);
        // Answered with zeros, for regular files: there is no direct I/O.
        // SAFETY: the type of an inode never changes.
        if u32::from(unsafe { (*inode).i_mode }) & bindings::S_IFMT == bindings::S_IFREG {
            stat.result_mask |= request_mask & bindings::STATX_DIOALIGN;
        }
        // SAFETY: all of them are valid; the owners go through the mount's mapping.
        unsafe { bindings::generic_fillattr(idmap, request_mask, inode, stat) };
        0
    }

    /// # Safety
    ///
    /// Only for the VFS, by its rules for `lookup`.
    unsafe extern "C" fn lookup(
        directory: *mut bindings::inode,
        dentry: *mut bindings::dentry,
        _flags: c_uint,
    ) -> *mut bindings::dentry {
        // SAFETY: the VFS gives an initialised directory of `T`, locked at least shared.
        let directory = unsafe { Inode::<T>::from_raw(directory) };
        // SAFETY: the name of a dentry that is being looked up does not change.
        let name = unsafe {
            let name = &(*dentry).__bindgen_anon_1.d_name;
            core::slice::from_raw_parts(
                name.name,
                name.__bindgen_anon_1.__bindgen_anon_1.len as usize,
            )
        };
        match T::lookup(directory, name) {
            Ok(inode) => {
                let inode = inode.map_or(ptr::null_mut(), |inode| {
                    ARef::into_raw(inode).as_ptr().cast()
                });
                // SAFETY: this hands the reference to the inode over.
                unsafe { bindings::d_splice_alias(inode, dentry) }
            }
            Err(error) => error.to_ptr(),
        }
    }
}
