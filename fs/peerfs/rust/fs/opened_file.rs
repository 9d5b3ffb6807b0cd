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

use kernel::alloc::Flags;
use kernel::ffi::{c_int, c_ulong};
use kernel::fs::File;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::time::{delay::fsleep, Delta};

use super::descriptor::check_readable;
use crate::rust::bindings::{
    self, BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FUSE_SUPER_MAGIC, XFS_SUPER_MAGIC,
};
use crate::rust::cred::StackedRead;
use crate::rust::task::is_being_killed;

/// How often reading on DAX is tried while somebody holds the file's lock, and how long is waited in between:
/// some seconds in all.
const DAX_TRIES: u32 = 5000;
const DAX_PAUSE: Delta = Delta::from_millis(1);

/// Which file: equal however often it is open. It is the address of the inode, so it says something only while somebody
/// has the file open.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct FileId(usize);

/// A regular file that is open for reading.
#[derive(Clone)]
pub(crate) struct OpenedFile {
    file: ARef<File>,
    /// Whether what is read of it stays in the page cache.
    stays_cached: bool,
}

/// Whether both are the same file.
impl PartialEq for OpenedFile {
    fn eq(&self, other: &OpenedFile) -> bool {
        self.id() == other.id()
    }
}

impl OpenedFile {
    /// Takes a file that somebody has opened; EINVAL if it is no regular file, EBADF if it is not
    /// open for reading.
    pub(crate) fn new(file: ARef<File>) -> Result<Self> {
        check_readable(&file)?;
        let opened = OpenedFile {
            file,
            stays_cached: false,
        };
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

    /// The file, of which what is read stays in the page cache: for little that is read often.
    pub(crate) fn staying_cached(self) -> Self {
        OpenedFile {
            stays_cached: true,
            ..self
        }
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

    /// Which file it is.
    pub(crate) fn id(&self) -> FileId {
        // SAFETY: the file is valid.
        FileId(unsafe { (*self.file.as_ptr()).f_inode }.addr())
    }

    /// Whether it has no name any more.
    pub(crate) fn is_unlinked(&self) -> bool {
        // SAFETY: the file is valid, and has an inode.
        unsafe { bindings::peerfs_is_unlinked((*self.file.as_ptr()).f_inode) }
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
        let way = self.way();
        let is_cached = match way {
            Way::PageCache if !self.stays_cached => self.has_cached(offset, length)?,
            _ => true,
        };
        // SAFETY: by the requirements.
        let result = unsafe { self.read_parts(way, buffer, length, offset) };
        if !is_cached {
            self.drop_cached(offset, length)?;
        }
        result
    }

    /// As [`OpenedFile::read_raw`], this way.
    ///
    /// # Safety
    ///
    /// As for [`OpenedFile::read_raw`].
    unsafe fn read_parts(
        &self,
        mut way: Way,
        buffer: *mut u8,
        length: usize,
        offset: u64,
    ) -> Result<usize> {
        let file = self.file.as_ptr();
        let mut tries = DAX_TRIES;
        // Where nothing is said of a function to call when it is complete, reading waits for that.
        let mut request = bindings::kiocb {
            ki_filp: file,
            ki_pos: i64::try_from(offset)?,
            ..Default::default()
        };
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
                let iter = iter.as_mut_ptr();
                bindings::iov_iter_kvec(iter, bindings::ITER_DEST, &part, 1, rest);
                match way {
                    Way::ReadIter(flags) => {
                        bindings::vfs_iter_read(file, iter, &mut request.ki_pos, flags)
                    }
                    Way::PageCache => bindings::filemap_read(&mut request, iter, 0),
                }
            };
            match usize::try_from(count) {
                Ok(0) => break,
                Ok(count) => done += count.min(rest),
                Err(_) => {
                    let error = Error::from_errno(count as i32);
                    way = match way {
                        Way::ReadIter(flags)
                            if error == EAGAIN && flags & bindings::PEERFS_RWF_NOWAIT != 0 =>
                        {
                            Way::ReadIter(self.flags_of_next_try(flags)?)
                        }
                        _ => return Err(error),
                    };
                    tries = tries.checked_sub(1).ok_or(EIO)?;
                }
            }
        }
        Ok(done)
    }

    /// How the file is read.
    fn way(&self) -> Way {
        if self.is_read_by_folios() {
            return Way::PageCache;
        }
        // SAFETY: the file is valid.
        let can_try = unsafe { (*self.file.as_ptr()).f_mode } & bindings::PEERFS_FMODE_NOWAIT != 0;
        let drops = self.can_drop() && !self.stays_cached;
        Way::ReadIter(match (drops, can_try && self.is_dax()) {
            (true, _) => bindings::PEERFS_RWF_DONTCACHE,
            (_, true) => bindings::PEERFS_RWF_NOWAIT,
            _ => 0,
        })
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

    /// Whether something of a range is in the page cache.
    fn has_cached(&self, offset: u64, length: usize) -> Result<bool> {
        let first = i64::try_from(offset)?;
        let last = first.saturating_add(i64::try_from(length)?.saturating_sub(1));
        // SAFETY: the file is valid and has a mapping.
        Ok(unsafe {
            bindings::filemap_range_has_page((*self.file.as_ptr()).f_mapping, first, last)
        })
    }

    /// Drops a range from the page cache. Folios that somebody uses stay.
    fn drop_cached(&self, offset: u64, length: usize) -> Result {
        let last = offset.saturating_add(length as u64).saturating_sub(1);
        let index = |offset: u64| c_ulong::try_from(offset / PAGE_SIZE as u64);
        // SAFETY: the file is valid and has a mapping.
        unsafe {
            let mapping = (*self.file.as_ptr()).f_mapping;
            bindings::invalidate_mapping_pages(mapping, index(offset)?, index(last)?)
        };
        Ok(())
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
        let are_pages = |value| value % PAGE_SIZE == 0;
        if !self.can_be_read_directly()
            || !are_pages(buffer.addr())
            || !are_pages(length)
            || !are_pages(usize::try_from(offset).ok()?)
        {
            return None;
        }
        if self.has_cached(offset, length).ok()? {
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
}

/// A way to read a file.
#[derive(Clone, Copy)]
enum Way {
    /// By its filesystem's `read_iter`, with these flags (`RWF_*`).
    ReadIter(c_int),
    /// From the page cache, which a page fault fills in the same way, without what `read_iter` does besides.
    PageCache,
}
