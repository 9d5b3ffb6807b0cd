// SPDX-License-Identifier: GPL-2.0

//! `struct file` of another filesystem, opened for reading by the kernel.
//!
//! Locking: a file is counted, and reading takes the locks of its own filesystem, in the order of a page fault
//! on a mapping of the file: this is called with folios locked that are filled from it. The file's `i_rwsem` is
//! above these: somebody who writes to the file holds it while they have page faults on what they write, which may
//! be a mapping of a file whose bytes are read from this one. So it is only tried (IOCB_NOWAIT) for direct I/O,
//! and on DAX; where `read_iter` waits for it (XFS, NFS and others do) the page cache is read as a page fault
//! reads it.

use core::mem::MaybeUninit;
use core::ops::Range;
use core::ptr::NonNull;

use kernel::alloc::Flags;
use kernel::error::{from_err_ptr, to_result};
use kernel::ffi::{c_int, c_ulong};
use kernel::fs::File;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::time::{delay::fsleep, Delta};

use super::credential::StackedRead;
use super::descriptor::check_readable;
use super::task::is_being_killed;
use crate::bindings::{
    self, BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FUSE_SUPER_MAGIC, XFS_SUPER_MAGIC,
};

/// How often reading on DAX is tried while somebody holds the file's lock, and how long is waited in between:
/// some seconds in all.
const DAX_TRIES: u32 = 5000;
const DAX_PAUSE: Delta = Delta::from_millis(1);

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

    /// Whether its filesystem can drop from the page cache what is read, at once. On DAX there is none.
    fn can_drop(&self) -> bool {
        // SAFETY: the file is valid and has operations.
        let flags = unsafe { (*(*self.file.as_ptr()).f_op).fop_flags };
        flags & bindings::PEERFS_FOP_DONTCACHE != 0 && !self.is_dax()
    }

    /// Whether it is in memory as it is, without a page cache.
    fn is_dax(&self) -> bool {
        // SAFETY: the file is valid, and has an inode.
        unsafe { bindings::peerfs_is_dax((*self.file.as_ptr()).f_inode) }
    }

    /// The magic number of its filesystem.
    fn magic(&self) -> u32 {
        // SAFETY: the file is valid, and has an inode and that a superblock.
        unsafe { (*(*(*self.file.as_ptr()).f_inode).i_sb).s_magic as u32 }
    }

    /// Whether `read_iter` may wait for the file's `i_rwsem`, as far as the page cache can be read without it.
    fn is_read_by_folios(&self) -> bool {
        // SAFETY: the file is valid, and has a mapping with operations.
        let read_folio = unsafe { (*(*(*self.file.as_ptr()).f_mapping).a_ops).read_folio };
        let is_known = matches!(
            self.magic(),
            EXT4_SUPER_MAGIC | BTRFS_SUPER_MAGIC | FUSE_SUPER_MAGIC
        );
        read_folio.is_some() && !is_known && self.has_own_pages()
    }

    /// Whether its pages are those of its inode. If not, as in filesystems of this module, `read_iter` alone knows
    /// which ones a stacked read may wait for.
    fn has_own_pages(&self) -> bool {
        let file = self.file.as_ptr();
        // SAFETY: the file is valid, and has an inode and a mapping.
        unsafe { (*(*file).f_mapping).host == (*file).f_inode }
    }

    /// Whether its filesystem has direct I/O, and with IOCB_NOWAIT only tries the file's `i_rwsem`. btrfs, for
    /// one, waits for it all the same.
    fn can_be_read_directly(&self) -> bool {
        let can = bindings::PEERFS_FMODE_DIRECT_NOWAIT;
        // SAFETY: the file is valid.
        let mode = unsafe { (*self.file.as_ptr()).f_mode };
        mode & can == can
            && matches!(self.magic(), EXT4_SUPER_MAGIC | XFS_SUPER_MAGIC)
            && !self.is_dax()
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
        if self.is_read_by_folios() {
            // SAFETY: by the requirements.
            return unsafe { self.read_folios(buffer, length, offset) };
        }
        let file = self.file.as_ptr();
        // SAFETY: the file is valid.
        let can_try = unsafe { (*file).f_mode } & bindings::PEERFS_FMODE_NOWAIT != 0;
        let mut flags = match (self.can_drop(), can_try && self.is_dax()) {
            (true, _) => bindings::PEERFS_RWF_DONTCACHE,
            (_, true) => bindings::PEERFS_RWF_NOWAIT,
            _ => 0,
        };
        let mut tries = DAX_TRIES;
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
            let _stacked = StackedRead::of(&self.file);
            // SAFETY: the part is the rest of the buffer, and both live until the read is over. The
            // file is open for reading.
            let count = unsafe {
                bindings::iov_iter_kvec(iter.as_mut_ptr(), bindings::ITER_DEST, &part, 1, rest);
                bindings::vfs_iter_read(file, iter.as_mut_ptr(), &mut position, flags)
            };
            match usize::try_from(count) {
                Ok(0) => break,
                Ok(count) => done += count.min(rest),
                Err(_) => {
                    let error = Error::from_errno(count as i32);
                    if error != EAGAIN || flags & bindings::PEERFS_RWF_NOWAIT == 0 {
                        return Err(error);
                    }
                    flags = self.flags_of_next_try(flags)?;
                    tries = tries.checked_sub(1).ok_or(EIO)?;
                }
            }
        }
        Ok(done)
    }

    /// How to go on on DAX after a read that would have waited: if not for the lock, it may wait.
    fn flags_of_next_try(&self, flags: c_int) -> Result<c_int> {
        if is_being_killed() {
            return Err(EINTR);
        }
        // SAFETY: the file is valid, and has an inode.
        if !unsafe { bindings::peerfs_inode_is_locked((*self.file.as_ptr()).f_inode) } {
            return Ok(flags & !bindings::PEERFS_RWF_NOWAIT);
        }
        fsleep(DAX_PAUSE);
        Ok(flags)
    }

    /// As [`OpenedFile::read_raw`], by folios of the page cache, which are dropped again if none was there.
    ///
    /// # Safety
    ///
    /// `buffer` must be valid for writes of `length` bytes, and nobody else's.
    unsafe fn read_folios(&self, buffer: *mut u8, length: usize, offset: u64) -> Result<usize> {
        let file = self.file.as_ptr();
        let end = offset.saturating_add(length as u64).min(self.size());
        let Some(last) = end.checked_sub(1).filter(|last| *last >= offset) else {
            return Ok(0);
        };
        let index = |offset: u64| c_ulong::try_from(offset / PAGE_SIZE as u64);
        let (first_index, last_index) = (index(offset)?, index(last)?);
        // SAFETY: the file is valid and has a mapping.
        let mapping = unsafe { (*file).f_mapping };
        let was_there = {
            let (first, last) = (i64::try_from(offset)?, i64::try_from(last)?);
            // SAFETY: as above.
            unsafe { bindings::filemap_range_has_page(mapping, first, last) }
        };
        let _stacked = StackedRead::of(&self.file);
        if !was_there {
            let pages = (last_index - first_index).saturating_add(1);
            // SAFETY: the file is valid. It takes the locks of a page fault.
            unsafe { bindings::peerfs_page_cache_sync_readahead(file, first_index, pages) };
        }
        let mut position = offset;
        while position < end {
            let folio = CachedFolio::read(&self.file, index(position)?)?;
            let range = folio.range();
            let inside = position.checked_sub(range.start).ok_or(EIO)?;
            let count = range.end.min(end).checked_sub(position);
            let count = count.filter(|count| *count > 0).ok_or(EIO)?;
            // SAFETY: the folio has so many bytes there, and stays; the buffer has room for them.
            unsafe {
                let from = folio.address().add(inside as usize);
                let to = buffer.add((position - offset) as usize);
                core::ptr::copy_nonoverlapping(from, to, count as usize);
            }
            position = position.saturating_add(count);
        }
        if !was_there {
            // SAFETY: the mapping is valid. Folios that somebody uses stay.
            unsafe { bindings::invalidate_mapping_pages(mapping, first_index, last_index) };
        }
        Ok((end - offset) as usize)
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
        let _stacked = StackedRead::of(&self.file);
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

/// An up-to-date folio of a file's page cache, which stays while this does.
struct CachedFolio(NonNull<bindings::folio>);

impl CachedFolio {
    /// The folio that has this page of a file, read if need be. Whoever is being killed does not wait.
    fn read(file: &File, index: c_ulong) -> Result<Self> {
        let file = file.as_ptr();
        // SAFETY: the file is valid and has a mapping.
        let mapping = unsafe { (*file).f_mapping };
        // SAFETY: the mapping is valid; the result is a reference of ours, or an error.
        let found = unsafe { bindings::peerfs_filemap_get_folio(mapping, index) };
        if let Ok(found) = from_err_ptr(found) {
            let folio = CachedFolio(NonNull::new(found).ok_or(EIO)?);
            // SAFETY: the folio is valid.
            to_result(unsafe { bindings::peerfs_folio_wait_locked_killable(found) })?;
            // SAFETY: as above.
            if unsafe { bindings::peerfs_folio_test_uptodate(found) } {
                return Ok(folio);
            }
        }
        // SAFETY: the file and its mapping are valid, and the mapping can read folios. The lock is the one that a
        // page fault takes, and given back at once.
        let folio = unsafe {
            bindings::peerfs_filemap_invalidate_lock_shared(mapping);
            let folio = bindings::read_cache_folio(mapping, index, None, file);
            bindings::peerfs_filemap_invalidate_unlock_shared(mapping);
            folio
        };
        Ok(CachedFolio(NonNull::new(from_err_ptr(folio)?).ok_or(EIO)?))
    }

    /// The bytes of the file that it has.
    fn range(&self) -> Range<u64> {
        // SAFETY: the folio is valid, and not split while there is a reference.
        let (start, size) = unsafe {
            (
                bindings::peerfs_folio_pos(self.0.as_ptr()),
                bindings::peerfs_folio_size(self.0.as_ptr()),
            )
        };
        let start = u64::try_from(start).unwrap_or(0);
        start..start.saturating_add(size as u64)
    }

    fn address(&self) -> *const u8 {
        // SAFETY: the folio is valid; there is no highmem (see Kconfig), so that it has an address.
        unsafe { bindings::peerfs_folio_address(self.0.as_ptr()) }.cast()
    }
}

impl Drop for CachedFolio {
    fn drop(&mut self) {
        // SAFETY: the reference is ours.
        unsafe { bindings::peerfs_folio_put(self.0.as_ptr()) };
    }
}
