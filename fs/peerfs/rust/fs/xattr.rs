// SPDX-License-Identifier: GPL-2.0

//! Extended attributes and POSIX ACLs.
//!
//! Locking: none is held for reading attributes. `get_inode_acl` may be called during a path walk under RCU,
//! which is sent back to come with references, since reading may sleep.

use core::marker::PhantomData;
use core::ptr;

use kernel::error::from_result;
use kernel::ffi::{c_char, c_int, c_void};
use kernel::prelude::*;
use kernel::str::CStr;

use super::{FileSystem, FileSystemType, Inode};
use crate::rust::bindings;

/// What is done with xattrs.
pub(crate) trait XattrOperations: FileSystemType {
    /// Whether an inode has xattrs; nothing else is asked about them of one that has none.
    fn has_xattrs(inode: &Inode<Self>) -> bool;

    /// The value of the xattr whose name is `prefix` and `name` joined, or ENODATA.
    fn get_xattr(inode: &Inode<Self>, prefix: &[u8], name: &[u8]) -> Result<KVVec<u8>>;

    /// Lists the full names of all xattrs.
    fn list_xattrs(inode: &Inode<Self>, lister: &mut XattrLister<'_>) -> Result;
}

/// Collects the names for listxattr(2).
pub(crate) struct XattrLister<'a> {
    /// Empty if only the size is asked for.
    buffer: &'a mut [u8],
    used: usize,
    size_only: bool,
    trusted: bool,
}

impl XattrLister<'_> {
    /// Adds a full name, unless the caller may not see it; ERANGE if there is no room.
    pub(crate) fn add(&mut self, name: &[u8]) -> Result {
        if name.starts_with(b"trusted.") && !self.trusted {
            return Ok(());
        }
        let end = self
            .used
            .checked_add(name.len())
            .and_then(|end| end.checked_add(1))
            .ok_or(ERANGE)?;
        if !self.size_only {
            let place = self.buffer.get_mut(self.used..end).ok_or(ERANGE)?;
            let (last, text) = place.split_last_mut().ok_or(ERANGE)?;
            // Not `copy_from_slice`: objtool does not know its panic as a dead end.
            for (place, byte) in text.iter_mut().zip(name) {
                *place = *byte;
            }
            *last = 0;
        }
        self.used = end;
        Ok(())
    }
}

/// listxattr(2).
///
/// # Safety
///
/// Only for the VFS, by its rules for `list`.
pub(super) unsafe extern "C" fn list<T: FileSystem>(
    dentry: *mut bindings::dentry,
    buffer: *mut c_char,
    size: usize,
) -> isize {
    // SAFETY: the VFS gives a positive dentry of an inode of `T`.
    let inode = unsafe { Inode::<T>::from_raw((*dentry).d_inode) };
    if !T::has_xattrs(inode) {
        return 0;
    }
    let size_only = buffer.is_null() || size == 0;
    let buffer = if size_only {
        &mut []
    } else {
        // SAFETY: the VFS gives a buffer of this size, which is not zero.
        unsafe { core::slice::from_raw_parts_mut(buffer.cast::<u8>(), size) }
    };
    let mut lister = XattrLister {
        buffer,
        used: 0,
        size_only,
        // SAFETY: may be asked at any time.
        trusted: unsafe { bindings::peerfs_may_list_trusted() },
    };
    match T::list_xattrs(inode, &mut lister) {
        Ok(()) => lister.used as isize,
        Err(error) => error.to_errno() as isize,
    }
}

/// The ACL of an inode, from the xattr that holds it.
///
/// # Safety
///
/// Only for the VFS, by its rules for `get_inode_acl`.
pub(super) unsafe extern "C" fn get_inode_acl<T: FileSystem>(
    inode: *mut bindings::inode,
    kind: c_int,
    rcu: bool,
) -> *mut bindings::posix_acl {
    if rcu {
        // Reading the xattr may sleep: have the path walk come back with references.
        return ECHILD.to_ptr();
    }
    let name: &[u8] = if kind == bindings::PEERFS_ACL_TYPE_ACCESS {
        b"posix_acl_access"
    } else {
        b"posix_acl_default"
    };
    // SAFETY: the VFS gives an initialised inode of `T`.
    let value = match T::get_xattr(unsafe { Inode::<T>::from_raw(inode) }, b"system.", name) {
        Ok(value) => value,
        Err(error) if error == ENODATA => return ptr::null_mut(),
        Err(error) => return error.to_ptr(),
    };
    // SAFETY: the inode is valid, and the value has this size. A malformed value is an error.
    unsafe {
        bindings::posix_acl_from_xattr(
            bindings::peerfs_i_user_ns(inode),
            value.as_ptr().cast(),
            value.len(),
        )
    }
}

/// The handlers for the superblock: an array of pointers that a null pointer ends. ACLs are handled
/// by the VFS through [`get_inode_acl`].
pub(super) fn handlers<T: FileSystem>() -> *const *const bindings::xattr_handler {
    Handlers::<T>::TABLE.0.as_ptr()
}

/// A table of pointers to constants.
struct Table<const N: usize>([*const bindings::xattr_handler; N]);

// SAFETY: what it points to is constant.
unsafe impl<const N: usize> Sync for Table<N> {}

struct Handlers<T>(PhantomData<T>);

impl<T: FileSystem> Handlers<T> {
    const USER: bindings::xattr_handler = Self::handler(c"user.");
    const TRUSTED: bindings::xattr_handler = Self::handler(c"trusted.");
    const SECURITY: bindings::xattr_handler = Self::handler(c"security.");
    const TABLE: &'static Table<4> =
        &Table([&Self::USER, &Self::TRUSTED, &Self::SECURITY, ptr::null()]);

    const fn handler(prefix: &'static CStr) -> bindings::xattr_handler {
        bindings::xattr_handler {
            prefix: kernel::str::as_char_ptr_in_const_context(prefix),
            get: Some(Self::get),
            ..pin_init::zeroed()
        }
    }

    /// # Safety
    ///
    /// Only for the VFS, by its rules for `get`.
    unsafe extern "C" fn get(
        handler: *const bindings::xattr_handler,
        _dentry: *mut bindings::dentry,
        inode: *mut bindings::inode,
        name: *const c_char,
        buffer: *mut c_void,
        size: usize,
    ) -> c_int {
        from_result(|| {
            // SAFETY: the VFS gives an initialised inode of `T`.
            let inode = unsafe { Inode::<T>::from_raw(inode) };
            if !T::has_xattrs(inode) {
                return Err(ENODATA);
            }
            // SAFETY: the VFS gives one of the handlers above, and the rest of a name that begins
            // with its prefix.
            let (prefix, name) = unsafe {
                (
                    CStr::from_char_ptr((*handler).prefix),
                    CStr::from_char_ptr(name),
                )
            };
            let value = T::get_xattr(inode, prefix.to_bytes(), name.to_bytes())?;
            let length = c_int::try_from(value.len())?;
            if !buffer.is_null() && size != 0 {
                if value.len() > size {
                    return Err(ERANGE);
                }
                // SAFETY: the VFS gives a buffer of `size` bytes, which is enough.
                unsafe {
                    ptr::copy_nonoverlapping(value.as_ptr(), buffer.cast::<u8>(), value.len())
                };
            }
            Ok(length)
        })
    }
}
