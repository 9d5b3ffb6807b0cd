// SPDX-License-Identifier: GPL-2.0

//! Directories: looking names up, and listing them. Entries are in the shards of the entries' own
//! inodes; a directory's spans, in its own shard, say where.
#![forbid(unsafe_code)]

use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::atomic::Relaxed;
use kernel::sync::Arc;
use peerfs_format::{FileType, SpanRecord, NAME_MAX, ROOT_INODE};

use super::{inode, inode::ENTRIES_UNKNOWN, Inode};
use crate::store::ShardBlob;
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
    let shard = shard_of_span(directory, own, &span)?;
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

/// The shard that has the entries of a directory's span; `own` is the one that has its record.
fn shard_of_span(
    directory: &Inode,
    own: Arc<ShardBlob>,
    span: &SpanRecord,
) -> Result<Arc<ShardBlob>> {
    if span.shard == directory.data().shard {
        return Ok(own);
    }
    directory.super_block().data().store.shard(span.shard)
}

/// Emits the entries from the emitter's position on.
pub(super) fn read(directory: &Inode, emitter: &mut DirEmitter<'_>) -> Result {
    let data = directory.data();
    let start = emitter.position();
    // Whoever lists a directory asks once more at its end, to hear that it is one.
    if start >= data.entries.load(Relaxed) {
        return Ok(());
    }
    // Shards never change: whoever lists a directory again need not check its names again.
    let checked = data.checked.load(Relaxed);
    let result = emit(directory, emitter, checked);
    // Two tasks that list it at once may store the lower of their counts, which is as true.
    if start <= checked && emitter.position() > checked {
        data.checked.store(emitter.position(), Relaxed);
    }
    result
}

/// As `read`, if the first `checked` entries are known to be valid.
fn emit(directory: &Inode, emitter: &mut DirEmitter<'_>, checked: u64) -> Result {
    let data = directory.data();
    let own = inode::shard_of(directory)?;
    let spans = own.view().spans(&data.record).map_err(|_| EIO)?;
    if data.entries.load(Relaxed) == ENTRIES_UNKNOWN {
        let count = own.view().entry_count(&data.record).map_err(|_| EIO)?;
        data.entries.store(count, Relaxed);
    }
    let position = emitter.position();
    let first = spans
        .partition_point(|span| span.entries_before <= position)
        .saturating_sub(1);
    for index in first..spans.len() {
        let span = spans.get(index).ok_or(EIO)?;
        let skipped = emitter.position().saturating_sub(span.entries_before);
        let Some(rest @ 1..) = u64::from(span.entry_count).checked_sub(skipped) else {
            continue;
        };
        let shard = shard_of_span(directory, own.clone(), &span)?;
        let shard = shard.view();
        let entries = shard.entries(&span).map_err(|_| EIO)?;
        let entries = entries.range(skipped as usize, rest as usize).ok_or(EIO)?;
        let mut known = checked.saturating_sub(emitter.position());
        for entry in entries.iter() {
            let name = if known > 0 {
                known -= 1;
                shard.checked_entry_name(&entry)
            } else {
                FileType::from_d_type(entry.file_type).ok_or(EIO)?;
                shard.entry_name(&entry)
            };
            let name = name.map_err(|_| EIO)?;
            if !emitter.emit(name, entry.inode, entry.file_type) {
                return Ok(());
            }
        }
    }
    Ok(())
}
