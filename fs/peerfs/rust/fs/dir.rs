// SPDX-License-Identifier: GPL-2.0

//! `struct dir_context`: reading directories.
//!
//! Locking: the VFS reads a directory with its `i_rwsem` held, at least shared, and with `f_pos_lock`: a
//! context's position is its caller's alone. Both may be held while waiting for a daemon; a killed reader
//! gives them back.

use core::marker::PhantomData;

use kernel::error::from_result;
use kernel::ffi::{c_int, c_uint};
use kernel::prelude::*;
use kernel::sync::aref::ARef;

use super::{FileSystem, FileSystemType, Inode};
use crate::rust::bindings;

/// What is done with directories.
pub(crate) trait DirectoryOperations: FileSystemType {
    /// Looks up a name in a directory.
    fn lookup(directory: &Inode<Self>, name: &[u8]) -> Result<Option<ARef<Inode<Self>>>>;

    /// Emits the entries of a directory from the emitter's position on, until it is full.
    fn read_directory(directory: &Inode<Self>, emitter: &mut DirEmitter<'_>) -> Result;
}

/// Where the entries of a directory go. `.` and `..` have been emitted already.
pub(crate) struct DirEmitter<'a> {
    context: &'a mut bindings::dir_context,
}

/// The positions of `.` and `..`.
const DOTS: i64 = 2;

impl DirEmitter<'_> {
    /// The number of the entry to emit next, counted from 0 after `.` and `..`.
    pub(crate) fn position(&self) -> u64 {
        u64::try_from(self.context.pos.saturating_sub(DOTS)).unwrap_or(0)
    }

    /// Emits the entry at the position and moves on; `false` if there was no room for it.
    pub(crate) fn emit(&mut self, name: &[u8], inode: u64, d_type: u8) -> bool {
        let Ok(length) = c_int::try_from(name.len()) else {
            return false;
        };
        // SAFETY: the context is valid, and the name has this length.
        let taken = unsafe {
            bindings::peerfs_dir_emit(
                self.context,
                name.as_ptr().cast(),
                length,
                inode,
                c_uint::from(d_type),
            )
        };
        if taken {
            self.context.pos = self.context.pos.saturating_add(1);
        }
        taken
    }
}

/// The file operations of directories.
pub(super) fn operations<T: FileSystem>() -> &'static bindings::file_operations {
    &Operations::<T>::TABLE
}

struct Operations<T>(PhantomData<T>);

impl<T: FileSystem> Operations<T> {
    const TABLE: bindings::file_operations = bindings::file_operations {
        llseek: Some(bindings::generic_file_llseek),
        read: Some(bindings::generic_read_dir),
        iterate_shared: Some(Self::iterate_shared),
        fsync: Some(bindings::noop_fsync),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// Only for the VFS, by its rules for `iterate_shared`.
    unsafe extern "C" fn iterate_shared(
        file: *mut bindings::file,
        context: *mut bindings::dir_context,
    ) -> c_int {
        from_result(|| {
            // SAFETY: the VFS gives a valid file and context.
            if !unsafe { bindings::peerfs_dir_emit_dots(file, context) } {
                return Ok(0);
            }
            // SAFETY: as above; the file is one of an initialised directory of `T`.
            let directory = unsafe { Inode::<T>::from_raw((*file).f_inode) };
            // SAFETY: as above.
            let context = unsafe { &mut *context };
            T::read_directory(directory, &mut DirEmitter { context })?;
            Ok(0)
        })
    }
}
