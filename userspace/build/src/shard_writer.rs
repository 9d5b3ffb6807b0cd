// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Writing the inode shards.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use peerfs_format::encryption::Kind;
use peerfs_format::{
    peerfs_capnp, EntryRecord, InodeRecord, Record, ShardRecord, SpanRecord, XattrRecord,
    XattrSetRecord, METADATA_MAX, NO_XATTRS,
};
use peerfs_store::Store;

use crate::metadata::MetadataBlob;
use crate::pipeline::{join, spawn};
use crate::shard_plan::{PlannedShard, ShardSource};
use crate::tree::{Node, NodeKind};
use crate::xattrs::XattrSetId;
use crate::{Error, Options, Result};

/// Writes all shards, with so many threads, and returns them in order. `root` is for messages.
///
/// # Errors
/// [`Error::TooLarge`] if the table of one directory does not fit; a full or failing disk.
pub(crate) fn write_all(
    source: &ShardSource<'_>,
    shards: &[PlannedShard],
    store: &Store,
    options: &Options,
    root: &Path,
) -> Result<Vec<ShardRecord>> {
    let next = AtomicUsize::new(0);
    let write = || -> Result<Vec<(usize, ShardRecord)>> {
        let mut written = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(shard) = shards.get(number) else {
                return Ok(written);
            };
            options.check_cancelled()?;
            let blob = encode(source, shards, shard).unwrap_or_default();
            let blob = options.encrypt(Kind::Shard, blob);
            // The planner sees to it that each file fits.
            if !(1..=METADATA_MAX).contains(&(blob.len() as u64)) {
                return Err(Error::TooLarge {
                    what: "bytes in the table of a directory",
                    path: root.to_owned(),
                    count: blob.len() as u64,
                    limit: METADATA_MAX,
                });
            }
            let record = ShardRecord {
                digest: store.add_blob(&blob)?,
                first_inode: u64::from(shard.inodes.start),
                inode_count: shard.inodes.end - shard.inodes.start,
                length: blob.len() as u32,
            };
            written.push((number, record));
        }
    };
    let mut written = Vec::with_capacity(shards.len());
    thread::scope(|scope| {
        // This thread writes too, and all if there is no other.
        let others: Vec<_> = (1..options.threads.get())
            .map_while(|_| spawn(scope, write).ok())
            .collect();
        written.extend(write()?);
        for thread in others {
            written.extend(join(thread)?);
        }
        Ok::<(), Error>(())
    })?;
    written.sort_unstable_by_key(|(number, _)| *number);
    Ok(written.into_iter().map(|(_, record)| record).collect())
}

/// A shard's blob; None if a table is too large for the format.
fn encode(
    source: &ShardSource<'_>,
    shards: &[PlannedShard],
    shard: &PlannedShard,
) -> Option<Vec<u8>> {
    let mut tables = Tables::new(source, shards);
    for inode in shard.inodes.clone() {
        tables.add_inode(&source.tree.node(inode)?, source.xattrs_of(inode))?;
    }
    for entry in source.tree.entries.range(shard.entries.clone()) {
        let name = source.tree.bytes(entry.name);
        let (name_offset, _) = tables.add_to_heap(&name)?;
        let record = EntryRecord {
            inode: u64::from(entry.inode),
            name_offset,
            name_length: u8::try_from(name.len()).ok()?,
            file_type: source.tree.file_type(entry.inode)? as u8,
        };
        tables.entries.add(&record);
    }
    Some(tables.into_blob(shard.inodes.start))
}

/// A table being written.
#[derive(Default)]
struct TableBuilder {
    bytes: Vec<u8>,
    count: u32,
}

impl TableBuilder {
    fn add(&mut self, record: &impl Record) {
        record.write_to(|part| self.bytes.extend_from_slice(part));
        self.count += 1;
    }
}

/// The tables of a shard being written.
struct Tables<'a> {
    source: &'a ShardSource<'a>,
    shards: &'a [PlannedShard],
    inodes: TableBuilder,
    extents: TableBuilder,
    spans: TableBuilder,
    entries: TableBuilder,
    xattr_sets: TableBuilder,
    xattrs: TableBuilder,
    digests: TableBuilder,
    heap: Vec<u8>,
    /// The xattr sets that are there already.
    known_sets: HashMap<XattrSetId, u32>,
    /// The places of xattr names and values, many of which are the same.
    known_bytes: HashMap<Vec<u8>, (u32, u32)>,
}

impl<'a> Tables<'a> {
    fn new(source: &'a ShardSource<'a>, shards: &'a [PlannedShard]) -> Self {
        Tables {
            source,
            shards,
            inodes: TableBuilder::default(),
            extents: TableBuilder::default(),
            spans: TableBuilder::default(),
            entries: TableBuilder::default(),
            xattr_sets: TableBuilder::default(),
            xattrs: TableBuilder::default(),
            digests: TableBuilder::default(),
            heap: Vec::new(),
            known_sets: HashMap::new(),
            known_bytes: HashMap::new(),
        }
    }

    fn add_inode(&mut self, node: &Node, xattrs: Option<XattrSetId>) -> Option<()> {
        let mut record = InodeRecord {
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            nlink: node.nlink,
            size: node.size,
            allocated: 0,
            mtime_seconds: node.mtime_seconds,
            mtime_nanoseconds: node.mtime_nanoseconds,
            payload_first: 0,
            payload_count: 0,
            xattrs: match xattrs {
                Some(set) => self.add_xattrs(set)?,
                None => NO_XATTRS,
            },
            link: 0,
        };
        match node.kind {
            NodeKind::Regular(file) => {
                let file = self.source.contents.file(file)?;
                record.allocated = file.allocated;
                record.link = u64::from(self.digests.count);
                record.payload_first = self.extents.count;
                for extent in self.source.contents.extents(&file, self.source.packs) {
                    self.extents.add(&extent);
                }
                record.payload_count = self.extents.count - record.payload_first;
                self.digests.add(&file.digest);
            }
            NodeKind::Directory { index, parent } => {
                record.link = u64::from(parent);
                record.payload_first = self.spans.count;
                self.add_spans(index)?;
                record.payload_count = self.spans.count - record.payload_first;
            }
            NodeKind::SymbolicLink(target) => {
                let target = self.source.tree.bytes(target);
                (record.payload_first, record.payload_count) = self.add_to_heap(&target)?;
            }
            NodeKind::Device(device) => record.payload_first = device,
            NodeKind::Other => (),
        }
        self.inodes.add(&record);
        Some(())
    }

    /// Adds the spans of a directory: one for each shard that has entries of it.
    fn add_spans(&mut self, directory: u32) -> Option<()> {
        let tree = self.source.tree;
        let entries = tree.entries_of(directory);
        let mut start = entries.start;
        let mut number = self
            .shards
            .partition_point(|shard| shard.entries.end <= start);
        while start < entries.end {
            let shard = self.shards.get(number)?;
            let end = shard.entries.end.min(entries.end);
            let first = tree.entries.get(start)?;
            let (name_offset, name_length) = self.add_to_heap(&tree.bytes(first.name))?;
            self.spans.add(&SpanRecord {
                entries_before: (start - entries.start) as u64,
                shard: u32::try_from(number).ok()?,
                first_entry: u32::try_from(start - shard.entries.start).ok()?,
                entry_count: u32::try_from(end - start).ok()?,
                name_offset,
                name_length,
            });
            start = end;
            number += 1;
        }
        Some(())
    }

    fn add_xattrs(&mut self, id: XattrSetId) -> Option<u32> {
        if let Some(known) = self.known_sets.get(&id) {
            return Some(*known);
        }
        let attributes = self.source.xattrs.get(id);
        let first = self.xattrs.count;
        for (name, value) in attributes.iter() {
            let (name_offset, name_length) = self.share_in_heap(name)?;
            let (value_offset, value_length) = self.share_in_heap(value)?;
            self.xattrs.add(&XattrRecord {
                name_offset,
                name_length,
                value_offset,
                value_length,
            });
        }
        let number = self.xattr_sets.count;
        self.xattr_sets.add(&XattrSetRecord {
            first,
            count: self.xattrs.count - first,
        });
        self.known_sets.insert(id, number);
        Some(number)
    }

    fn share_in_heap(&mut self, bytes: &[u8]) -> Option<(u32, u32)> {
        if let Some(known) = self.known_bytes.get(bytes) {
            return Some(*known);
        }
        let place = self.add_to_heap(bytes)?;
        self.known_bytes.insert(bytes.to_vec(), place);
        Some(place)
    }

    /// Adds bytes to the heap, and returns the offset at which they begin and their number.
    fn add_to_heap(&mut self, bytes: &[u8]) -> Option<(u32, u32)> {
        let place = (
            u32::try_from(self.heap.len()).ok()?,
            u32::try_from(bytes.len()).ok()?,
        );
        self.heap.extend_from_slice(bytes);
        Some(place)
    }

    fn into_blob(self, first_inode: u32) -> Vec<u8> {
        let fields = [
            &self.inodes.bytes,
            &self.extents.bytes,
            &self.spans.bytes,
            &self.entries.bytes,
            &self.xattr_sets.bytes,
            &self.xattrs.bytes,
            &self.digests.bytes,
            &self.heap,
        ];
        let mut blob = MetadataBlob::new(fields.iter().map(|field| field.len()).sum());
        let mut root = blob.root::<peerfs_capnp::inode_shard::Owned>();
        root.set_first_inode(u64::from(first_inode));
        root.set_inodes(&self.inodes.bytes);
        root.set_extents(&self.extents.bytes);
        root.set_spans(&self.spans.bytes);
        root.set_entries(&self.entries.bytes);
        root.set_xattr_sets(&self.xattr_sets.bytes);
        root.set_xattrs(&self.xattrs.bytes);
        root.set_digests(&self.digests.bytes);
        root.set_heap(&self.heap);
        blob.into_bytes()
    }
}
