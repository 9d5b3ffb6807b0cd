// SPDX-License-Identifier: GPL-2.0

//! Locked folios of the page cache that are being filled.
//!
//! Locking: a folio is locked by whoever asks for it to be filled (`read_folio`, `readahead`). In readahead it
//! stays locked, and with it in its mapping, as long as a [`FolioBytes`] covers a part of it; then it
//! is unlocked exactly once, by whichever task gave up the last part. The mapping's inode stays until then, too:
//! to evict it would be to wait for its folios, which memory reclaim must not do. In `read_folio` it is unlocked
//! while its bytes are read ([`WantedFolio`]): those who want it, too, then wait each for itself, and can be
//! killed, and frozen. No other lock is involved.

use core::ops::Range;
use core::ptr::NonNull;

use kernel::error::to_result;
use kernel::ffi::{c_int, c_uint, c_ulong, c_ushort};
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Full, Relaxed};
use kernel::sync::Arc;

use crate::rust::bindings;

/// A locked folio.
///
/// # Invariants
///
/// `folio` is locked by us, and not yet up to date, while `parts` is not zero.
struct Folio {
    folio: NonNull<bindings::folio>,
    /// Where it ends, in bytes from the start of the first folio.
    end: usize,
    /// How many [`FolioBytes`] cover some of it.
    parts: Atomic<i32>,
    /// Whether one of them was given up unfilled.
    failed: Atomic<bool>,
}

impl Folio {
    /// Takes over the lock of `folio`, which follows what ends at `start`.
    ///
    /// # Safety
    ///
    /// `folio` must be valid and locked for the caller, who hands the lock over.
    unsafe fn new(folio: NonNull<bindings::folio>, start: usize) -> Self {
        // SAFETY: it is valid, and its size does not change while it is locked.
        let size = unsafe { bindings::peerfs_folio_size(folio.as_ptr()) };
        Folio {
            folio,
            end: start.saturating_add(size),
            // INVARIANT: by the requirements.
            parts: Atomic::new(1),
            failed: Atomic::new(false),
        }
    }

    /// One part more.
    fn add_part(&self) {
        self.parts.add(1, Relaxed);
    }

    /// One part less; the last one unlocks the folio.
    fn end_part(&self, filled: bool) {
        if !filled {
            self.failed.store(true, Relaxed);
        }
        // Full: what the other tasks wrote is there before the folio is said to be up to date.
        if self.parts.fetch_sub(1, Full) == 1 {
            let filled = !self.failed.load(Relaxed);
            // SAFETY: by the invariant it is locked, and nobody else unlocks it.
            unsafe {
                bindings::peerfs_flush_dcache_folio(self.folio.as_ptr());
                bindings::folio_end_read(self.folio.as_ptr(), filled);
            }
        }
    }
}

/// A reference to the inode that a mapping belongs to.
struct Host(NonNull<bindings::inode>);

impl Host {
    /// # Safety
    ///
    /// `folio` must be valid and locked, and somebody have a reference to its mapping's inode.
    unsafe fn of(folio: NonNull<bindings::folio>) -> Result<Self> {
        // SAFETY: by the requirements; a folio that is locked for being filled has a mapping.
        let host = unsafe { (*(*folio.as_ptr()).__bindgen_anon_1.__bindgen_anon_1.mapping).host };
        let host = NonNull::new(host).ok_or(EINVAL)?;
        // SAFETY: there is a reference.
        unsafe { bindings::ihold(host.as_ptr()) };
        Ok(Host(host))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // SAFETY: the reference is ours. It may be the last one: folios are filled by tasks that may sleep.
        unsafe { bindings::iput(self.0.as_ptr()) };
    }
}

impl Drop for Folio {
    fn drop(&mut self) {
        if *self.parts.get_mut() != 0 {
            // SAFETY: by the invariant it is locked, and nobody else has this object any more.
            unsafe { bindings::folio_end_read(self.folio.as_ptr(), false) };
        }
    }
}

/// Folios that follow each other in a file, and where the kernel sees their bytes as one piece.
///
/// # Invariants
///
/// `address` is that of the folios' bytes, in order and without gaps. A byte is accessed only through
/// the one [`FolioBytes`] that covers it.
struct Folios {
    folios: KVVec<Folio>,
    position: u64,
    address: NonNull<u8>,
    /// Pages that are mapped at `address`; 0 if it is the address of the only folio.
    mapped: c_uint,
    /// Given up last, with all folios unlocked.
    _host: Host,
}

// SAFETY: folios may be filled and unlocked by any task.
unsafe impl Send for Folios {}
// SAFETY: what several tasks change is atomic, and the bytes are divided between them.
unsafe impl Sync for Folios {}

impl Folios {
    fn new(folios: KVVec<Folio>) -> Result<Self> {
        let first = folios.first().ok_or(EINVAL)?.folio;
        // SAFETY: it is locked, so it stays where it is.
        let position = unsafe { bindings::peerfs_folio_pos(first.as_ptr()) };
        // SAFETY: as above, and whoever asked for it has the file open.
        let host = unsafe { Host::of(first) }?;
        let (address, mapped) = if folios.len() == 1 {
            // SAFETY: as above; there is no highmem (see Kconfig), so that it has an address.
            (unsafe { bindings::peerfs_folio_address(first.as_ptr()) }, 0)
        } else {
            let length = folios.last().map_or(0, |folio| folio.end);
            let count = length / kernel::page::PAGE_SIZE;
            let mut pages = KVVec::with_capacity(count, GFP_KERNEL)?;
            let mut start = 0;
            for folio in &folios {
                for page in 0..(folio.end - start) / kernel::page::PAGE_SIZE {
                    // SAFETY: the folio has this many pages.
                    let page = unsafe { bindings::peerfs_folio_page(folio.folio.as_ptr(), page) };
                    pages.push(page, GFP_KERNEL)?;
                }
                start = folio.end;
            }
            let count = c_uint::try_from(count)?;
            // SAFETY: there are `count` pages, which stay until they are unlocked. Nobody accesses
            // them through the mapping after that.
            let address = unsafe { bindings::vm_map_ram(pages.as_mut_ptr(), count, NO_NODE) };
            (address, count)
        };
        Ok(Folios {
            folios,
            position: u64::try_from(position).unwrap_or(0),
            address: NonNull::new(address.cast()).ok_or(ENOMEM)?,
            mapped,
            _host: host,
        })
    }

    /// The folios that cover some of these bytes.
    fn covering(&self, range: Range<usize>) -> impl Iterator<Item = &Folio> {
        let from = self
            .folios
            .partition_point(|folio| folio.end <= range.start);
        let rest = self.folios.get(from..).unwrap_or_default();
        // How many begin before the range ends: the first one does, unless the range is empty.
        let count = rest.partition_point(|folio| folio.end < range.end) + 1;
        let count = if range.is_empty() { 0 } else { count };
        rest.iter().take(count)
    }
}

/// `NUMA_NO_NODE`.
const NO_NODE: c_int = -1;

impl Drop for Folios {
    fn drop(&mut self) {
        if self.mapped != 0 {
            // SAFETY: this many pages were mapped here.
            unsafe { bindings::vm_unmap_ram(self.address.as_ptr().cast(), self.mapped) };
        }
    }
}

/// Bytes of locked folios that are to be filled, by whichever task has this. Dropped without
/// [`FolioBytes::filled`], the folios that it covers are unlocked as not read.
///
/// # Invariants
///
/// No other `FolioBytes` covers any of the bytes, and each folio that has some of them counts this
/// one among its parts.
pub(crate) struct FolioBytes {
    folios: Arc<Folios>,
    range: Range<usize>,
    filled: bool,
}

impl FolioBytes {
    /// All bytes of these folios.
    fn new(folios: KVVec<Folio>) -> Result<Self> {
        let end = folios.last().map_or(0, |folio| folio.end);
        let folios = Arc::new(Folios::new(folios)?, GFP_KERNEL)?;
        // INVARIANT: each folio was made with one part, which is this one.
        Ok(FolioBytes {
            folios,
            range: 0..end,
            filled: false,
        })
    }

    /// Where the bytes begin in the file.
    pub(crate) fn position(&self) -> u64 {
        self.folios.position.saturating_add(self.range.start as u64)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.range.len()
    }

    /// The first `length` bytes (all, if there are fewer), and the rest.
    pub(crate) fn split_at(mut self, length: usize) -> (FolioBytes, FolioBytes) {
        let middle = self.range.start.saturating_add(length).min(self.range.end);
        let end = core::mem::replace(&mut self.range.end, middle);
        if !self.range.is_empty() && middle < end {
            // The folio that both have some of, if there is one.
            let shared = self.folios.covering(middle - 1..middle).next();
            if let Some(folio) = shared.filter(|folio| folio.end > middle) {
                folio.add_part();
            }
        }
        // INVARIANT: the ranges are disjoint; if the first one is empty, the second takes its part.
        let rest = FolioBytes {
            folios: self.folios.clone(),
            range: middle..end,
            filled: false,
        };
        (self, rest)
    }

    /// The bytes, to write.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: by the invariants of both types the bytes are there, initialised as all memory of
        // the page cache, and only ours.
        unsafe {
            core::slice::from_raw_parts_mut(
                self.folios.address.as_ptr().add(self.range.start),
                self.range.len(),
            )
        }
    }

    /// Fills the bytes with a copy of `source`; EINVAL if that has another length.
    pub(crate) fn fill_with(mut self, source: &[u8]) -> Result {
        let bytes = self.as_mut_slice();
        if bytes.len() != source.len() {
            return Err(EINVAL);
        }
        // SAFETY: both have this length, and nobody else has `bytes`.
        unsafe {
            core::ptr::copy_nonoverlapping(source.as_ptr(), bytes.as_mut_ptr(), source.len())
        };
        self.filled();
        Ok(())
    }

    /// Fills the bytes with zeros.
    pub(crate) fn fill_with_zeros(mut self) {
        self.as_mut_slice().fill(0);
        self.filled();
    }

    /// Says that every byte was written.
    pub(crate) fn filled(mut self) {
        self.filled = true;
    }
}

impl Drop for FolioBytes {
    fn drop(&mut self) {
        for folio in self.folios.covering(self.range.clone()) {
            folio.end_part(self.filled);
        }
    }
}

/// A folio that somebody waits for, unlocked while its bytes are read.
pub(crate) struct WantedFolio {
    folio: NonNull<bindings::folio>,
    mapping: *mut bindings::address_space,
    range: Range<u64>,
}

impl WantedFolio {
    /// Unlocks a folio.
    ///
    /// # Safety
    ///
    /// `folio` must be locked for the caller, who keeps a reference to it, and to its mapping's inode, for longer
    /// than this lives.
    pub(crate) unsafe fn unlock(folio: NonNull<bindings::folio>) -> Self {
        // SAFETY: by the requirements.
        unsafe {
            let wanted = WantedFolio {
                folio,
                mapping: (*folio.as_ptr()).__bindgen_anon_1.__bindgen_anon_1.mapping,
                range: Self::range_of(folio),
            };
            bindings::folio_unlock(folio.as_ptr());
            wanted
        }
    }

    /// # Safety
    ///
    /// `folio` must be locked.
    unsafe fn range_of(folio: NonNull<bindings::folio>) -> Range<u64> {
        // SAFETY: by the requirements.
        let (position, size) = unsafe {
            (
                bindings::peerfs_folio_pos(folio.as_ptr()),
                bindings::peerfs_folio_size(folio.as_ptr()),
            )
        };
        let position = u64::try_from(position).unwrap_or(0);
        position..position.saturating_add(size as u64)
    }

    /// Which bytes of the file it is for.
    pub(crate) fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Fills it, unless somebody else has. `false`: it is not the file's any more.
    pub(crate) fn fill_with(self, bytes: &[u8]) -> Result<bool> {
        let folio = self.folio.as_ptr();
        // SAFETY: the caller of `unlock` keeps it.
        to_result(unsafe { bindings::peerfs_folio_lock_killable(folio) })?;
        // SAFETY: it is locked now, and unlocked once, below. There is no highmem (see Kconfig), so that it has
        // an address, and nobody else writes to it: it is not up to date, and what fills it has it locked.
        unsafe {
            let mapping = (*folio).__bindgen_anon_1.__bindgen_anon_1.mapping;
            let same = mapping == self.mapping && Self::range_of(self.folio) == self.range;
            let fits = bytes.len() as u64 == self.range.end - self.range.start;
            if !same || !fits || bindings::peerfs_folio_test_uptodate(folio) {
                bindings::folio_unlock(folio);
                return Ok(same);
            }
            let address: *mut u8 = bindings::peerfs_folio_address(folio).cast();
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), address, bytes.len());
            bindings::peerfs_flush_dcache_folio(folio);
            bindings::folio_end_read(folio, true);
        }
        Ok(true)
    }
}

/// The folios of a readahead, in order.
pub(crate) struct Readahead<'a> {
    control: &'a mut bindings::readahead_control,
}

impl<'a> Readahead<'a> {
    /// # Safety
    ///
    /// `control` must be one that the VFS gave to `readahead`, which has not returned yet.
    pub(crate) unsafe fn from_raw(control: &'a mut bindings::readahead_control) -> Self {
        Readahead { control }
    }

    /// The range of the file that is to be read.
    pub(crate) fn range(&self) -> Range<u64> {
        let page = kernel::page::PAGE_SIZE as u64;
        let start = (self.control._index as u64).saturating_mul(page);
        let length = u64::from(self.control._nr_pages).saturating_mul(page);
        start..start.saturating_add(length)
    }

    /// Whether nobody waits for any of it, as far as the kernel says: whoever reads the file is still at
    /// what was read ahead before.
    pub(crate) fn is_asynchronous(&self) -> bool {
        let state = self.control.ra;
        if state.is_null() {
            return false;
        }
        // SAFETY: the state is valid as long as the control is. Others who read through the same file may
        // change it meanwhile, whole words at a time; all that can come of it is a wrong answer.
        let (start, size, ahead) = unsafe {
            (
                (&raw const (*state).start).read_volatile(),
                (&raw const (*state).size).read_volatile(),
                (&raw const (*state).async_size).read_volatile(),
            )
        };
        // `page_cache_async_ra` makes it so, and `page_cache_sync_ra` never does.
        start == self.control._index && ahead == size
    }

    /// Adds what `range` has more, as far as it is not in the page cache and there is memory for it.
    pub(crate) fn expand(&mut self, range: Range<u64>) {
        let now = self.range();
        if range.start < now.start {
            let length = usize::try_from(now.end - range.start);
            if let (Ok(start), Ok(length)) = (i64::try_from(range.start), length) {
                // SAFETY: the control is valid, and no folio was taken from it yet.
                unsafe { bindings::readahead_expand(self.control, start, length) };
            }
            // Somebody reads on from there: windows that follow each other stay aligned, for large folios.
            if self.range().start > range.start {
                return;
            }
        }
        // That function adds page by page. What is behind has larger folios, as the kernel's own windows
        // have after the first one: they are quicker to fill, to read and to free.
        // SAFETY: the control and its mapping are valid.
        let largest = unsafe { bindings::peerfs_mapping_max_folio_order(self.control.mapping) };
        let end = range.end.div_ceil(kernel::page::PAGE_SIZE as u64);
        loop {
            let index = self.control._index as u64 + u64::from(self.control._nr_pages);
            let Some(order) = end.saturating_sub(index).checked_ilog2() else {
                return;
            };
            let order = order.min(index.trailing_zeros()).min(largest);
            if !(0..=order).rev().any(|order| self.append(index, order)) {
                return;
            }
        }
    }

    /// Adds a folio of 2^`order` pages at `index`, which is where the last one ends; `false` if something of
    /// it is in the page cache, or there is no memory.
    fn append(&mut self, index: u64, order: c_uint) -> bool {
        let Ok(index) = c_ulong::try_from(index) else {
            return false;
        };
        let mapping = self.control.mapping;
        // SAFETY: the mapping is valid, and whoever calls `readahead` keeps others from taking it apart.
        // Once it is added, the folio is locked, and the control's as if it had been there.
        unsafe {
            let gfp = bindings::peerfs_readahead_gfp_mask(mapping);
            let folio = bindings::peerfs_filemap_alloc_folio(gfp, order);
            if folio.is_null() {
                return false;
            }
            if bindings::filemap_add_folio(mapping, folio, index, gfp) < 0 {
                bindings::peerfs_folio_put(folio);
                return false;
            }
            let pages = 1 << order;
            self.control._nr_pages += pages;
            // As if the kernel had chosen this window: the next one has larger folios. Others who read
            // through the same file may change it meanwhile; nothing but how far is read ahead, and in
            // how large pieces, comes of it.
            let state = self.control.ra;
            if !state.is_null() {
                (*state).size = (*state).size.saturating_add(pages);
                (*state).async_size = (*state).async_size.saturating_add(pages);
                (*state).order = (*state).order.max(order as c_ushort);
            }
        }
        true
    }

    /// Takes all folios. Without memory for that they are dropped from the page cache, or left to
    /// those who need them.
    pub(crate) fn take(self) -> Result<FolioBytes> {
        let mut folios = KVVec::with_capacity(self.control._nr_pages as usize, GFP_KERNEL)?;
        let mut start = 0;
        loop {
            // SAFETY: the control is valid.
            let folio = unsafe { bindings::peerfs_readahead_folio(self.control) };
            let Some(folio) = NonNull::new(folio) else {
                break;
            };
            // SAFETY: it is handed over locked; the page cache keeps it while it is.
            let folio = unsafe { Folio::new(folio, start) };
            start = folio.end;
            folios.push(folio, GFP_KERNEL)?;
        }
        FolioBytes::new(folios)
    }
}
