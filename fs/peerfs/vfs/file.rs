// SPDX-License-Identifier: GPL-2.0

//! `struct file_operations` of regular files.
//!
//! Locking: none; a file is opened before anybody else has it.

use core::marker::PhantomData;

use kernel::error::from_result;
use kernel::ffi::c_int;
use kernel::prelude::*;

use super::{FileSystem, Inode, Registration};
use crate::bindings;

/// The file operations of regular files.
pub(super) fn operations<T: FileSystem>() -> &'static bindings::file_operations {
    &Operations::<T>::TABLE
}

struct Operations<T>(PhantomData<T>);

const SEEK_DATA: c_int = bindings::SEEK_DATA as c_int;
const SEEK_HOLE: c_int = bindings::SEEK_HOLE as c_int;

/// What `generic_file_read_iter` does for files that cannot be opened for direct I/O.
///
/// # Safety
///
/// Only for the VFS, by its rules for `read_iter`.
unsafe extern "C" fn read_iter(
    request: *mut bindings::kiocb,
    to: *mut bindings::iov_iter,
) -> isize {
    // SAFETY: the VFS gives a valid request and iterator.
    unsafe { bindings::filemap_read(request, to, 0) }
}

impl<T: FileSystem> Operations<T> {
    const TABLE: bindings::file_operations = bindings::file_operations {
        llseek: Some(Self::llseek),
        read_iter: Some(read_iter),
        mmap_prepare: Some(bindings::generic_file_readonly_mmap_prepare),
        // So that large folios of large programs can be mapped as huge pages.
        get_unmapped_area: Some(bindings::peerfs_thp_get_unmapped_area),
        open: Some(Self::open),
        splice_read: Some(bindings::filemap_splice_read),
        setlease: Some(bindings::generic_setlease),
        fsync: Some(bindings::noop_fsync),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// Only for the VFS, by its rules for `open`.
    unsafe extern "C" fn open(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        from_result(|| {
            // SAFETY: the VFS gives an initialised regular file of `T`.
            let inode = unsafe { Inode::<T>::from_raw(inode) };
            T::open(inode)?;
            // SAFETY: the superblock's type is the one of a registration, which stays while there is a
            // superblock; and `file` is being opened.
            unsafe {
                let fs_type = (*(*inode.as_ptr()).i_sb).s_type;
                Registration::<T>::of(fs_type)
                    .shared_mappings()
                    .share(inode, file)?;
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only for the VFS, by its rules for `llseek`.
    unsafe extern "C" fn llseek(
        file: *mut bindings::file,
        offset: bindings::loff_t,
        whence: c_int,
    ) -> bindings::loff_t {
        if whence != SEEK_DATA && whence != SEEK_HOLE {
            // SAFETY: the VFS gives a valid file.
            return unsafe { bindings::generic_file_llseek(file, offset, whence) };
        }
        // SAFETY: as above; the file is one of an initialised regular file of `T`.
        let inode = unsafe { Inode::<T>::from_raw((*file).f_inode) };
        let found = match u64::try_from(offset) {
            Ok(offset) if offset < inode.size() => match whence {
                SEEK_DATA => T::seek_data(inode, offset).and_then(|found| found.ok_or(ENXIO)),
                _ => T::seek_hole(inode, offset),
            },
            _ => Err(ENXIO),
        };
        match found.and_then(|found| Ok(bindings::loff_t::try_from(found)?)) {
            // SAFETY: the file is valid.
            Ok(found) => unsafe { bindings::vfs_setpos(file, found, i64::MAX) },
            Err(error) => bindings::loff_t::from(error.to_errno()),
        }
    }
}
