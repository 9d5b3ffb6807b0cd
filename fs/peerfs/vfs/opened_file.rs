// SPDX-License-Identifier: GPL-2.0

//! `struct file` of another filesystem, opened for reading by the kernel.
//!
//! Locking: a file is counted, and reading takes the locks of its own filesystem. Direct I/O takes the
//! file's `i_rwsem`, which somebody who writes to the file holds while they have page faults on what they
//! write. That may be a mapping of a file whose bytes are read from this one: so the lock is only tried
//! (IOCB_NOWAIT), and not waited for.

use core::mem::MaybeUninit;

use kernel::alloc::Flags;
use kernel::ffi::c_int;
use kernel::fs::File;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::aref::ARef;

use super::descriptor::check_readable;
use crate::bindings::{self, EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC};

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

    /// Whether its filesystem has direct I/O, and with IOCB_NOWAIT only tries the file's `i_rwsem`. btrfs, for
    /// one, waits for it all the same.
    fn can_be_read_directly(&self) -> bool {
        let file = self.file.as_ptr();
        let can = bindings::PEERFS_FMODE_DIRECT_NOWAIT;
        // SAFETY: the file is valid, and has an inode and that a superblock.
        let (mode, magic) = unsafe { ((*file).f_mode, (*(*(*file).f_inode).i_sb).s_magic) };
        mode & can == can && matches!(magic as u32, EXT4_SUPER_MAGIC | XFS_SUPER_MAGIC)
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
        self.read_behind(&mut buffer, length, offset)?;
        Ok(buffer)
    }

    /// As [`OpenedFile::read_at`], at most `length` bytes behind what `buffer` has, as far as it has room.
    pub(crate) fn read_behind(&self, buffer: &mut KVVec<u8>, length: usize, offset: u64) -> Result {
        let room = buffer.spare_capacity_mut();
        let length = length.min(room.len());
        // SAFETY: there is room for this many bytes.
        let read = unsafe { self.read_raw(room.as_mut_ptr().cast(), length, offset) }?;
        // SAFETY: so many were just written, `length` at the most.
        unsafe { buffer.inc_len(read) };
        Ok(())
    }

    /// As [`OpenedFile::read_behind`], but past the page cache, if nothing of it is there and that can be
    /// done: offset, length and memory must be whole pages, and nobody be writing to the file. Often it
    /// reads nothing.
    pub(crate) fn read_behind_directly(&self, buffer: &mut KVVec<u8>, length: usize, offset: u64) {
        let room = buffer.spare_capacity_mut();
        let length = length.min(room.len());
        // SAFETY: there is room for this many bytes.
        let read = unsafe { self.read_raw_directly(room.as_mut_ptr().cast(), length, offset) };
        // SAFETY: so many were just written, `length` at the most.
        unsafe { buffer.inc_len(read.unwrap_or(0)) };
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

    /// As [`OpenedFile::read_raw`], by direct I/O, or not at all.
    ///
    /// # Safety
    ///
    /// `buffer` must be valid for writes of `length` bytes, and nobody else's.
    unsafe fn read_raw_directly(
        &self,
        buffer: *mut u8,
        length: usize,
        offset: u64,
    ) -> Option<usize> {
        let file = self.file.as_ptr();
        let position = i64::try_from(offset).ok()?;
        let last = position.checked_add(i64::try_from(length).ok()?.checked_sub(1)?)?;
        let are_pages = |value| value % PAGE_SIZE == 0;
        if !self.can_be_read_directly()
            || !are_pages(buffer.addr())
            || !are_pages(length)
            || !are_pages(usize::try_from(offset).ok()?)
        {
            return None;
        }
        // SAFETY: the file is valid and has a mapping.
        let cached = unsafe { bindings::filemap_range_has_page((*file).f_mapping, position, last) };
        if cached {
            return None;
        }
        let part = bindings::kvec {
            iov_base: buffer.cast(),
            iov_len: length,
        };
        // Without a function to call when it is complete it is waited for.
        let mut request = bindings::kiocb {
            ki_filp: file,
            ki_pos: position,
            ki_flags: bindings::PEERFS_IOCB_DIRECT_NOWAIT,
            ..Default::default()
        };
        let mut iter = MaybeUninit::<bindings::iov_iter>::uninit();
        // SAFETY: buffer, part and request live until the read is over. The file is open for reading,
        // and its filesystem does both flags.
        let count = unsafe {
            bindings::iov_iter_kvec(iter.as_mut_ptr(), bindings::ITER_DEST, &part, 1, length);
            bindings::vfs_iocb_iter_read(file, &mut request, iter.as_mut_ptr())
        };
        usize::try_from(count).ok().map(|count| count.min(length))
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
