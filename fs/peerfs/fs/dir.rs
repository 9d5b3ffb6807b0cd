// SPDX-License-Identifier: GPL-2.0

//! Directories: looking names up, and listing them. Entries are in the shards of the entries' own
//! inodes; a directory's spans, in its own shard, say where.
#![forbid(unsafe_code)]

use core::format_args;

use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::atomic::Relaxed;
use kernel::sync::Arc;
use peerfs_format::Error as FormatError;
use peerfs_format::{EntryRecord, FileType, SpanRecord, Table, NAME_MAX};

use super::{inode, inode::ENTRIES_UNKNOWN, Inode};
use crate::store::ShardBlob;
use crate::vfs::{is_being_killed, let_others_run, DirEmitter};

/// The inode that a name in a directory stands for.
pub(super) fn lookup(directory: &Inode, name: &[u8]) -> Result<Option<ARef<Inode>>> {
    if name.len() > NAME_MAX {
        return Err(ENAMETOOLONG);
    }
    let Some((shard, entry)) = find(directory, name)? else {
        return Ok(None);
    };
    let inode = inode::get(directory.super_block(), entry.inode)?;
    // A directory has one name, in the directory that it says. So directories form no cycles.
    let record = &inode.data().record;
    let is_right = match record.file_type() {
        Some(FileType::Directory) => {
            entry.file_type == FileType::Directory as u8 && record.link == directory.number()
        }
        other => other == FileType::from_d_type(entry.file_type),
    };
    match is_right {
        true => Ok(Some(inode)),
        false => {
            let store = &directory.super_block().data().store;
            let error = FormatError::Malformed("directory entry");
            Err(store.refused_in(shard, format_args!("entry of inode {}", entry.inode), error))
        }
    }
}

/// The entry of a name, and the shard that it is in.
fn find(directory: &Inode, name: &[u8]) -> Result<Option<(u32, EntryRecord)>> {
    let refused = |error| inode::refused(directory, error);
    let own = inode::shard_of(directory)?;
    let view = own.view();
    let span = view.span_of(&directory.data().record, name);
    let Some(span) = span.map_err(refused)? else {
        return Ok(None);
    };
    let first_name = view.span_name(&span).map_err(refused)?;
    let shard = shard_of_span(directory, &own, &span)?;
    let view = shard.view();
    view.check_span_name(&span, first_name).map_err(refused)?;
    let entry = view.entry(&span, name).map_err(refused)?;
    Ok(entry.map(|entry| (span.shard, entry)))
}

/// The shard that has the entries of a directory's span; `own` is the one that has its record.
fn shard_of_span(
    directory: &Inode,
    own: &Arc<ShardBlob>,
    span: &SpanRecord,
) -> Result<Arc<ShardBlob>> {
    if span.shard == directory.data().shard {
        return Ok(own.clone());
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
    let refused = |error| inode::refused(directory, error);
    let data = directory.data();
    let own = inode::shard_of(directory)?;
    let view = own.view();
    let spans = view.spans(&data.record).map_err(refused)?;
    if data.entries.load(Relaxed) == ENTRIES_UNKNOWN {
        let count = view.entry_count(&data.record).map_err(refused)?;
        data.entries.store(count, Relaxed);
    }
    let position = emitter.position();
    let first = spans
        .partition_point(|span| span.entries_before <= position)
        .saturating_sub(1);
    for index in first..spans.len() {
        // Who emits may take all there is.
        let_others_run();
        if is_being_killed() {
            return Err(EINTR);
        }
        let span = spans.get(index).ok_or(EIO)?;
        let skipped = emitter.position().saturating_sub(span.entries_before);
        let Some(rest @ 1..) = u64::from(span.entry_count).checked_sub(skipped) else {
            continue;
        };
        let shard = shard_of_span(directory, &own, &span)?;
        let entries = shard.view().entries(&span).map_err(refused)?;
        let entries = entries.range(skipped as usize, rest as usize).ok_or(EIO)?;
        let known = checked.saturating_sub(emitter.position()).min(rest);
        let known = entries.range(0, known as usize).ok_or(EIO)?;
        if !emit_known(emitter, &shard, &known).map_err(refused)? {
            return Ok(());
        }
        let unknown = entries.range(known.len(), entries.len().saturating_sub(known.len()));
        let unknown = unknown.filter(|unknown| !unknown.is_empty());
        let Some(unknown) = unknown else {
            continue;
        };
        let before = before(directory, &own, &spans, index, emitter.position())?;
        let last = match &before {
            Some((shard, entry)) => shard.view().entry_name(entry).map_err(refused)?,
            None => b"",
        };
        if emitter.position() == span.entries_before {
            let name = view.span_name(&span).map_err(refused)?;
            shard.view().check_span_name(&span, name).map_err(refused)?;
        }
        if !emit_unknown(directory, emitter, &shard, &unknown, last)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Emits entries that are known to be valid; `false` if there was no room for all of them.
fn emit_known(
    emitter: &mut DirEmitter<'_>,
    shard: &ShardBlob,
    entries: &Table<'_, EntryRecord>,
) -> peerfs_format::Result<bool> {
    let shard = shard.view();
    for entry in entries.iter() {
        if !emitter.emit(
            shard.checked_entry_name(&entry)?,
            entry.inode,
            entry.file_type,
        ) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Emits entries as far as they are valid and each name is greater than the one before, so that no listing is
/// longer than what there are names. `last` is the name before the first one; `false` if there was no room.
fn emit_unknown(
    directory: &Inode,
    emitter: &mut DirEmitter<'_>,
    shard: &ShardBlob,
    entries: &Table<'_, EntryRecord>,
    last: &[u8],
) -> Result<bool> {
    let refused = |error| inode::refused(directory, error);
    let shard = shard.view();
    let mut last = last;
    for entry in entries.iter() {
        let name = shard.entry_name(&entry).map_err(refused)?;
        if name <= last {
            return Err(refused(FormatError::Malformed("order of names")));
        }
        last = name;
        if !emitter.emit(name, entry.inode, entry.file_type) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The entry before that at a position, which is in the span of this index, and the shard that it is in.
fn before(
    directory: &Inode,
    own: &Arc<ShardBlob>,
    spans: &Table<'_, SpanRecord>,
    index: usize,
    position: u64,
) -> Result<Option<(Arc<ShardBlob>, EntryRecord)>> {
    let Some(position) = position.checked_sub(1) else {
        return Ok(None);
    };
    let span = spans.get(index).ok_or(EIO)?;
    let span = match position.checked_sub(span.entries_before) {
        Some(_) => span,
        None => spans.get(index.saturating_sub(1)).ok_or(EIO)?,
    };
    let place = position.checked_sub(span.entries_before).ok_or(EIO)?;
    let shard = shard_of_span(directory, own, &span)?;
    let entries = shard.view().entries(&span);
    let entry = entries
        .map_err(|error| inode::refused(directory, error))?
        .get(place as usize)
        .ok_or(EIO)?;
    Ok(Some((shard, entry)))
}
