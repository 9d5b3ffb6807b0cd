// SPDX-License-Identifier: GPL-2.0

//! Strings as C has them.
//!
//! Locking: none; a copy may sleep for its memory.

use core::fmt;

use kernel::prelude::*;
use kernel::str::{CStr, CString};

/// A copy of bytes as a C string; EINVAL if there is a NUL in them.
pub(crate) fn c_string(bytes: &[u8]) -> Result<CString> {
    let mut copy = KVec::with_capacity(bytes.len() + 1, GFP_KERNEL)?;
    copy.extend_from_slice(bytes, GFP_KERNEL)?;
    copy.push(0, GFP_KERNEL)?;
    let text = CStr::from_bytes_with_nul(&copy).map_err(|_| EINVAL)?;
    Ok(CString::try_from(text)?)
}

/// A core library's message for the kernel's formatting.
pub(crate) struct Text<'a>(pub(crate) fmt::Arguments<'a>);

impl kernel::fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        f.write_fmt(self.0)
    }
}
