// SPDX-License-Identifier: GPL-2.0

//! What a filesystem implements, and its registration.
//!
//! Locking: registering and its end take the kernel's lock of the list of filesystems. The methods are
//! called with what the files say that call them: `fs_context`, `super_block`, `dentry`, `dir`, `folio`.

use kernel::error::to_result;
use kernel::ffi::c_int;
use kernel::prelude::*;
use kernel::str::CStr;
use kernel::types::Opaque;

use super::address_space::AddressSpaceOperations;
use super::dir::DirectoryOperations;
use super::export::ExportOperations;
use super::file::FileOperations;
use super::fs_context::{self, ContextOperations};
use super::inode_cache::InodeCache;
use super::pages::Pages;
use super::super_block::{self, SuperOperations};
use super::xattr::XattrOperations;
use crate::rust::bindings;

/// Users without privileges may mount it, in a user namespace of theirs ([`FileSystemType::FLAGS`]).
pub(crate) const FS_USERNS_MOUNT: u32 = bindings::FS_USERNS_MOUNT;
/// A mount of it may map owners ([`FileSystemType::FLAGS`]).
pub(crate) const FS_ALLOW_IDMAP: u32 = bindings::FS_ALLOW_IDMAP;

/// A filesystem type.
pub(crate) trait FileSystemType: Sized + Send + Sync + 'static {
    /// The name that mount(2) knows.
    const NAME: &'static CStr;
    /// `f_type` of statfs(2).
    const MAGIC: u32;
    /// `FS_*`: what may be done with it.
    const FLAGS: u32;

    /// What all mounts share.
    type Shared: Send + Sync;
    /// What is collected from the mount options.
    type Options: Default + Send;
    /// What belongs to a superblock; dropped after all of its inodes.
    type SuperData: Send + Sync;
    /// What belongs to an inode; dropped when the inode is evicted, in a context that may sleep.
    type InodeData: Send + Sync;
}

/// A read-only filesystem. All methods may sleep, and may be called by many tasks at once.
pub(crate) trait FileSystem:
    ContextOperations
    + SuperOperations
    + ExportOperations
    + DirectoryOperations
    + FileOperations
    + AddressSpaceOperations
    + XattrOperations
{
}

impl<T> FileSystem for T where
    T: ContextOperations
        + SuperOperations
        + ExportOperations
        + DirectoryOperations
        + FileOperations
        + AddressSpaceOperations
        + XattrOperations
{
}

/// A registered filesystem.
///
/// # Invariants
///
/// `fs_type` is registered, and `cache` is that of its inodes.
#[pin_data(PinnedDrop)]
pub(crate) struct Registration<T: FileSystem> {
    #[pin]
    fs_type: Opaque<bindings::file_system_type>,
    // All of it goes after the filesystem is unregistered, hence after the last superblock. First what mounts share:
    // with it ends the work that still has pages. Then the pages, and last the cache, since it waits for what is
    // freed by RCU.
    shared: T::Shared,
    #[pin]
    pages: Pages<T>,
    cache: InodeCache<T>,
}

// SAFETY: unregistering may be done by any task.
unsafe impl<T: FileSystem> Send for Registration<T> {}
// SAFETY: there is nothing to do with a shared registration.
unsafe impl<T: FileSystem> Sync for Registration<T> {}

impl<T: FileSystem> Registration<T> {
    /// Registers the filesystem.
    pub(crate) fn new(module: &'static ThisModule, shared: T::Shared) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            cache: InodeCache::new()?,
            pages <- Pages::new(),
            fs_type <- Opaque::try_ffi_init(|slot: *mut bindings::file_system_type| {
                // SAFETY: `slot` is valid for writes, and all zeros is a valid value.
                unsafe { slot.write_bytes(0, 1) };
                // SAFETY: `slot` was just initialised, and nobody else has it yet.
                let fs_type = unsafe { &mut *slot };
                fs_type.name = kernel::str::CStrExt::as_char_ptr(T::NAME);
                fs_type.owner = module.as_ptr();
                fs_type.fs_flags = T::FLAGS as c_int;
                fs_type.init_fs_context = Some(fs_context::init_fs_context::<T>);
                fs_type.kill_sb = Some(super_block::kill_sb::<T>);
                // SAFETY: `slot` is pinned until it is unregistered in `drop`.
                to_result(unsafe { bindings::register_filesystem(slot) })
            }),
            shared,
        })
    }

    /// The registration of a filesystem type.
    ///
    /// # Safety
    ///
    /// `fs_type` must be the one of a registration of `T`, which stays registered for `'a`.
    pub(super) unsafe fn of<'a>(fs_type: *mut bindings::file_system_type) -> &'a Self {
        let registration: *const Self =
            // SAFETY: by the requirements it lies in a registration.
            unsafe { kernel::container_of!(Opaque::cast_from(fs_type), Self, fs_type) };
        // SAFETY: as above.
        unsafe { &*registration }
    }

    /// What all mounts of the filesystem type share.
    pub(super) fn shared(&self) -> &T::Shared {
        &self.shared
    }

    /// Where its inodes are allocated.
    pub(super) fn inode_cache(&self) -> &InodeCache<T> {
        &self.cache
    }

    /// The address spaces of its inodes.
    pub(super) fn pages(&self) -> &Pages<T> {
        &self.pages
    }
}

#[pinned_drop]
impl<T: FileSystem> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: by the invariant it is registered. The module's reference count is zero, so there
        // is no superblock any more.
        unsafe { bindings::unregister_filesystem(self.fs_type.get()) };
    }
}
