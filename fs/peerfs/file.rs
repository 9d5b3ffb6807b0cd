// SPDX-License-Identifier: GPL-2.0

//! Regular files: from ranges of a file over extents to chunks.
#![forbid(unsafe_code)]

use core::ops::Range;

use kernel::alloc::flags::GFP_KERNEL_ACCOUNT;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::atomic::Relaxed;
use peerfs_format::{first_data, first_hole, pieces, Bitmap, ExtentList, Source};

use crate::rust::fs::{AddressSpaceOperations, ContentId, FileOperations};
use crate::rust::mm::{FolioBytes, Readahead};
use crate::rust::task::is_being_killed;
use crate::store::{ahead, lengthened, widened, PackView, Runs, Store, Views};
use crate::upcall::Daemon;
use crate::{trace, Inode, PeerFs};

impl FileOperations for PeerFs {
    fn open(inode: &Inode) -> Result {
        if inode.data().opened.load(Relaxed) {
            return Ok(());
        }
        open_packs(inode)
    }

    fn content_id(inode: &Inode) -> Result<Option<ContentId>> {
        // Whoever cannot get a pack's index hears of it when reading, and has pages of their own.
        let store = &inode.super_block().data().store;
        match store.shares_pages() {
            true => store.content_id(inode.data(), inode.size()),
            false => Ok(None),
        }
    }

    fn seek_data(inode: &Inode, offset: u64) -> Result<Option<u64>> {
        Ok(first_data(inode.data(), offset..inode.size()))
    }

    fn seek_hole(inode: &Inode, offset: u64) -> Result<u64> {
        Ok(first_hole(inode.data(), offset..inode.size()))
    }
}

/// Opens the packs that the file lies in: the last chance to walk a path, for reading must not.
#[cold]
fn open_packs(inode: &Inode) -> Result {
    let data = inode.data();
    let store = &inode.super_block().data().store;
    let mut all = true;
    let mut last = None;
    // Which packs were opened, for a file that goes to and fro between many.
    let mut opened = Bitmap(KVVec::new());
    if data.count() > 1 {
        let packs = u32::try_from(store.known_blob_table()?.packs.len())?;
        opened
            .0
            .resize(Bitmap::size(packs), 0, GFP_KERNEL_ACCOUNT)?;
    }
    for extent in (0..data.count()).map_while(|index| data.extent(index)) {
        if last == Some(extent.pack) || opened.set(extent.pack, true) {
            continue;
        }
        if is_being_killed() {
            return Err(EINTR);
        }
        all &= store.open_pack(extent.pack)?;
        last = Some(extent.pack);
    }
    data.opened.store(all, Relaxed);
    Ok(())
}

impl AddressSpaceOperations for PeerFs {
    fn read(inode: &Inode, range: Range<u64>) -> Result<KVVec<u8>> {
        let result = read(inode, range.clone());
        trace::read(inode, &range, &result);
        result
    }

    fn readahead(inode: &Inode, mut readahead: Readahead<'_>) {
        let store = &inode.super_block().data().store;
        let window = readahead.range();
        let mut views = Views::new(store);
        ask_ahead(inode, window.clone(), &mut views);
        let somebody_waits = !readahead.is_asynchronous();
        let range = match somebody_waits {
            true => window.clone(),
            false => lengthened(window.clone()),
        };
        // What a chunk has of the file is decoded anyway. Pages that it shares with the next chunk are left
        // out, or that would have to be decoded as well.
        let wide = widened(
            inode.data(),
            range.start..range.end.min(inode.size()),
            |pack, offset| views.chunk_range(pack, offset),
        );
        let start = wide.start.next_multiple_of(PAGE_SIZE as u64);
        let end = match wide.end {
            end if end >= inode.size() => end,
            end => end - end % PAGE_SIZE as u64,
        };
        readahead.expand(start..end);
        trace::readahead(inode, &window, &readahead.range(), somebody_waits);
        let Ok(bytes) = readahead.take() else {
            return;
        };
        let mut runs = Runs::new(store);
        // An error is left to the reader who needs the folio, if there is one.
        let _ = divide(inode, bytes, |pack, offset, bytes| {
            runs.add(views.get(pack)?, offset, bytes)
        });
        runs.start(somebody_waits);
    }
}

/// Reads bytes, and waits for what is missing. Those behind the end of the file are zeros.
fn read(inode: &Inode, range: Range<u64>) -> Result<KVVec<u8>> {
    let store = &inode.super_block().data().store;
    let end = range.end.min(inode.size()).max(range.start);
    let length = usize::try_from(range.end.saturating_sub(range.start))?;
    // As long as the daemon is waited for each reader has one, of up to the largest folio: charged to them.
    let mut bytes = KVVec::with_capacity(length, GFP_KERNEL_ACCOUNT)?;
    for piece in pieces(inode.data(), range.start..end) {
        match piece.source {
            Source::Hole => {
                bytes.extend_with(usize::try_from(piece.length)?, 0, GFP_KERNEL_ACCOUNT)?
            }
            Source::Pack { pack, offset } => {
                read_pack(store, &store.view(pack)?, offset, piece.length, &mut bytes)?;
            }
        }
    }
    let behind = length.saturating_sub(bytes.len());
    bytes.extend_with(behind, 0, GFP_KERNEL_ACCOUNT)?;
    Ok(bytes)
}

/// Appends `length` bytes from an offset of a pack's uncompressed address space on.
fn read_pack(
    store: &Store<Daemon>,
    view: &PackView,
    offset: u32,
    length: u64,
    bytes: &mut KVVec<u8>,
) -> Result {
    let numbers = store.numbers(view, offset, length)?;
    for part in store.parts(view, offset, length) {
        // A folio may have as many chunks as bytes.
        if is_being_killed() {
            return Err(EINTR);
        }
        let part = part?;
        let chunk = store.chunk(view, &part, numbers.end)?;
        let here = chunk.bytes.get(part.range()).ok_or(EIO)?;
        bytes.extend_from_slice(here, GFP_KERNEL_ACCOUNT)?;
    }
    Ok(())
}

/// Asks for what is being read and for what will be wanted after it, as far as it is missing.
fn ask_ahead(inode: &Inode, range: Range<u64>, views: &mut Views<'_, Daemon>) {
    let data = inode.data();
    // Two tasks that read the same file at once may ask for something twice, which does no harm.
    let (read, asked) = (data.read.load(Relaxed), data.asked.load(Relaxed));
    data.read.store(range.end, Relaxed);
    let Some(wanted) = ahead(read, asked, range.clone(), inode.size()) else {
        return;
    };
    // What somebody waits for first, and by itself: an answer comes when all of it is there.
    let now = wanted.start.max(range.start)..wanted.end.min(range.end);
    let behind = now.end.max(wanted.start)..wanted.end;
    let before = wanted.start..now.start.min(wanted.end);
    let asked = [now, behind, before].map(|wanted| ask(inode, wanted, &range, views));
    // The next one tries again, when the packs' indexes are here.
    if asked.iter().all(Result::is_ok) {
        data.asked.store(wanted.end, Relaxed);
    }
}

/// Pieces of a range that are asked for at the most: enough for 16 MiB of small files, whatever an image has.
const PIECES_MAX: usize = 1024;

/// Asks for what is missing of a range, and does not wait for it. The indexes of what is being read its reader gets;
/// other ones are asked for as well.
fn ask(
    inode: &Inode,
    range: Range<u64>,
    reading: &Range<u64>,
    views: &mut Views<'_, Daemon>,
) -> Result {
    let store = &inode.super_block().data().store;
    let mut asked = Ok(());
    for piece in pieces(inode.data(), range).take(PIECES_MAX) {
        // Each may be of another pack, whose index is read anew.
        if is_being_killed() {
            return Err(EINTR);
        }
        if let Source::Pack { pack, offset } = piece.source {
            match views.get_partial(pack) {
                Ok(Some(view)) => store.prefetch(view, offset, piece.length)?,
                Ok(None) => {}
                Err(error) if error == EAGAIN => {
                    if !reading.contains(&piece.file_offset) {
                        store.prefetch_index(pack)?;
                    }
                    asked = Err(EAGAIN);
                }
                Err(error) => return Err(error),
            }
        }
    }
    asked
}

/// Divides bytes of a file by where they come from. Holes and what is behind the end of the file are
/// filled here, the others by `fill`, which gets a pack and an offset in its uncompressed address space.
fn divide(
    inode: &Inode,
    bytes: FolioBytes,
    mut fill: impl FnMut(u32, u32, FolioBytes) -> Result,
) -> Result {
    let start = bytes.position();
    let end = start.saturating_add(bytes.len() as u64).min(inode.size());
    let mut rest = bytes;
    for piece in pieces(inode.data(), start..end.max(start)) {
        let (bytes, behind) = rest.split_at(usize::try_from(piece.length)?);
        rest = behind;
        match piece.source {
            Source::Hole => bytes.fill_with_zeros(),
            Source::Pack { pack, offset } => fill(pack, offset, bytes)?,
        }
    }
    rest.fill_with_zeros();
    Ok(())
}
