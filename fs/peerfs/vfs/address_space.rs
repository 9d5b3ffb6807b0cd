// SPDX-License-Identifier: GPL-2.0

//! `struct address_space`.
//!
//! Locking: the folios that are to be filled are locked; see `folio`.

use core::marker::PhantomData;
use core::ptr::NonNull;

use kernel::error::from_result;
use kernel::ffi::c_int;
use kernel::prelude::*;

use super::{FileSystem, FolioBytes, Inode, Readahead};
use crate::bindings;

/// Gives a new inode's address space its operations. A `SHARED` one is used by files of inodes of `T`
/// only, and its host is none.
///
/// # Safety
///
/// `mapping` must be that of a new inode, of `T` unless it is shared.
pub(super) unsafe fn attach<T: FileSystem, const SHARED: bool>(
    mapping: &mut bindings::address_space,
) {
    mapping.a_ops = &Operations::<T, SHARED>::TABLE;
    // SAFETY: nobody else has the mapping yet.
    unsafe { bindings::peerfs_mapping_set_large_folios(mapping) };
}

struct Operations<T, const SHARED: bool>(PhantomData<T>);

impl<T: FileSystem, const SHARED: bool> Operations<T, SHARED> {
    const TABLE: bindings::address_space_operations = bindings::address_space_operations {
        read_folio: Some(Self::read_folio),
        readahead: Some(Self::readahead),
        ..pin_init::zeroed()
    };

    /// The inode that folios are filled from; `None` if nobody says through which file they are read.
    ///
    /// # Safety
    ///
    /// `mapping` must be one that was attached like this, and `file` null or a file that uses it. Both
    /// must be valid for `'a`.
    unsafe fn inode<'a>(
        file: *mut bindings::file,
        mapping: *mut bindings::address_space,
    ) -> Option<&'a Inode<T>> {
        if !SHARED {
            // SAFETY: by the requirements the host is an inode of `T`.
            return Some(unsafe { Inode::from_raw((*mapping).host) });
        }
        if file.is_null() {
            return None;
        }
        // SAFETY: only `open` of `T`'s files has given them this mapping.
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
            // SAFETY: the VFS gives a locked folio, whose mapping stays while it is locked, and the
            // lock is handed over to us.
            let (inode, bytes) = unsafe {
                let mapping = (*folio).__bindgen_anon_1.__bindgen_anon_1.mapping;
                (
                    Self::inode(file, mapping),
                    FolioBytes::of_folio(NonNull::new_unchecked(folio))?,
                )
            };
            T::read_folio(inode.ok_or(EIO)?, bytes)?;
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only for the VFS, by its rules for `readahead`.
    unsafe extern "C" fn readahead(control: *mut bindings::readahead_control) {
        // SAFETY: the VFS gives a valid control.
        let (inode, control) = unsafe {
            let control = &mut *control;
            (Self::inode(control.file, control.mapping), control)
        };
        if let Some(inode) = inode {
            // SAFETY: as above.
            T::readahead(inode, unsafe { Readahead::from_raw(control) });
        }
    }
}
