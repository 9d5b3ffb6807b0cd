// SPDX-License-Identifier: GPL-2.0

//! The slab cache of a filesystem's inodes, each with the filesystem's data behind it.
//!
//! Lifetime of an inode's parts: `data` is set once before the inode is visible, and dropped in
//! `destroy_inode`, when nobody has a reference; with it the references to the inodes that have its pages. The target of a symbolic link may still be read by
//! a path walk under RCU then, so it is freed with the inode in `free_inode`, after a grace period.
//!
//! Locking: none; `alloc_inode` may sleep, and so may `destroy_inode`; `free_inode` is called back by RCU
//! and must not. An inode's parts are set while nobody else has it.

use core::marker::PhantomData;
use core::ptr::NonNull;

use kernel::ffi::c_uint;
use kernel::prelude::*;
use kernel::str::{CStrExt, CString};
use kernel::sync::atomic::{Acquire, Atomic, Full};

use super::{FileSystem, Registration};
use crate::rust::bindings;

/// An inode and what belongs to it.
#[repr(C)]
pub(super) struct InodeAndData<D> {
    /// First, so that the constructor of the cache finds it.
    pub(super) inode: bindings::inode,
    /// `None` until the inode is initialised.
    pub(super) data: Option<D>,
    /// The target of a symbolic link.
    pub(super) link: Option<CString>,
    /// The inode whose address space a regular file uses.
    pub(super) pages: PagesInode,
    /// The one that stacked reads use instead, if that one's is shared.
    pub(super) stacked_pages: PagesInode,
}

/// A reference to an inode that has pages of regular files (see `pages`), or none. Set at most once.
pub(super) struct PagesInode(Atomic<*mut bindings::inode>);

impl PagesInode {
    fn none() -> Self {
        PagesInode(Atomic::new(core::ptr::null_mut()))
    }

    /// The inode, or null.
    pub(super) fn get(&self) -> *mut bindings::inode {
        self.0.load(Acquire)
    }

    /// Takes over a reference, or gives it up if another task was first; returns the inode that it is.
    pub(super) fn set_or_put(&self, inode: NonNull<bindings::inode>) -> *mut bindings::inode {
        let null = core::ptr::null_mut();
        let inode = inode.as_ptr();
        match self.0.cmpxchg(null, inode, Full) {
            Ok(_) => inode,
            Err(first) => {
                // SAFETY: the caller gave us the reference.
                unsafe { bindings::iput(inode) };
                first
            }
        }
    }
}

impl Drop for PagesInode {
    fn drop(&mut self) {
        let inode = *self.0.get_mut();
        if !inode.is_null() {
            // SAFETY: the reference is ours.
            unsafe { bindings::iput(inode) };
        }
    }
}

/// The cache of the inodes of `T`. There is one a filesystem type.
pub(super) struct InodeCache<T: FileSystem> {
    cache: *mut bindings::kmem_cache,
    _filesystem: PhantomData<T>,
}

impl<T: FileSystem> InodeCache<T> {
    pub(super) fn new() -> Result<Self> {
        let size = c_uint::try_from(core::mem::size_of::<InodeAndData<T::InodeData>>())?;
        let align = c_uint::try_from(core::mem::align_of::<InodeAndData<T::InodeData>>())?;
        // SAFETY: the name is a static string.
        let cache =
            unsafe { bindings::peerfs_inode_cache_create(T::NAME.as_char_ptr(), size, align) };
        if cache.is_null() {
            return Err(ENOMEM);
        }
        Ok(InodeCache {
            cache,
            _filesystem: PhantomData,
        })
    }

    /// # Safety
    ///
    /// Only for the VFS, by its rules for `alloc_inode`.
    pub(super) unsafe extern "C" fn alloc_inode(
        super_block: *mut bindings::super_block,
    ) -> *mut bindings::inode {
        // SAFETY: the superblock's type is the one of a registration, which stays while there is a superblock, and
        // with it the cache.
        let inode = unsafe {
            let registration = Registration::<T>::of((*super_block).s_type);
            let cache = registration.inode_cache().cache;
            bindings::peerfs_alloc_inode_sb(super_block, cache, bindings::GFP_KERNEL)
        };
        if inode.is_null() {
            return inode;
        }
        let whole: *mut InodeAndData<T::InodeData> = inode.cast();
        // SAFETY: the object has room for the whole; its inode was initialised by the constructor,
        // the rest never was or was dropped.
        unsafe {
            (&raw mut (*whole).data).write(None);
            (&raw mut (*whole).link).write(None);
            (&raw mut (*whole).pages).write(PagesInode::none());
            (&raw mut (*whole).stacked_pages).write(PagesInode::none());
        }
        inode
    }

    /// # Safety
    ///
    /// Only for the VFS, by its rules for `destroy_inode`.
    pub(super) unsafe extern "C" fn destroy_inode(inode: *mut bindings::inode) {
        let whole: *mut InodeAndData<T::InodeData> = inode.cast();
        // SAFETY: `alloc_inode` made it, and nobody has a reference any more.
        unsafe {
            (*whole).data = None;
            (*whole).pages = PagesInode::none();
            (*whole).stacked_pages = PagesInode::none();
        }
    }

    /// # Safety
    ///
    /// Only for the VFS, by its rules for `free_inode`.
    pub(super) unsafe extern "C" fn free_inode(inode: *mut bindings::inode) {
        let whole: *mut InodeAndData<T::InodeData> = inode.cast();
        // SAFETY: `alloc_inode` made it, and a grace period has passed. The superblock may be gone, by which the cache
        // would be found; this finds it by the object.
        unsafe {
            (*whole).link = None;
            bindings::kfree(inode.cast());
        }
    }
}

impl<T: FileSystem> Drop for InodeCache<T> {
    fn drop(&mut self) {
        // SAFETY: no superblock is left; this waits for the inodes that are freed by RCU.
        unsafe {
            bindings::rcu_barrier();
            bindings::kmem_cache_destroy(self.cache);
        }
    }
}
