// SPDX-License-Identifier: GPL-2.0

//! `struct address_space` and its folios.
//!
//! Locking: a folio is filled while it is locked, and each one that is handed out is unlocked exactly
//! once: by [`LockedFolio::filled`], or unfilled when it is dropped.

use core::marker::PhantomData;
use core::mem::ManuallyDrop;

use kernel::error::from_result;
use kernel::ffi::c_int;
use kernel::prelude::*;

use super::{FileSystem, Inode};
use crate::bindings;

/// A locked folio that is to be filled.
pub(crate) struct LockedFolio<'a> {
    folio: *mut bindings::folio,
    _borrow: PhantomData<&'a ()>,
}

impl LockedFolio<'_> {
    /// Where the folio begins in the file.
    pub(crate) fn position(&self) -> u64 {
        // SAFETY: the folio is locked, so it stays where it is.
        let position = unsafe { bindings::peerfs_folio_pos(self.folio) };
        u64::try_from(position).unwrap_or(0)
    }

    /// Bytes of the folio.
    pub(crate) fn size(&self) -> usize {
        // SAFETY: as above.
        unsafe { bindings::peerfs_folio_size(self.folio) }
    }

    /// Copies `bytes` to `offset`; EINVAL if they do not fit.
    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) -> Result {
        self.check(offset, bytes.len())?;
        // SAFETY: the range was checked, and the folio is locked and not yet up to date, so that
        // nobody else reads or writes it.
        unsafe {
            bindings::peerfs_memcpy_to_folio(self.folio, offset, bytes.as_ptr().cast(), bytes.len())
        };
        Ok(())
    }

    /// Zeroes `length` bytes at `offset`; EINVAL if they are not in the folio.
    pub(crate) fn zero(&mut self, offset: usize, length: usize) -> Result {
        self.check(offset, length)?;
        // SAFETY: as in `write`.
        unsafe { bindings::peerfs_folio_zero_range(self.folio, offset, length) };
        Ok(())
    }

    /// Says that every byte was written, and unlocks the folio.
    pub(crate) fn filled(self) {
        let this = ManuallyDrop::new(self);
        // SAFETY: it is locked, and this is the only time that it is unlocked.
        unsafe { bindings::folio_end_read(this.folio, true) };
    }

    fn check(&self, offset: usize, length: usize) -> Result {
        match offset.checked_add(length) {
            Some(end) if end <= self.size() => Ok(()),
            _ => Err(EINVAL),
        }
    }
}

impl Drop for LockedFolio<'_> {
    fn drop(&mut self) {
        // SAFETY: it is locked, and this is the only time that it is unlocked.
        unsafe { bindings::folio_end_read(self.folio, false) };
    }
}

/// The folios of a readahead, in order.
pub(crate) struct Readahead<'a> {
    control: &'a mut bindings::readahead_control,
}

impl Readahead<'_> {
    /// The next folio. Those that are never asked for are dropped from the page cache.
    pub(crate) fn next_folio(&mut self) -> Option<LockedFolio<'_>> {
        // SAFETY: the control is valid.
        let folio = unsafe { bindings::peerfs_readahead_folio(self.control) };
        (!folio.is_null()).then(|| LockedFolio {
            folio,
            _borrow: PhantomData,
        })
    }
}

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
            let folio = LockedFolio {
                folio,
                _borrow: PhantomData,
            };
            T::read_folio(inode, folio)?;
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
        T::readahead(inode, &mut Readahead { control });
    }
}
