// SPDX-License-Identifier: GPL-2.0

//! `struct address_space`.
//!
//! Locking: the folios that are to be filled are locked; see `folio`. The VFS holds the mapping's
//! `invalidate_lock` shared, which nobody takes otherwise: nothing is ever truncated.

use core::marker::PhantomData;
use core::ops::Range;
use core::ptr::NonNull;

use kernel::error::from_result;
use kernel::ffi::c_int;
use kernel::prelude::*;

use super::{FileSystem, FileSystemType, Inode};
use crate::rust::bindings;
use crate::rust::mm::{NoFsScope, Readahead, WantedFolio};

/// Where the pages of regular files come from.
pub(crate) trait AddressSpaceOperations: FileSystemType {
    /// Bytes of a regular file, as many as the range has; those behind the end of the file are zeros.
    fn read(inode: &Inode<Self>, range: Range<u64>) -> Result<KVVec<u8>>;

    /// Fills, or starts filling, what it can of the folios of a readahead without waiting for anything
    /// slow; the others are read by [`AddressSpaceOperations::read`] when somebody needs them.
    fn readahead(inode: &Inode<Self>, readahead: Readahead<'_>);
}

/// Gives a new inode's address space its operations.
///
/// # Safety
///
/// `mapping` must be that of a new inode. Only files of inodes of `T` may use it.
pub(super) unsafe fn attach<T: FileSystem>(mapping: &mut bindings::address_space) {
    mapping.a_ops = &Operations::<T>::TABLE;
    // SAFETY: nobody else has the mapping yet.
    unsafe { bindings::peerfs_mapping_set_large_folios(mapping) };
}

struct Operations<T>(PhantomData<T>);

impl<T: FileSystem> Operations<T> {
    const TABLE: bindings::address_space_operations = bindings::address_space_operations {
        read_folio: Some(Self::read_folio),
        readahead: Some(Self::readahead),
        ..pin_init::zeroed()
    };

    /// The inode that folios are filled from; `None` if nobody says through which file they are read.
    ///
    /// # Safety
    ///
    /// `file` must be null, or a file of `T` that is valid for `'a`.
    unsafe fn inode<'a>(file: *mut bindings::file) -> Option<&'a Inode<T>> {
        if file.is_null() {
            return None;
        }
        // SAFETY: by the requirements.
        Some(unsafe { Inode::from_raw((*file).f_inode) })
    }

    /// # Safety
    ///
    /// Only for the VFS, by its rules for `read_folio`.
    unsafe extern "C" fn read_folio(
        file: *mut bindings::file,
        folio: *mut bindings::folio,
    ) -> c_int {
        from_result(|| {
            // SAFETY: the VFS gives a file that uses this mapping, which only `open` of `T` gives to files, and a
            // locked folio of it. It keeps both.
            let (inode, folio) = unsafe {
                (
                    Self::inode(file),
                    WantedFolio::unlock(NonNull::new_unchecked(folio)),
                )
            };
            let _scope = NoFsScope::new();
            let bytes = T::read(inode.ok_or(EIO)?, folio.range())?;
            match folio.fill_with(&bytes)? {
                true => Ok(0),
                // Whoever wants it looks for it again.
                false => Ok(bindings::positive_aop_returns_AOP_TRUNCATED_PAGE as c_int),
            }
        })
    }

    /// # Safety
    ///
    /// Only for the VFS, by its rules for `readahead`.
    unsafe extern "C" fn readahead(control: *mut bindings::readahead_control) {
        // SAFETY: the VFS gives a valid control; its file is as in `read_folio`.
        let (inode, control) = unsafe {
            let control = &mut *control;
            (Self::inode(control.file), control)
        };
        if let Some(inode) = inode {
            let _scope = NoFsScope::new();
            // SAFETY: as above.
            T::readahead(inode, unsafe { Readahead::from_raw(control) });
        }
    }
}
