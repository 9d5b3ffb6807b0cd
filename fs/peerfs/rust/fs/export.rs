// SPDX-License-Identifier: GPL-2.0

//! `struct export_operations`: file handles, for NFS, open_by_handle_at(2) and overlayfs.
//!
//! A handle is three words, the inode's number, low word first, and its generation; and three more
//! for the directory that it was found in, if that is wanted. It stays good as long as there is the
//! filesystem that made it, also over unmounting and reboots.
//!
//! Locking: none of its own. The VFS calls with a reference to the superblock; inodes and dentries
//! are found and connected under the locks of their caches.

use core::marker::PhantomData;
use core::ptr;

use kernel::ffi::c_int;
use kernel::prelude::*;
use kernel::sync::aref::ARef;

use super::{FileSystem, FileSystemType, Inode, SuperBlock};
use crate::rust::bindings;

/// What is done with file handles.
pub(crate) trait ExportOperations: FileSystemType {
    /// The inode that a file handle names; ESTALE if there is none of this number.
    fn inode_of_handle(super_block: &SuperBlock<Self>, number: u64) -> Result<ARef<Inode<Self>>>;

    /// The directory that a directory is in; the root's is the root.
    fn parent(directory: &Inode<Self>) -> Result<ARef<Inode<Self>>>;
}

const INODE: c_int = bindings::fid_type_FILEID_INO64_GEN as c_int;
const INODE_AND_PARENT: c_int = bindings::fid_type_FILEID_INO64_GEN_PARENT as c_int;
/// The handle needs more room.
const INVALID: c_int = bindings::fid_type_FILEID_INVALID as c_int;

/// The export operations of `T`.
pub(super) fn operations<T: FileSystem>() -> *const kernel::bindings::export_operations {
    // The kernel crate knows the structure only by its name.
    (&raw const *Operations::<T>::TABLE).cast()
}

/// The part of a handle that names one inode.
#[derive(Clone, Copy)]
struct Handle {
    number: u64,
    generation: u32,
}

impl Handle {
    const WORDS: usize = 3;

    fn of<T: FileSystem>(inode: &Inode<T>) -> Self {
        Handle {
            number: inode.number(),
            generation: inode.generation(),
        }
    }

    fn words(self) -> [u32; Self::WORDS] {
        [
            self.number as u32,
            (self.number >> 32) as u32,
            self.generation,
        ]
    }

    fn from_words([low, high, generation]: [u32; Self::WORDS]) -> Self {
        Handle {
            number: u64::from(high) << 32 | u64::from(low),
            generation,
        }
    }
}

struct Operations<T>(PhantomData<T>);

impl<T: FileSystem> Operations<T> {
    const TABLE: &'static bindings::export_operations = &bindings::export_operations {
        encode_fh: Some(Self::encode_fh),
        fh_to_dentry: Some(Self::fh_to_dentry),
        fh_to_parent: Some(Self::fh_to_parent),
        get_parent: Some(Self::get_parent),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// Only for the VFS, by its rules for `encode_fh`.
    unsafe extern "C" fn encode_fh(
        inode: *mut bindings::inode,
        handle: *mut u32,
        length: *mut c_int,
        parent: *mut bindings::inode,
    ) -> c_int {
        let (needed, kind) = if parent.is_null() {
            (Handle::WORDS, INODE)
        } else {
            (2 * Handle::WORDS, INODE_AND_PARENT)
        };
        // SAFETY: the VFS gives the number of words that there is room for.
        let room = unsafe { length.replace(needed as c_int) };
        if usize::try_from(room).is_ok_and(|room| room < needed) {
            return INVALID;
        }
        // SAFETY: the VFS gives an initialised inode of `T`.
        let words = Handle::of(unsafe { Inode::<T>::from_raw(inode) }).words();
        // SAFETY: there is room for the words; nothing is said about their alignment.
        unsafe { handle.cast::<[u32; Handle::WORDS]>().write_unaligned(words) };
        if !parent.is_null() {
            // SAFETY: as above.
            let words = Handle::of(unsafe { Inode::<T>::from_raw(parent) }).words();
            // SAFETY: as above, behind the first ones.
            unsafe {
                let place = handle.add(Handle::WORDS);
                place.cast::<[u32; Handle::WORDS]>().write_unaligned(words);
            }
        }
        kind
    }

    /// # Safety
    ///
    /// Only for the VFS, by its rules for `fh_to_dentry`.
    unsafe extern "C" fn fh_to_dentry(
        super_block: *mut bindings::super_block,
        handle: *mut bindings::fid,
        length: c_int,
        kind: c_int,
    ) -> *mut bindings::dentry {
        if kind != INODE && kind != INODE_AND_PARENT {
            return ptr::null_mut();
        }
        // SAFETY: the VFS gives a superblock of `T` and a handle of this length.
        unsafe { Self::dentry(super_block, handle.cast(), length, 0) }
    }

    /// # Safety
    ///
    /// Only for the VFS, by its rules for `fh_to_parent`.
    unsafe extern "C" fn fh_to_parent(
        super_block: *mut bindings::super_block,
        handle: *mut bindings::fid,
        length: c_int,
        kind: c_int,
    ) -> *mut bindings::dentry {
        if kind != INODE_AND_PARENT {
            return ptr::null_mut();
        }
        // SAFETY: as above.
        unsafe { Self::dentry(super_block, handle.cast(), length, Handle::WORDS) }
    }

    /// # Safety
    ///
    /// Only for the VFS, by its rules for `get_parent`.
    unsafe extern "C" fn get_parent(child: *mut bindings::dentry) -> *mut bindings::dentry {
        // SAFETY: the VFS gives a positive dentry of a directory of `T`.
        let directory = unsafe { Inode::<T>::from_raw((*child).d_inode) };
        dentry_of(T::parent(directory))
    }

    /// A dentry of the inode that is named from word `first` of the handle on; null if there are too
    /// few words.
    ///
    /// # Safety
    ///
    /// `super_block` must be one of `T`, and `words` have `length` words.
    unsafe fn dentry(
        super_block: *mut bindings::super_block,
        words: *const u32,
        length: c_int,
        first: usize,
    ) -> *mut bindings::dentry {
        let needed = first + Handle::WORDS;
        if !usize::try_from(length).is_ok_and(|length| length >= needed) {
            return ptr::null_mut();
        }
        // SAFETY: the handle is long enough; user space may have put it anywhere.
        let words = unsafe {
            words
                .add(first)
                .cast::<[u32; Handle::WORDS]>()
                .read_unaligned()
        };
        let handle = Handle::from_words(words);
        // SAFETY: by the requirements.
        let super_block = unsafe { SuperBlock::<T>::from_raw(super_block) };
        let inode = T::inode_of_handle(super_block, handle.number);
        dentry_of(inode.and_then(|inode| {
            if inode.generation() == handle.generation {
                Ok(inode)
            } else {
                Err(ESTALE)
            }
        }))
    }
}

/// A dentry of the inode, connected to the root or not.
fn dentry_of<T: FileSystem>(inode: Result<ARef<Inode<T>>>) -> *mut bindings::dentry {
    match inode {
        // SAFETY: this hands the reference to the inode over.
        Ok(inode) => unsafe { bindings::d_obtain_alias(ARef::into_raw(inode).as_ptr().cast()) },
        Err(error) => error.to_ptr(),
    }
}
