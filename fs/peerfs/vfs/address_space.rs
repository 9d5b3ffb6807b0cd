// SPDX-License-Identifier: GPL-2.0

//! `struct address_space`.
//!
//! Locking: the folios that are to be filled are locked; see `folio`.

use core::marker::PhantomData;
use core::ptr::NonNull;

use kernel::error::from_result;
use kernel::ffi::c_int;

use super::{FileSystem, FolioBytes, Inode, Readahead};
use crate::bindings;

/// Gives a new inode's address space its operations.
///
/// # Safety
///
/// `mapping` must be that of a new inode of `T`.
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

    /// # Safety
    ///
    /// Only for the VFS, by its rules for `read_folio`.
    unsafe extern "C" fn read_folio(
        _file: *mut bindings::file,
        folio: *mut bindings::folio,
    ) -> c_int {
        from_result(|| {
            // SAFETY: the VFS gives a locked folio of an inode of `T`, whose mapping stays while it
            // is locked.
            let inode = unsafe {
                let mapping = (*folio).__bindgen_anon_1.__bindgen_anon_1.mapping;
                Inode::<T>::from_raw((*mapping).host)
            };
            // SAFETY: the lock is handed over to us.
            let bytes = unsafe { FolioBytes::of_folio(NonNull::new_unchecked(folio)) }?;
            T::read_folio(inode, bytes)?;
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only for the VFS, by its rules for `readahead`.
    unsafe extern "C" fn readahead(control: *mut bindings::readahead_control) {
        // SAFETY: the VFS gives a valid control for an inode of `T`.
        let (inode, control) = unsafe {
            (
                Inode::<T>::from_raw((*(*control).mapping).host),
                &mut *control,
            )
        };
        // SAFETY: as above.
        T::readahead(inode, unsafe { Readahead::from_raw(control) });
    }
}
