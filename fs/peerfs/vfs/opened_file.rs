// SPDX-License-Identifier: GPL-2.0

//! `struct file` of another filesystem, opened for reading by the kernel.
//!
//! Locking: none; a file is counted, and reading takes the locks of its own filesystem.

use core::mem::MaybeUninit;

use kernel::alloc::Flags;
use kernel::ffi::c_int;
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
        let opened = OpenedFile { file };
        if opened.can_drop() {
            // Folios are dropped as a whole: what readahead has brought there of the bytes behind would go as
            // well, and be read from the disk again.
            // SAFETY: the file is valid. It is a hint, which a filesystem may refuse.
            unsafe {
                let advice = bindings::POSIX_FADV_RANDOM as c_int;
                bindings::vfs_fadvise(opened.file.as_ptr(), 0, 0, advice);
            }
        }
        Ok(opened)
    }

    /// Whether its filesystem can drop from the page cache what is read, at once.
    fn can_drop(&self) -> bool {
        // SAFETY: the file is valid and has operations.
        let flags = unsafe { (*(*self.file.as_ptr()).f_op).fop_flags };
        flags & bindings::PEERFS_FOP_DONTCACHE != 0
    }

    /// Whether both are the same file.
    pub(crate) fn is_same_file(&self, other: &OpenedFile) -> bool {
        // SAFETY: both files are valid.
        unsafe { (*self.file.as_ptr()).f_inode == (*other.file.as_ptr()).f_inode }
    }

    /// The file's size in bytes now.
    pub(crate) fn size(&self) -> u64 {
        // SAFETY: the file is valid.
        let size = unsafe { bindings::peerfs_i_size_read((*self.file.as_ptr()).f_inode) };
        u64::try_from(size).unwrap_or(0)
    }

    /// Reads at `offset` until `buffer` is full or the file ends; says how much was read. Pages that
    /// this brings into the page cache do not stay there, where the file's filesystem can do that:
    /// what is read ends up in other pages anyway.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        // SAFETY: the buffer has this length and is exclusively the caller's.
        unsafe { self.read_raw(buffer.as_mut_ptr(), buffer.len(), offset) }
    }

    /// As [`OpenedFile::read_at`], into new memory for at most `length` bytes.
    pub(crate) fn read_new(&self, length: usize, offset: u64, flags: Flags) -> Result<KVVec<u8>> {
        let mut buffer = KVVec::with_capacity(length, flags)?;
        // SAFETY: the new memory has room for this many bytes.
        let read = unsafe { self.read_raw(buffer.as_mut_ptr(), length, offset) }?;
        // SAFETY: so many were just written, `length` at the most.
        unsafe { buffer.inc_len(read) };
        Ok(buffer)
    }

    /// Says how many bytes from `buffer` on were written, at most `length`.
    ///
    /// # Safety
    ///
    /// `buffer` must be valid for writes of `length` bytes, and nobody else's.
    unsafe fn read_raw(&self, buffer: *mut u8, length: usize, offset: u64) -> Result<usize> {
        let file = self.file.as_ptr();
        let flags = match self.can_drop() {
            true => bindings::PEERFS_RWF_DONTCACHE,
            false => 0,
        };
        let mut position = i64::try_from(offset)?;
        let mut done = 0;
        while done < length {
            let rest = length - done;
            let part = bindings::kvec {
                // SAFETY: inside the buffer.
                iov_base: unsafe { buffer.add(done) }.cast(),
                iov_len: rest,
            };
            let mut iter = MaybeUninit::<bindings::iov_iter>::uninit();
            // SAFETY: the part is the rest of the buffer, and both live until the read is over. The
            // file is open for reading.
            let count = unsafe {
                bindings::iov_iter_kvec(iter.as_mut_ptr(), bindings::ITER_DEST, &part, 1, rest);
                bindings::vfs_iter_read(file, iter.as_mut_ptr(), &mut position, flags)
            };
            match usize::try_from(count) {
                Ok(0) => break,
                Ok(count) => done += count.min(rest),
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
