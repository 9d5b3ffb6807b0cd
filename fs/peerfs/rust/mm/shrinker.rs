// SPDX-License-Identifier: GPL-2.0

//! `struct shrinker`: memory that the kernel may ask back.
//!
//! Locking: the callbacks run in memory reclaim, at any allocation that may sleep. Locks that they take
//! must not be held while anything is allocated.

use core::ffi::c_void;
use core::marker::PhantomData;
use core::ptr::NonNull;

use kernel::ffi::{c_int, c_ulong};
use kernel::prelude::*;
use kernel::str::{CStr, CStrExt};
use kernel::sync::Arc;

use crate::rust::bindings;

/// Something with objects in memory that can be had again.
pub(crate) trait Shrink: Send + Sync + 'static {
    /// How many there are.
    fn count(&self) -> usize;

    /// Frees this many, if there are so many; says how many.
    fn shrink(&self, count: usize) -> usize;
}

/// A registered shrinker of `T`.
///
/// # Invariants
///
/// `shrinker` is registered, and its `private_data` is the pointer in an `Arc<T>` that this owns.
pub(crate) struct Shrinker<T: Shrink> {
    shrinker: NonNull<bindings::shrinker>,
    _target: PhantomData<Arc<T>>,
}

// SAFETY: a shrinker may be freed by any task, and its target is `Send` and `Sync`.
unsafe impl<T: Shrink> Send for Shrinker<T> {}
// SAFETY: there is nothing to do with a shared shrinker.
unsafe impl<T: Shrink> Sync for Shrinker<T> {}

impl<T: Shrink> Shrinker<T> {
    /// Has the kernel ask `target` for memory when it is short of it.
    pub(crate) fn new(name: &CStr, target: Arc<T>) -> Result<Self> {
        // SAFETY: the format says that there is one string, which is copied.
        let shrinker =
            unsafe { bindings::shrinker_alloc(0, c"%s".as_char_ptr(), name.as_char_ptr()) };
        let shrinker = NonNull::new(shrinker).ok_or(ENOMEM)?;
        // SAFETY: it was just allocated, and nobody else has it until it is registered.
        unsafe {
            let fields = &mut *shrinker.as_ptr();
            fields.count_objects = Some(Self::count_objects);
            fields.scan_objects = Some(Self::scan_objects);
            fields.seeks = bindings::DEFAULT_SEEKS as c_int;
            fields.private_data = Arc::into_raw(target).cast_mut().cast();
            bindings::shrinker_register(shrinker.as_ptr());
        }
        // INVARIANT: as just done.
        Ok(Shrinker {
            shrinker,
            _target: PhantomData,
        })
    }

    /// # Safety
    ///
    /// `shrinker` must be one of `T` that is being called, for `'a`.
    unsafe fn target<'a>(shrinker: *mut bindings::shrinker) -> &'a T {
        // SAFETY: by the invariant; `drop` waits for the callbacks before it gives up the target.
        unsafe { &*(*shrinker).private_data.cast::<T>() }
    }

    /// # Safety
    ///
    /// Only for the memory management, by its rules for `count_objects`.
    unsafe extern "C" fn count_objects(
        shrinker: *mut bindings::shrinker,
        _control: *mut bindings::shrink_control,
    ) -> c_ulong {
        // SAFETY: by the requirements.
        let target = unsafe { Self::target(shrinker) };
        target.count()
    }

    /// # Safety
    ///
    /// Only for the memory management, by its rules for `scan_objects`.
    unsafe extern "C" fn scan_objects(
        shrinker: *mut bindings::shrinker,
        control: *mut bindings::shrink_control,
    ) -> c_ulong {
        // SAFETY: by the requirements.
        let (target, wanted) = unsafe { (Self::target(shrinker), (*control).nr_to_scan) };
        target.shrink(wanted)
    }
}

impl<T: Shrink> Drop for Shrinker<T> {
    fn drop(&mut self) {
        // SAFETY: by the invariant. Freeing it waits for the callbacks, after which nobody uses the
        // target through it.
        unsafe {
            let target: *mut c_void = (*self.shrinker.as_ptr()).private_data;
            bindings::shrinker_free(self.shrinker.as_ptr());
            drop(Arc::from_raw(target.cast::<T>().cast_const()));
        }
    }
}
