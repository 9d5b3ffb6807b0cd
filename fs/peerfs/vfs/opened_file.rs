// SPDX-License-Identifier: GPL-2.0

//! `struct file` of another filesystem, opened for reading by the kernel.

use kernel::fs::File;
use kernel::prelude::*;
use kernel::sync::aref::ARef;

use super::descriptor::check_readable;
use crate::bindings;

/// A regular file that is open for reading.
#[derive(Clone)]
pub(crate) struct OpenedFile {
    file: ARef<File>,
}

impl OpenedFile {
    /// Takes a file that somebody has opened; EINVAL if it is no regular file, EBADF if it is not
    /// open for reading.
    pub(crate) fn new(file: ARef<File>) -> Result<Self> {
        check_readable(&file)?;
        Ok(OpenedFile { file })
    }

    /// Whether both are the same file.
    pub(crate) fn is_same_file(&self, other: &OpenedFile) -> bool {
        // SAFETY: both files are valid.
        unsafe {
            bindings::peerfs_file_inode(self.file.as_ptr())
                == bindings::peerfs_file_inode(other.file.as_ptr())
        }
    }

    /// The file's size in bytes now.
    pub(crate) fn size(&self) -> u64 {
        // SAFETY: the file is valid.
        let size = unsafe {
            bindings::peerfs_i_size_read(bindings::peerfs_file_inode(self.file.as_ptr()))
        };
        u64::try_from(size).unwrap_or(0)
    }

    /// Reads at `offset` until `buffer` is full or the file ends; says how much was read.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut position = i64::try_from(offset)?;
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            // SAFETY: the file is open for reading, and the buffer has this length.
            let count = unsafe {
                bindings::kernel_read(
                    self.file.as_ptr(),
                    rest.as_mut_ptr().cast(),
                    rest.len(),
                    &mut position,
                )
            };
            match usize::try_from(count) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(_) => return Err(Error::from_errno(count as i32)),
            }
        }
        Ok(done)
    }

    /// Reads exactly `buffer`'s length at `offset`; EIO if the file is too short.
    pub(crate) fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result {
        if self.read_at(buffer, offset)? == buffer.len() {
            Ok(())
        } else {
            Err(EIO)
        }
    }
}
