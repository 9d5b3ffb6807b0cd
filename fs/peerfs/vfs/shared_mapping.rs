// SPDX-License-Identifier: GPL-2.0

//! Address spaces that inodes with the same content share, also across superblocks: reading the same
//! file in two images takes memory once.
//!
//! A shared address space is that of an inode of an internal filesystem without names, found by what
//! it holds ([`ContentId`]). The inode of a regular file refers to it from its first open to its
//! eviction (`i_mapping`), as block devices and Coda do. Its host has nothing to read from, so folios
//! are filled through the file that somebody reads, whose superblock is in use while it is open.
//!
//! Locking: the inode hash's, by `iget5_locked`. `InodeAndData::shared` is set once, atomically, and
//! then stays.

use core::marker::PhantomData;
use core::ptr::{self, NonNull};

use kernel::error::{from_err_ptr, to_result};
use kernel::ffi::{c_int, c_ulong, c_void};
use kernel::prelude::*;
use kernel::types::Opaque;

use super::inode_cache::{InodeAndData, SharedInode};
use super::{address_space, FileSystem, Inode};
use crate::bindings;

/// What a file holds: two with the same id have the same bytes. Whoever gives it must be able to prove
/// that; what an image claims is not enough.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) struct ContentId(pub(crate) [u8; 32]);

/// What a shared inode is found by.
#[derive(Eq, PartialEq)]
struct Key {
    /// That of the superblocks that share it: who knows an id, but not the bytes, shall not get at
    /// them through what another user has read. Only compared; the sharing superblocks keep it.
    namespace: *const bindings::user_namespace,
    content: ContentId,
}

/// The internal filesystem with the shared inodes.
///
/// # Invariants
///
/// `mount` is its mount.
#[pin_data(PinnedDrop)]
pub(super) struct SharedMappings<T> {
    #[pin]
    fs_type: Opaque<bindings::file_system_type>,
    mount: NonNull<bindings::vfsmount>,
    _filesystem: PhantomData<T>,
}

impl<T: FileSystem> SharedMappings<T> {
    pub(super) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            fs_type <- Opaque::ffi_init(|slot: *mut bindings::file_system_type| {
                // SAFETY: `slot` is valid for writes, and all zeros is a valid value.
                unsafe { slot.write_bytes(0, 1) };
                // SAFETY: `slot` was just initialised, and nobody else has it yet.
                let fs_type = unsafe { &mut *slot };
                // No owner: a mount of the module's own must not keep it from being unloaded.
                fs_type.name = kernel::str::CStrExt::as_char_ptr(c"peerfs_shared");
                fs_type.init_fs_context = Some(init_fs_context::<T>);
                fs_type.kill_sb = Some(bindings::kill_anon_super);
            }),
            // SAFETY: the type is initialised, and pinned until it is unmounted in `drop`.
            mount: unsafe { mount(fs_type.get()) }?,
            _filesystem: PhantomData,
        })
    }

    /// Has `file`, which is being opened, and its inode use the address space for their content, if
    /// there is one.
    ///
    /// # Safety
    ///
    /// `file` must be one of `inode` for whose `open` this is called.
    pub(super) unsafe fn share(&self, inode: &Inode<T>, file: *mut bindings::file) -> Result {
        let raw = inode.as_ptr();
        let mut shared = Self::place(inode).get();
        if shared.is_null() {
            shared = self.find(inode)?;
            if shared.is_null() {
                return Ok(());
            }
        }
        // SAFETY: the shared inode stays until `inode` is evicted. Its mapping is as good as the own
        // one at any time, and the file is not in use yet.
        unsafe {
            let mapping = &raw mut (*shared).i_data;
            ptr::write_volatile(&raw mut (*raw).i_mapping, mapping);
            (*file).f_mapping = mapping;
        }
        Ok(())
    }

    /// Where an inode keeps its shared inode.
    fn place(inode: &Inode<T>) -> &SharedInode {
        let whole: *const InodeAndData<T::InodeData> = inode.as_ptr().cast();
        // SAFETY: an inode of `T` lies in the whole, and the field is atomic.
        unsafe { &(*whole).shared }
    }

    /// The shared inode of one that is opened for the first time; null if there is none for it.
    #[cold]
    fn find(&self, inode: &Inode<T>) -> Result<*mut bindings::inode> {
        match T::content_id(inode) {
            Some(content) => Ok(Self::place(inode).set_or_put(self.get(inode, content)?)),
            None => Ok(ptr::null_mut()),
        }
    }

    /// The shared inode with this content, and a reference to it.
    fn get(&self, inode: &Inode<T>, content: ContentId) -> Result<NonNull<bindings::inode>> {
        // SAFETY: the inode's superblock is valid.
        let namespace = unsafe { (*(*inode.as_ptr()).i_sb).s_user_ns };
        let key = KBox::new(Key { namespace, content }, GFP_KERNEL)?;
        let hash = content
            .0
            .first_chunk()
            .copied()
            .map_or(0, u64::from_le_bytes);
        let key = KBox::into_raw(key);
        // SAFETY: by the invariant; the callbacks get the key.
        let shared = unsafe {
            bindings::iget5_locked(
                (*self.mount.as_ptr()).mnt_sb,
                hash,
                Some(has_key),
                Some(set_key),
                key.cast(),
            )
        };
        let is_new = NonNull::new(shared)
            // SAFETY: it was just returned with a reference.
            .is_some_and(|shared| unsafe { bindings::peerfs_inode_is_new(shared.as_ptr()) });
        if !is_new {
            // SAFETY: no inode has taken it.
            drop(unsafe { KBox::from_raw(key) });
            return NonNull::new(shared).ok_or(ENOMEM);
        }
        // SAFETY: the inode is new, so this is the only task that touches it.
        unsafe {
            (*shared).i_mode = (bindings::S_IFREG | 0o444) as u16;
            (*shared).i_size = (*inode.as_ptr()).i_size;
            address_space::attach::<T, true>(&mut (*shared).i_data);
            bindings::unlock_new_inode(shared);
        }
        NonNull::new(shared).ok_or(ENOMEM)
    }
}

/// # Safety
///
/// `fs_type` must be initialised, and stay until the mount is gone.
unsafe fn mount(fs_type: *mut bindings::file_system_type) -> Result<NonNull<bindings::vfsmount>> {
    // SAFETY: by the requirements.
    let mount = from_err_ptr(unsafe { bindings::kern_mount(fs_type) })?;
    // SAFETY: it was just mounted. Its files want readahead.
    let result = to_result(unsafe { bindings::super_setup_bdi((*mount).mnt_sb) });
    if let Err(error) = result {
        // SAFETY: nobody else has it.
        unsafe { bindings::kern_unmount(mount) };
        return Err(error);
    }
    NonNull::new(mount).ok_or(ENOMEM)
}

#[pinned_drop]
impl<T> PinnedDrop for SharedMappings<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: by the invariant. There is no superblock of `T` any more, and so no reference to a
        // shared inode.
        unsafe { bindings::kern_unmount(self.mount.as_ptr()) };
    }
}

/// # Safety
///
/// Only for the VFS, by its rules for `init_fs_context`.
unsafe extern "C" fn init_fs_context<T: FileSystem>(
    context: *mut kernel::bindings::fs_context,
) -> c_int {
    // SAFETY: the VFS gives a new context; the kernel crate knows only its name.
    let pseudo = unsafe { bindings::init_pseudo(context.cast(), T::MAGIC as c_ulong) };
    if pseudo.is_null() {
        return ENOMEM.to_errno();
    }
    // SAFETY: it was just allocated.
    unsafe { (*pseudo).ops = &SUPER_OPERATIONS };
    0
}

static SUPER_OPERATIONS: bindings::super_operations = bindings::super_operations {
    // Without a reference there is no reader who could find it sooner than others.
    drop_inode: Some(bindings::inode_just_drop),
    free_inode: Some(free_inode),
    ..pin_init::zeroed()
};

/// # Safety
///
/// Only for `iget5_locked`, with a `Key`.
unsafe extern "C" fn has_key(inode: *mut bindings::inode, key: *mut c_void) -> c_int {
    // SAFETY: inodes are hashed with their key, which stays until RCU has forgotten them.
    let found: *const Key = unsafe { (*inode).i_private.cast_const() }.cast();
    // SAFETY: as above, and by the requirements.
    unsafe { (*found == *key.cast_const().cast::<Key>()).into() }
}

/// # Safety
///
/// Only for `iget5_locked`, with a `Key` from a `KBox`, which the inode takes over.
unsafe extern "C" fn set_key(inode: *mut bindings::inode, key: *mut c_void) -> c_int {
    // SAFETY: the inode is new.
    unsafe { (*inode).i_private = key };
    0
}

/// # Safety
///
/// Only for the VFS, by its rules for `free_inode`.
unsafe extern "C" fn free_inode(inode: *mut bindings::inode) {
    // SAFETY: a grace period has passed. The key is ours, if it got one.
    unsafe {
        let key: *mut Key = (*inode).i_private.cast();
        if !key.is_null() {
            drop(KBox::from_raw(key));
        }
        bindings::free_inode_nonrcu(inode);
    }
}
