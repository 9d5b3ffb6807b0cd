// SPDX-License-Identifier: GPL-2.0

//! `struct file_operations` of regular files.
//!
//! A stacked read, by another filesystem that is filling its pages or by a thread of the kernel for a device,
//! goes through a second file, whose pages are shared with nobody (see `pages`).
//!
//! Locking: none; a file is opened before anybody else has it. The second file is set once, atomically.

use core::marker::PhantomData;
use core::ptr;

use kernel::error::{from_err_ptr, from_result};
use kernel::ffi::{c_int, c_uint, c_void};
use kernel::prelude::*;
use kernel::sync::atomic::{Acquire, Atomic, Full};

use super::pages::Pages;
use super::{ContentId, FileSystem, FileSystemType, Inode, Registration};
use crate::rust::bindings;
use crate::rust::mm::NoFsScope;

/// What is done with open regular files.
pub(crate) trait FileOperations: FileSystemType {
    /// A regular file is being opened.
    fn open(inode: &Inode<Self>) -> Result;

    /// What a regular file holds, asked when it is opened, until there is an answer. The file shares its
    /// pages with all files that have the same id, in superblocks of the same user namespace.
    fn content_id(inode: &Inode<Self>) -> Result<Option<ContentId>>;

    /// The first offset at or after `offset`, which is below the file's size, that is data
    /// (lseek(2) with SEEK_DATA), or `None` if there is only a hole up to the end.
    fn seek_data(inode: &Inode<Self>, offset: u64) -> Result<Option<u64>>;

    /// The first offset at or after `offset`, which is below the file's size, that is a hole
    /// (SEEK_HOLE); the end of the file counts as one.
    fn seek_hole(inode: &Inode<Self>, offset: u64) -> Result<u64>;
}

/// The file operations of regular files.
pub(super) fn operations<T: FileSystem>() -> &'static bindings::file_operations {
    &Operations::<T>::TABLE
}

struct Operations<T>(PhantomData<T>);

const SEEK_DATA: c_int = bindings::SEEK_DATA as c_int;
const SEEK_HOLE: c_int = bindings::SEEK_HOLE as c_int;

impl<T: FileSystem> Operations<T> {
    const TABLE: bindings::file_operations = bindings::file_operations {
        llseek: Some(Self::llseek),
        read_iter: Some(Self::read_iter),
        mmap_prepare: Some(bindings::generic_file_readonly_mmap_prepare),
        // So that large folios of large programs can be mapped as huge pages.
        get_unmapped_area: Some(bindings::peerfs_thp_get_unmapped_area),
        open: Some(Self::open),
        release: Some(Self::release),
        splice_read: Some(Self::splice_read),
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
            // What `T` does walks paths. Who opens in this scope, as `stacked` does, holds locks, of folios for example,
            // for which tasks may be waiting who hold those of directories. Once was enough for this inode.
            if !(NoFsScope::is_open() && Pages::was_opened(inode)) {
                T::open(inode)?;
            }
            // SAFETY: `file` is being opened.
            unsafe { Self::pages(inode).open(inode, file)? };
            Ok(0)
        })
    }

    fn pages(inode: &Inode<T>) -> &Pages<T> {
        // SAFETY: the superblock's type is the one of a registration, which stays while there is a superblock.
        unsafe { Registration::<T>::of((*(*inode.as_ptr()).i_sb).s_type) }.pages()
    }

    /// # Safety
    ///
    /// Only for the VFS, by its rules for `release`.
    unsafe extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: the VFS gives an open file that nobody uses any more.
        let stacked = unsafe { (*file).private_data };
        if !stacked.is_null() {
            // SAFETY: `stacked` put it there, with the reference.
            unsafe { bindings::fput(stacked.cast()) };
        }
        0
    }

    /// The file that a stacked read of this one goes through.
    ///
    /// # Safety
    ///
    /// `file` must be an open regular file of `T`.
    #[cold]
    unsafe fn stacked(file: *mut bindings::file) -> Result<*mut bindings::file> {
        // SAFETY: by the requirements.
        let (inode, place) = unsafe {
            (
                Inode::<T>::from_raw((*file).f_inode),
                Atomic::from_ptr(&raw mut (*file).private_data),
            )
        };
        let found = place.load(Acquire);
        if !found.is_null() {
            return Ok(found.cast());
        }
        let _scope = NoFsScope::new();
        let Some(mapping) = Self::pages(inode).stacked(inode)? else {
            return Ok(file);
        };
        // SAFETY: path and credentials are those of an open file. Nobody else has the new file yet.
        let new = unsafe {
            let new = from_err_ptr(bindings::dentry_open(
                &(*file).__bindgen_anon_1.f_path,
                bindings::PEERFS_O_RDONLY,
                (*file).f_cred,
            ))?;
            (*new).f_mapping = mapping;
            new
        };
        let null = ptr::null_mut::<c_void>();
        match place.cmpxchg(null, new.cast(), Full) {
            Ok(_) => Ok(new),
            Err(first) => {
                // SAFETY: the reference is ours.
                unsafe { bindings::fput(new) };
                Ok(first.cast())
            }
        }
    }

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
        if !unsafe { bindings::peerfs_is_stacked_read() } {
            // SAFETY: as above.
            return unsafe { bindings::filemap_read(request, to, 0) };
        }
        // SAFETY: as above.
        match unsafe { Self::stacked((*request).ki_filp) } {
            // SAFETY: as above. The read is over, or has failed, when the call returns: nobody else sees the copy.
            Ok(file) => unsafe {
                let mut copy = *request;
                copy.ki_filp = file;
                let count = bindings::filemap_read(&mut copy, to, 0);
                (*request).ki_pos = copy.ki_pos;
                count
            },
            Err(error) => error.to_errno() as isize,
        }
    }

    /// # Safety
    ///
    /// Only for the VFS, by its rules for `splice_read`.
    unsafe extern "C" fn splice_read(
        file: *mut bindings::file,
        position: *mut bindings::loff_t,
        pipe: *mut bindings::pipe_inode_info,
        length: usize,
        flags: c_uint,
    ) -> isize {
        // SAFETY: the VFS gives valid pointers, here and below.
        let file = match unsafe { bindings::peerfs_is_stacked_read() } {
            // SAFETY: as above.
            true => unsafe { Self::stacked(file) },
            false => Ok(file),
        };
        match file {
            // SAFETY: as above.
            Ok(file) => unsafe {
                bindings::filemap_splice_read(file, position, pipe, length, flags)
            },
            Err(error) => error.to_errno() as isize,
        }
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
