// SPDX-License-Identifier: GPL-2.0

//! Directories: looking names up, and listing them. Entries are in the shards of the entries' own
//! inodes; a directory's spans, in its own shard, say where.
#![forbid(unsafe_code)]

use kernel::prelude::*;
use kernel::sync::aref::ARef;
use peerfs_format::{FileType, NAME_MAX, ROOT_INODE};

use super::{inode, Inode};
use crate::vfs::DirEmitter;

/// The inode that a name in a directory stands for.
pub(super) fn lookup(directory: &Inode, name: &[u8]) -> Result<Option<ARef<Inode>>> {
    if name.len() > NAME_MAX {
        return Err(ENAMETOOLONG);
    }
    match find(directory, name)? {
        Some(number) => inode::get(directory.super_block(), number).map(Some),
        None => Ok(None),
    }
}

fn find(directory: &Inode, name: &[u8]) -> Result<Option<u64>> {
    let own = inode::shard_of(directory)?;
    let span = own.view().span_of(&directory.data().record, name);
    let Some(span) = span.map_err(|_| EIO)? else {
        return Ok(None);
    };
    let shard = directory.super_block().data().store.shard(span.shard)?;
    let Some(entry) = shard.view().entry(&span, name).map_err(|_| EIO)? else {
        return Ok(None);
    };
    // The root has no name. Were it found in a directory that a file handle led to, the dentry cache
    // would move it there, and the tree hang from nothing.
    if entry.inode == ROOT_INODE {
        return Err(EIO);
    }
    Ok(Some(entry.inode))
}

/// Emits the entries from the emitter's position on.
pub(super) fn read(directory: &Inode, emitter: &mut DirEmitter<'_>) -> Result {
    let own = inode::shard_of(directory)?;
    let own = own.view();
    let spans = own.spans(&directory.data().record).map_err(|_| EIO)?;
    let position = emitter.position();
    let first = spans
        .partition_point(|span| span.entries_before <= position)
        .saturating_sub(1);
    for index in first..spans.len() {
        let span = spans.get(index).ok_or(EIO)?;
        let skipped = emitter.position().saturating_sub(span.entries_before);
        if skipped >= span.entry_count.into() {
            continue;
        }
        let shard = directory.super_block().data().store.shard(span.shard)?;
        let shard = shard.view();
        let entries = shard.entries(&span).map_err(|_| EIO)?;
        for entry in entries.iter().skip(skipped as usize) {
            let name = shard.entry_name(&entry).map_err(|_| EIO)?;
            FileType::from_d_type(entry.file_type).ok_or(EIO)?;
            if !emitter.emit(name, entry.inode, entry.file_type) {
                return Ok(());
            }
        }
    }
    Ok(())
}
