// SPDX-License-Identifier: GPL-2.0

//! The address spaces that have the pages of regular files: of one file, or of all files with the same content, also
//! across superblocks, so that reading the same file in two images takes memory once.
//!
//! Each is that of an inode of an internal filesystem without names, found by what it holds ([`ContentId`]) if it
//! is shared. The inode of a regular file refers to it from its first open to its eviction (`i_mapping`), as block
//! devices and Coda do. Its host has nothing to read from, so folios are filled through the file that somebody
//! reads, whose superblock is in use while it is open. A folio that is being filled keeps the host, and so nobody
//! waits for it who evicts a file's inode: neither memory reclaim nor unmounting.
//!
//! Filesystems may be stacked: what fills a folio may read a file of this filesystem in turn, with the same
//! content, by way of others, of loop devices, of threads of the kernel. It would wait for itself if that had the
//! same pages. So stacked reads never come near shared pages: they have pages of their own in each inode
//! (`stacked`), and what waits for one of these waits only for what lies below.
//!
//! Locking: the inode hash's, by `iget5_locked`. A [`PagesInode`] is set once, atomically, and then stays.

use core::marker::PhantomData;
use core::ptr::{self, NonNull};

use kernel::error::{from_err_ptr, to_result};
use kernel::ffi::{c_int, c_uint, c_ulong, c_void};
use kernel::prelude::*;
use kernel::str::{CStr, CStrExt};
use kernel::types::Opaque;

use super::inode_cache::{InodeAndData, PagesInode};
use super::{address_space, FileSystem, Inode};
use crate::rust::bindings;

/// What a file holds: two with the same id have the same bytes. Whoever gives it must be able to prove
/// that; what an image claims is not enough.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) struct ContentId(pub(crate) [u8; 32]);

/// What a shared inode is found by.
#[derive(Eq, PartialEq)]
struct Key {
    /// That of the superblocks that share it: who knows an id, but not the bytes, shall not get at
    /// them through what another user has read.
    namespace: UserNamespace,
    content: ContentId,
}

/// A reference to a user namespace: no other one gets its address.
#[derive(Eq, PartialEq)]
struct UserNamespace(*mut bindings::user_namespace);

impl UserNamespace {
    fn of<T: FileSystem>(inode: &Inode<T>) -> Self {
        // SAFETY: the inode's superblock is valid, and keeps its namespace.
        unsafe {
            let namespace = (*(*inode.as_ptr()).i_sb).s_user_ns;
            UserNamespace(bindings::peerfs_get_user_ns(namespace))
        }
    }
}

impl Drop for UserNamespace {
    fn drop(&mut self) {
        // SAFETY: the reference is ours. This may be done in any context.
        unsafe { bindings::peerfs_put_user_ns(self.0) };
    }
}

/// The internal filesystem with the inodes that have the pages.
///
/// # Invariants
///
/// `mount` is its mount.
#[pin_data(PinnedDrop)]
pub(super) struct Pages<T> {
    #[pin]
    fs_type: Opaque<bindings::file_system_type>,
    mount: NonNull<bindings::vfsmount>,
    _filesystem: PhantomData<T>,
}

impl<T: FileSystem> Pages<T> {
    pub(super) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            fs_type <- Opaque::ffi_init(|slot: *mut bindings::file_system_type| {
                // SAFETY: `slot` is valid for writes, and all zeros is a valid value.
                unsafe { slot.write_bytes(0, 1) };
                // SAFETY: `slot` was just initialised, and nobody else has it yet.
                let fs_type = unsafe { &mut *slot };
                // No owner: a mount of the module's own must not keep it from being unloaded.
                fs_type.name = c"peerfs_shared".as_char_ptr();
                fs_type.init_fs_context = Some(init_fs_context::<T>);
                fs_type.kill_sb = Some(bindings::kill_anon_super);
            }),
            // SAFETY: the type is initialised, and pinned until it is unmounted in `drop`.
            mount: unsafe { mount(fs_type.get(), T::NAME) }?,
            _filesystem: PhantomData,
        })
    }

    /// Gives a new superblock the settings of the one with the pages: how far is read ahead in a file is said by that
    /// of its pages.
    ///
    /// # Safety
    ///
    /// `super_block` must be new, and of `T`.
    pub(super) unsafe fn share_bdi(&self, super_block: *mut bindings::super_block) {
        // SAFETY: by the requirements it has none yet, and by the invariant ours is valid.
        unsafe { bindings::peerfs_super_share_bdi(super_block, (*self.mount.as_ptr()).mnt_sb) };
    }

    /// Has `file`, which is being opened, and its inode use the address space for their content.
    ///
    /// # Safety
    ///
    /// `file` must be one of `inode` for whose `open` this is called.
    pub(super) unsafe fn open(&self, inode: &Inode<T>, file: *mut bindings::file) -> Result {
        let raw = inode.as_ptr();
        let mut pages = place(inode).get();
        if pages.is_null() {
            pages = self.find(inode)?;
        }
        // SAFETY: the inode with the pages stays until `inode` is evicted. Nobody has used the own mapping, and
        // the file is not in use yet.
        unsafe {
            let mapping = &raw mut (*pages).i_data;
            ptr::write_volatile(&raw mut (*raw).i_mapping, mapping);
            (*file).f_mapping = mapping;
        }
        Ok(())
    }

    /// Whether a file of this inode was opened before, and its content is known.
    pub(super) fn was_opened(inode: &Inode<T>) -> bool {
        !place(inode).get().is_null()
    }

    /// The inode with the pages of one that is opened for the first time, or whose content is not known yet.
    #[cold]
    fn find(&self, inode: &Inode<T>) -> Result<*mut bindings::inode> {
        let pages = match T::content_id(inode) {
            Ok(Some(content)) => self.get(inode, content)?,
            Ok(None) => self.new_inode(inode)?,
            Err(_) => return self.stacked_inode(inode),
        };
        Ok(place(inode).set_or_put(pages))
    }

    /// The address space that stacked reads of an open file use; `None` if it is the file's own.
    pub(super) fn stacked(&self, inode: &Inode<T>) -> Result<Option<*mut bindings::address_space>> {
        let pages = place(inode).get();
        // SAFETY: it stays as long as the inode; only shared ones have a key.
        if pages.is_null() || unsafe { (*pages).i_private.is_null() } {
            return Ok(None);
        }
        let pages = self.stacked_inode(inode)?;
        // SAFETY: it is valid as long as `inode`.
        Ok(Some(unsafe { &raw mut (*pages).i_data }))
    }

    /// The inode with pages that are never shared.
    fn stacked_inode(&self, inode: &Inode<T>) -> Result<*mut bindings::inode> {
        let found = stacked_place(inode).get();
        match found.is_null() {
            true => Ok(stacked_place(inode).set_or_put(self.new_inode(inode)?)),
            false => Ok(found),
        }
    }

    /// A new inode with the pages of one file alone.
    fn new_inode(&self, inode: &Inode<T>) -> Result<NonNull<bindings::inode>> {
        // SAFETY: by the invariant.
        let pages = unsafe { bindings::new_inode((*self.mount.as_ptr()).mnt_sb) };
        let pages = NonNull::new(pages).ok_or(ENOMEM)?;
        // SAFETY: nobody else has it yet.
        unsafe { Self::init(inode, pages) };
        Ok(pages)
    }

    /// # Safety
    ///
    /// `pages` must be new.
    unsafe fn init(inode: &Inode<T>, pages: NonNull<bindings::inode>) {
        // SAFETY: by the requirements this is the only task that touches it.
        unsafe {
            let depth = (*(*inode.as_ptr()).i_sb).s_stack_depth as c_uint;
            bindings::peerfs_set_lock_classes(pages.as_ptr(), depth);
            let pages = &mut *pages.as_ptr();
            pages.i_mode = (bindings::S_IFREG | 0o444) as u16;
            pages.i_size = (*inode.as_ptr()).i_size;
            address_space::attach::<T>(&mut pages.i_data);
        }
    }

    /// The shared inode with this content, and a reference to it.
    fn get(&self, inode: &Inode<T>, content: ContentId) -> Result<NonNull<bindings::inode>> {
        let namespace = UserNamespace::of(inode);
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
        let shared = NonNull::new(shared).ok_or(ENOMEM)?;
        // SAFETY: the inode is new, so this is the only task that touches it.
        unsafe {
            Self::init(inode, shared);
            bindings::unlock_new_inode(shared.as_ptr());
        }
        Ok(shared)
    }
}

/// Where an inode keeps the inode with its pages.
fn place<T: FileSystem>(inode: &Inode<T>) -> &PagesInode {
    let whole: *const InodeAndData<T::InodeData> = inode.as_ptr().cast();
    // SAFETY: an inode of `T` lies in the whole, and the field is atomic.
    unsafe { &(*whole).pages }
}

/// Where an inode keeps the one with the pages of stacked reads.
fn stacked_place<T: FileSystem>(inode: &Inode<T>) -> &PagesInode {
    let whole: *const InodeAndData<T::InodeData> = inode.as_ptr().cast();
    // SAFETY: as above.
    unsafe { &(*whole).stacked_pages }
}

/// # Safety
///
/// `fs_type` must be initialised, and stay until the mount is gone.
unsafe fn mount(
    fs_type: *mut bindings::file_system_type,
    name: &'static CStr,
) -> Result<NonNull<bindings::vfsmount>> {
    // SAFETY: by the requirements.
    let mount = from_err_ptr(unsafe { bindings::kern_mount(fs_type) })?;
    // SAFETY: it was just mounted. The name, below /sys/class/bdi, is valid, and copied.
    let result = to_result(unsafe {
        let format = c"%s".as_char_ptr().cast_mut();
        bindings::super_setup_bdi_name((*mount).mnt_sb, format, name.as_char_ptr())
    });
    if let Err(error) = result {
        // SAFETY: nobody else has it.
        unsafe { bindings::kern_unmount(mount) };
        return Err(error);
    }
    NonNull::new(mount).ok_or(ENOMEM)
}

#[pinned_drop]
impl<T> PinnedDrop for Pages<T> {
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
