// SPDX-License-Identifier: GPL-2.0

//! `__module_get`: what keeps this module loaded.
//!
//! Locking: none; references are counted.

use kernel::module::this_module;

use crate::rust::bindings;
use crate::LocalModule;

/// A reference to this module. After it is given up, only such code of the module may still run as its end
/// waits for.
pub(crate) struct ModuleReference(());

impl ModuleReference {
    /// One more reference: to be called where something else keeps the module loaded, as an open file does.
    pub(crate) fn new() -> Self {
        // SAFETY: by what the caller has the module stays.
        unsafe { bindings::__module_get(this_module::<LocalModule>().as_ptr()) };
        ModuleReference(())
    }
}

impl Drop for ModuleReference {
    fn drop(&mut self) {
        // SAFETY: the reference is ours.
        unsafe { bindings::module_put(this_module::<LocalModule>().as_ptr()) };
    }
}
