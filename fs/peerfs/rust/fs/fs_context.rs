// SPDX-License-Identifier: GPL-2.0

//! `struct fs_context`: a mount that is being set up.
//!
//! Locking: the VFS calls every operation with `fc->uapi_mutex` held, or before anybody else can
//! reach the context. What takes time is done in `get_tree` before there is a superblock: while one is filled,
//! `s_umount` is held, for which sync(2) and memory reclaim on demand wait.

use core::fmt;
use core::marker::PhantomData;

use kernel::error::from_result;
use kernel::ffi::c_int;
use kernel::prelude::*;
use kernel::str::{CStr, CString};

use super::{super_block, FileSystem, FileSystemType, Registration};
use crate::rust::bindings;
use crate::rust::str::Text;

/// What is done with mount options.
pub(crate) trait ContextOperations: FileSystemType {
    /// Takes one mount option. `Ok(false)`: there is no option of this name.
    fn parse_parameter(
        context: &FsContext<'_>,
        options: &mut Self::Options,
        parameter: &Parameter<'_>,
    ) -> Result<bool>;

    /// Makes the superblock's data for a new mount. This may wait for what is slow: there is no superblock yet
    /// that others would have to wait for, as sync(2) does.
    fn new_super(
        context: &FsContext<'_>,
        shared: &Self::Shared,
        options: &Self::Options,
    ) -> Result<Self::SuperData>;

    /// Called for a remount; whatever is not the same is refused here.
    fn reconfigure(
        context: &FsContext<'_>,
        data: &Self::SuperData,
        options: &Self::Options,
    ) -> Result;
}

/// A mount that is being set up: where messages for whoever mounts go.
pub(crate) struct FsContext<'a> {
    context: *mut bindings::fs_context,
    _borrow: PhantomData<&'a ()>,
}

impl FsContext<'_> {
    /// Whether whoever mounts is privileged in the whole machine, not just in a user namespace.
    pub(crate) fn is_privileged(&self) -> bool {
        // SAFETY: the context is valid by its lifetime. The superblock belongs to its namespace, and
        // the VFS has checked that the task may mount there.
        unsafe { bindings::peerfs_is_init_user_ns((*self.context).user_ns) }
    }

    /// Tells the one who mounts why it fails: read from the context's file descriptor, and in the
    /// kernel log for mount(2).
    pub(crate) fn error(&self, message: core::fmt::Arguments<'_>) {
        let Ok(text) = CString::try_from_fmt(kernel::prelude::fmt!("{}", Text(message))) else {
            return;
        };
        // SAFETY: `self.context` is valid by its lifetime; the format takes one string.
        unsafe {
            bindings::logfc(
                (*self.context).log.log,
                (*self.context).log.prefix,
                b'e',
                c"%s".as_char_ptr(),
                text.as_char_ptr(),
            )
        };
    }
}

/// A mount option.
pub(crate) struct Parameter<'a> {
    /// Its name.
    pub(crate) key: &'a [u8],
    /// Its value; `None` for an option without one (or with one that is no string).
    pub(crate) value: Option<&'a [u8]>,
}

/// The operations of the contexts of `T`.
struct Operations<T>(PhantomData<T>);

impl<T: FileSystem> Operations<T> {
    const TABLE: bindings::fs_context_operations = bindings::fs_context_operations {
        free: Some(Self::free),
        dup: None,
        parse_param: Some(Self::parse_param),
        parse_monolithic: None,
        get_tree: Some(Self::get_tree),
        reconfigure: Some(Self::reconfigure),
    };

    /// # Safety
    ///
    /// `context` must be valid and prepared by [`init_fs_context`] for `T`.
    unsafe fn options<'a>(context: *mut bindings::fs_context) -> &'a mut T::Options {
        // SAFETY: `init_fs_context` put a boxed `T::Options` there, which lives until `free`; the
        // callers of the operations exclude each other (see the head of this file).
        unsafe { &mut *(*context).fs_private.cast() }
    }

    /// # Safety
    ///
    /// Only for the VFS, by its rules for `free`.
    unsafe extern "C" fn free(context: *mut bindings::fs_context) {
        // SAFETY: `context` is valid, as the VFS calls.
        let options: *mut T::Options = unsafe { (*context).fs_private.cast() };
        if !options.is_null() {
            // SAFETY: `init_fs_context` made it from a `KBox`, and this is called once.
            drop(unsafe { KBox::from_raw(options) });
        }
    }

    /// # Safety
    ///
    /// Only for the VFS, by its rules for `parse_param`.
    unsafe extern "C" fn parse_param(
        context: *mut bindings::fs_context,
        parameter: *mut bindings::fs_parameter,
    ) -> c_int {
        // SAFETY: both are valid, as the VFS calls.
        let source = unsafe { bindings::vfs_parse_fs_param_source(context, parameter) };
        if source != -(bindings::ENOPARAM as c_int) {
            return source;
        }
        from_result(|| {
            // SAFETY: as above; the key is a string that lives as long as the parameter.
            let key = unsafe { CStr::from_char_ptr((*parameter).key) };
            // SAFETY: as above.
            let value = match unsafe { (*parameter).type_() } {
                bindings::fs_value_type_fs_value_is_string => {
                    // SAFETY: the type says that the union holds a string.
                    let value = unsafe { (*parameter).__bindgen_anon_1.string };
                    // SAFETY: it is valid for as long as the parameter.
                    (!value.is_null()).then(|| unsafe { CStr::from_char_ptr(value) })
                }
                _ => None,
            };
            let context_view = FsContext {
                context,
                _borrow: PhantomData,
            };
            let parameter = Parameter {
                key: key.to_bytes(),
                value: value.map(CStr::to_bytes),
            };
            // SAFETY: the context was prepared for `T`.
            let options = unsafe { Self::options(context) };
            if T::parse_parameter(&context_view, options, &parameter)? {
                Ok(0)
            } else {
                // The VFS knows best how to say that there is no such option.
                Ok(-(bindings::ENOPARAM as c_int))
            }
        })
    }

    /// # Safety
    ///
    /// Only for the VFS, by its rules for `get_tree`.
    unsafe extern "C" fn get_tree(context: *mut bindings::fs_context) -> c_int {
        from_result(|| {
            let view = FsContext {
                context,
                _borrow: PhantomData,
            };
            // SAFETY: the context was prepared for `T`, and is one of a mount of it, which keeps the module loaded.
            let (options, shared) = unsafe {
                (
                    Self::options(context),
                    Registration::<T>::of((*context).fs_type).shared(),
                )
            };
            let data = KBox::new(T::new_super(&view, shared, options)?, GFP_KERNEL)?;
            // The new superblock takes it over.
            // SAFETY: the context is valid, and nobody uses the field until the superblock is made.
            unsafe { (*context).s_fs_info = KBox::into_raw(data).cast() };
            // SAFETY: as above.
            let result =
                unsafe { bindings::get_tree_nodev(context.cast(), Some(Self::fill_super)) };
            // SAFETY: as above.
            let data: *mut T::SuperData = unsafe { (*context).s_fs_info.cast() };
            if !data.is_null() {
                // SAFETY: no superblock has taken it over; it came from a `KBox`, and nobody else has it.
                unsafe {
                    (*context).s_fs_info = core::ptr::null_mut();
                    drop(KBox::from_raw(data));
                }
            }
            Ok(result)
        })
    }

    /// # Safety
    ///
    /// Only for the VFS, by its rules for `fill_super`.
    unsafe extern "C" fn fill_super(
        super_block: *mut bindings::super_block,
        context: *mut bindings::fs_context,
    ) -> c_int {
        from_result(|| {
            let view = FsContext {
                context,
                _borrow: PhantomData,
            };
            // SAFETY: the context is one of a mount of `T`, which keeps the module loaded.
            let shared = unsafe { Registration::<T>::of((*context).fs_type) }.shared();
            // SAFETY: `super_block` is new and ours to fill, and has taken over what `get_tree` made.
            unsafe { super_block::fill::<T>(super_block, shared) }.inspect_err(
                |error| match *error == ELOOP {
                    true => view.error(core::format_args!(
                        "too many filesystems are stacked on each other"
                    )),
                    false => view.error(core::format_args!(
                        "cannot read the root directory: {}",
                        ErrorName(*error)
                    )),
                },
            )?;
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only for the VFS, by its rules for `reconfigure`.
    unsafe extern "C" fn reconfigure(context: *mut bindings::fs_context) -> c_int {
        from_result(|| {
            let view = FsContext {
                context,
                _borrow: PhantomData,
            };
            // SAFETY: for a reconfiguration the VFS has set the root, whose superblock is one of `T`.
            let super_block =
                unsafe { super_block::SuperBlock::<T>::from_raw((*(*context).root).d_sb) };
            // SAFETY: the context is valid.
            let (flags, mask) = unsafe { ((*context).sb_flags, (*context).sb_flags_mask) };
            let read_only = bindings::PEERFS_SB_RDONLY as u32;
            if mask & read_only != 0 && flags & read_only == 0 {
                view.error(core::format_args!("this filesystem is read-only"));
                return Err(EROFS);
            }
            // SAFETY: the context was prepared for `T`.
            let options = unsafe { Self::options(context) };
            T::reconfigure(&view, super_block.data(), options)?;
            // SAFETY: the context is valid and ours.
            unsafe { (*context).sb_flags |= read_only };
            Ok(0)
        })
    }
}

/// An error for messages: its name, or its number in a kernel without names
/// (CONFIG_SYMBOLIC_ERRNAME).
pub(crate) struct ErrorName(pub(crate) Error);

impl fmt::Display for ErrorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.0.name();
        match name.and_then(|name| core::str::from_utf8(name.to_bytes()).ok()) {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", -self.0.to_errno()),
        }
    }
}

/// Prepares a context for `T`.
///
/// # Safety
///
/// Only for the VFS, by its rules for `init_fs_context`.
pub(super) unsafe extern "C" fn init_fs_context<T: FileSystem>(
    context: *mut kernel::bindings::fs_context,
) -> c_int {
    from_result(|| {
        let options = KBox::new(T::Options::default(), GFP_KERNEL)?;
        // The kernel crate knows the structure only by its name.
        let context: *mut bindings::fs_context = context.cast();
        // SAFETY: the VFS gives a new context to fill in.
        unsafe {
            (*context).fs_private = KBox::into_raw(options).cast();
            (*context).ops = &Operations::<T>::TABLE;
        }
        Ok(0)
    })
}
