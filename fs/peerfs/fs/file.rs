// SPDX-License-Identifier: GPL-2.0

//! Regular files: from ranges of a file over extents to chunks.
#![forbid(unsafe_code)]

use kernel::prelude::*;
use peerfs_format::{first_data, first_hole, pieces, Source};

use super::Inode;
use crate::store::Wait;
use crate::vfs::{LockedFolio, Readahead};

/// Opens the packs that the file lies in: the last chance to walk a path, for reading must not.
pub(super) fn open(inode: &Inode) -> Result {
    let mut opened = None;
    for extent in &inode.data().extents {
        if opened != Some(extent.pack) {
            inode.super_block().data().store.open_pack(extent.pack)?;
            opened = Some(extent.pack);
        }
    }
    Ok(())
}

/// Fills a folio, and waits for what is missing.
pub(super) fn read_folio(inode: &Inode, mut folio: LockedFolio<'_>) -> Result {
    fill(inode, &mut folio, Wait::Yes)?;
    folio.filled();
    Ok(())
}

/// Fills the folios of what is here, and asks for the rest.
pub(super) fn readahead(inode: &Inode, readahead: &mut Readahead<'_>) {
    while let Some(mut folio) = readahead.next_folio() {
        // An error is left to the reader who needs the folio, if there is one.
        if fill(inode, &mut folio, Wait::No).is_ok() {
            folio.filled();
        }
    }
}

fn fill(inode: &Inode, folio: &mut LockedFolio<'_>, wait: Wait) -> Result {
    let store = &inode.super_block().data().store;
    let start = folio.position();
    let size = folio.size();
    let end = start.saturating_add(size as u64).min(inode.size());
    for piece in pieces(&inode.data().extents, start..end.max(start)) {
        let place = usize::try_from(piece.file_offset.saturating_sub(start))?;
        let length = usize::try_from(piece.length)?;
        let (pack, offset) = match piece.source {
            Source::Hole => {
                folio.zero(place, length)?;
                continue;
            }
            Source::Pack { pack, offset } => (pack, offset),
        };
        let mut done = 0;
        while done < length {
            let from = u32::try_from(done)
                .ok()
                .and_then(|done| offset.checked_add(done))
                .ok_or(EIO)?;
            let until = from.saturating_add(u32::try_from(length - done).unwrap_or(u32::MAX));
            let chunk = store.chunk_at(pack, from, until, wait)?;
            let skipped = from.checked_sub(chunk.logical_offset).ok_or(EIO)?;
            let bytes = chunk.bytes.get(skipped as usize..).unwrap_or_default();
            let bytes = bytes.get(..length - done).unwrap_or(bytes);
            if bytes.is_empty() {
                return Err(EIO);
            }
            folio.write(place.saturating_add(done), bytes)?;
            done += bytes.len();
        }
    }
    // Behind the end of the file.
    let filled = usize::try_from(end.saturating_sub(start))?;
    folio.zero(filled, size.saturating_sub(filled))
}

/// SEEK_DATA.
pub(super) fn seek_data(inode: &Inode, offset: u64) -> Result<Option<u64>> {
    Ok(first_data(&inode.data().extents, offset..inode.size()))
}

/// SEEK_HOLE.
pub(super) fn seek_hole(inode: &Inode, offset: u64) -> Result<u64> {
    Ok(first_hole(&inode.data().extents, offset..inode.size()))
}
