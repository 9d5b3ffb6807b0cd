// SPDX-License-Identifier: GPL-2.0

//! `struct inode`.
//!
//! Locking: an inode is filled in while it is new (`I_NEW`), when everybody else who looks for it
//! waits; afterwards nothing of it changes.

use core::marker::PhantomData;
use core::ptr::NonNull;

use kernel::ffi::{c_long, c_uint};
use kernel::prelude::*;
use kernel::str::{CStrExt, CString};
use kernel::sync::aref::{ARef, AlwaysRefCounted};
use kernel::types::Opaque;

use super::inode_cache::InodeAndData;
use super::{dentry, dir, file, FileSystem, FileSystemType, SuperBlock};
use crate::rust::bindings;

/// An initialised inode of `T`.
///
/// # Invariants
///
/// It lies in an `InodeAndData<T::InodeData>` whose `data` is set.
#[repr(transparent)]
pub(crate) struct Inode<T> {
    inner: Opaque<bindings::inode>,
    _filesystem: PhantomData<T>,
}

// SAFETY: the VFS counts references to inodes.
unsafe impl<T: FileSystemType> AlwaysRefCounted for Inode<T> {
    fn inc_ref(&self) {
        // SAFETY: there is a reference, hence the inode is valid and not on its way out.
        unsafe { bindings::ihold(self.as_ptr()) };
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: the caller gives up a reference.
        unsafe { bindings::iput(obj.as_ptr().cast()) };
    }
}

/// What all inodes have, as in stat(2).
pub(crate) struct Attributes {
    /// Type and permissions.
    pub(crate) mode: u32,
    /// Owner, as the image has it.
    pub(crate) uid: u32,
    /// Group, as the image has it.
    pub(crate) gid: u32,
    /// Names.
    pub(crate) nlink: u32,
    /// Bytes.
    pub(crate) size: u64,
    /// Allocated blocks of 512 bytes.
    pub(crate) blocks: u64,
    /// Modification time: seconds since 1970.
    pub(crate) mtime_seconds: i64,
    /// Modification time: nanoseconds.
    pub(crate) mtime_nanoseconds: u32,
    /// What a file handle must have besides the number to be one of this inode.
    pub(crate) generation: u32,
}

/// The id that nobody can have: `(uid_t)-1`.
const NO_OWNER: u32 = u32::MAX;

/// What an inode is.
pub(crate) enum InodeKind {
    /// A directory.
    Directory,
    /// A regular file.
    Regular,
    /// A symbolic link to this target.
    SymbolicLink(CString),
    /// A device, FIFO or socket; the number is the encoded device.
    Special(u32),
}

impl<T: FileSystemType> Inode<T> {
    /// # Safety
    ///
    /// `inode` must be an initialised inode of `T`, valid for `'a`.
    pub(super) unsafe fn from_raw<'a>(inode: *mut bindings::inode) -> &'a Self {
        // SAFETY: by the requirements and the transparent representation.
        unsafe { &*inode.cast() }
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::inode {
        self.inner.get()
    }

    /// The inode's number.
    pub(crate) fn number(&self) -> u64 {
        // SAFETY: the inode is valid, and its number never changes.
        unsafe { (*self.as_ptr()).i_ino }
    }

    /// What a file handle must have besides the number to be one of this inode.
    pub(super) fn generation(&self) -> u32 {
        // SAFETY: the inode is valid, and its generation never changes.
        unsafe { (*self.as_ptr()).i_generation }
    }

    /// The size in bytes.
    pub(crate) fn size(&self) -> u64 {
        // SAFETY: the inode is valid.
        let size = unsafe { bindings::peerfs_i_size_read(self.as_ptr()) };
        u64::try_from(size).unwrap_or(0)
    }

    /// The filesystem's data.
    pub(crate) fn data(&self) -> &T::InodeData {
        let whole: *const InodeAndData<T::InodeData> = self.as_ptr().cast();
        // SAFETY: by the invariant; the data lives as long as there are references.
        let data = unsafe { (*whole).data.as_ref() };
        match data {
            Some(data) => data,
            // SAFETY: by the invariant it is set.
            None => unsafe { core::hint::unreachable_unchecked() },
        }
    }
}

/// A new inode, which everybody else who looks for it waits for. Dropped without [`NewInode::init`]
/// it fails, and the next one who looks for it starts anew.
pub(crate) struct NewInode<T: FileSystem> {
    inode: NonNull<bindings::inode>,
    _filesystem: PhantomData<T>,
}

impl<T: FileSystem> SuperBlock<T> {
    /// The inode of this number, if it is in memory.
    pub(crate) fn find_inode(&self, number: u64) -> Option<ARef<Inode<T>>> {
        // SAFETY: the superblock is valid.
        let inode = unsafe { bindings::ilookup(self.as_ptr(), number) };
        // SAFETY: it is initialised, for this waits until it is, and the reference is ours.
        NonNull::new(inode).map(|inode| unsafe { ARef::from_raw(inode.cast()) })
    }

    /// The inode of this number, or a new one to fill in: at once, since nobody who waits for that can be
    /// killed.
    pub(crate) fn get_or_create_inode(
        &self,
        number: u64,
    ) -> Result<core::result::Result<ARef<Inode<T>>, NewInode<T>>> {
        // SAFETY: the superblock is valid.
        let inode = unsafe { bindings::iget_locked(self.as_ptr(), number) };
        let inode = NonNull::new(inode).ok_or(ENOMEM)?;
        // SAFETY: it was just returned with a reference.
        if unsafe { bindings::peerfs_inode_is_new(inode.as_ptr()) } {
            Ok(Err(NewInode {
                inode,
                _filesystem: PhantomData,
            }))
        } else {
            // SAFETY: it is not new, hence initialised, and the reference is ours.
            Ok(Ok(unsafe { ARef::from_raw(inode.cast()) }))
        }
    }
}

impl<T: FileSystem> NewInode<T> {
    /// Fills the inode in and makes it visible. Fails if no inode can have such attributes: EOVERFLOW for an owner that is
    /// no id.
    pub(crate) fn init(
        self,
        attributes: &Attributes,
        kind: InodeKind,
        data: T::InodeData,
    ) -> Result<ARef<Inode<T>>> {
        let size = i64::try_from(attributes.size)?;
        let mode = u16::try_from(attributes.mode)?;
        if attributes.uid == NO_OWNER || attributes.gid == NO_OWNER {
            return Err(EOVERFLOW);
        }
        let whole: *mut InodeAndData<T::InodeData> = self.inode.as_ptr().cast();
        let raw = self.inode.as_ptr();
        // SAFETY: the inode is new, so this is the only task that touches it. It is initialised with its data.
        unsafe {
            (*raw).i_mode = mode;
            (*raw).i_generation = attributes.generation;
            // An owner that the superblock's user namespace does not map is nobody: stat(2) shows the
            // overflow id, and only what others may do is allowed.
            bindings::peerfs_i_uid_write(raw, attributes.uid);
            bindings::peerfs_i_gid_write(raw, attributes.gid);
            bindings::set_nlink(raw, attributes.nlink);
            (*raw).i_size = size;
            (*raw).i_blocks = attributes.blocks;
            bindings::peerfs_inode_set_mtime(
                raw,
                attributes.mtime_seconds,
                attributes.mtime_nanoseconds as c_long,
            );
            match kind {
                InodeKind::Directory => {
                    bindings::peerfs_set_lock_classes(raw, (*(*raw).i_sb).s_stack_depth as c_uint);
                    (*raw).i_op = dentry::directory_operations::<T>();
                    (*raw).__bindgen_anon_3.i_fop = dir::operations::<T>();
                }
                InodeKind::Regular => {
                    (*raw).i_op = dentry::plain_operations::<T>();
                    (*raw).__bindgen_anon_3.i_fop = file::operations::<T>();
                }
                InodeKind::SymbolicLink(target) => {
                    (*raw).i_op = dentry::link_operations::<T>();
                    let target = (*whole).link.insert(target);
                    bindings::peerfs_set_link(raw, target.as_char_ptr().cast_mut());
                }
                InodeKind::Special(device) => {
                    (*raw).i_op = dentry::plain_operations::<T>();
                    let device = bindings::peerfs_new_decode_dev(device as c_uint);
                    bindings::init_special_inode(raw, mode, device);
                }
            }
            (*whole).data = Some(data);
            // Then nobody asks for its ACL, which would be one of them.
            if !T::has_xattrs(Inode::from_raw(raw)) {
                bindings::peerfs_cache_no_acl(raw);
            }
            bindings::unlock_new_inode(raw);
        }
        core::mem::forget(self);
        // SAFETY: it is initialised now, and the reference of `self` is handed on.
        Ok(unsafe { ARef::from_raw(NonNull::new_unchecked(raw).cast()) })
    }
}

impl<T: FileSystem> Drop for NewInode<T> {
    fn drop(&mut self) {
        // SAFETY: the inode is new, and this gives up the reference.
        unsafe { bindings::iget_failed(self.inode.as_ptr()) };
    }
}
