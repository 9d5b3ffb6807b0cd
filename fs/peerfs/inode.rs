// SPDX-License-Identifier: GPL-2.0

//! Inodes from their shards.
#![forbid(unsafe_code)]

use core::format_args;

use kernel::alloc::flags::GFP_KERNEL_ACCOUNT;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::atomic::Atomic;
use kernel::sync::Arc;
use peerfs_format::Error as FormatError;
use peerfs_format::{ExtentList, ExtentRecord, FileType, InodeRecord, ROOT_INODE};

use crate::rust::fs::{Attributes, ExportOperations, InodeKind};
use crate::rust::str::c_string;
use crate::store::{KeptShard, ShardBlob, Store};
use crate::upcall::Daemon;
use crate::{Inode, PeerFs, SuperBlock};

/// What an inode keeps of its shard.
pub(crate) struct InodeData {
    /// The inode's record.
    pub(crate) record: InodeRecord,
    /// The index of the shard that has the record.
    pub(crate) shard: u32,
    /// Where a regular file's extents are.
    extents: Extents,
    /// Where the last readahead of it ended.
    pub(crate) read: Atomic<u64>,
    /// Whether the packs that it lies in, and their indexes, are open, and need not be looked at again.
    pub(crate) opened: Atomic<bool>,
    /// Up to where of the file everything missing was asked for ahead of its readers.
    pub(crate) asked: Atomic<u64>,
    /// How many of a directory's entries, from the first one on, were found to be valid.
    pub(crate) checked: Atomic<u64>,
    /// How many entries a directory has, or [`ENTRIES_UNKNOWN`] before it is listed for the first time.
    pub(crate) entries: Atomic<u64>,
}

/// Larger than any position in a directory.
pub(crate) const ENTRIES_UNKNOWN: u64 = u64::MAX;

/// Where a regular file's extents are, which were checked. Most files have one, which takes no memory of its own; many stay
/// where they are, in their shard: other names may be of the same ones, and would each have a copy.
pub(crate) enum Extents {
    None,
    One(ExtentRecord),
    Copied(KVVec<ExtentRecord>),
    InShard(KeptShard),
}

/// Extents that are copied at the most.
const COPIED_MAX: usize = 32;

impl Extents {
    /// Copies are charged to whoever looks the file up, as the inode is.
    fn new(
        store: &Store<Daemon>,
        number: u32,
        shard: &Arc<ShardBlob>,
        record: &InodeRecord,
        refused: impl Fn(FormatError) -> Error,
    ) -> Result<Self> {
        let view = shard.view();
        let table = view.extents(record).map_err(refused)?;
        if let (0 | 1, first) = (table.len(), table.get(0)) {
            return Ok(first.map_or(Extents::None, Extents::One));
        }
        if table.len() > COPIED_MAX {
            return Ok(Extents::InShard(store.keep_shard(number, shard)?));
        }
        let mut extents = KVVec::with_capacity(table.len(), GFP_KERNEL_ACCOUNT)?;
        for extent in table.iter() {
            extents.push(extent, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(Extents::Copied(extents))
    }
}

/// The extents of a regular file.
impl ExtentList for InodeData {
    fn count(&self) -> usize {
        match &self.extents {
            Extents::None => 0,
            Extents::One(_) => 1,
            Extents::Copied(extents) => extents.len(),
            Extents::InShard(_) => self.record.payload_count as usize,
        }
    }

    fn extent(&self, index: usize) -> Option<ExtentRecord> {
        match &self.extents {
            Extents::None => None,
            Extents::One(extent) => (index == 0).then_some(*extent),
            Extents::Copied(extents) => extents.get(index).copied(),
            Extents::InShard(shard) => shard.view().extents(&self.record).ok()?.get(index),
        }
    }
}

/// What an inode is made of: checked, and nobody else's.
struct Parts {
    record: InodeRecord,
    /// The index of the shard that has the record.
    shard: u32,
    kind: InodeKind,
    extents: Extents,
}

/// A blob table's first shard begins with the root.
const ROOT_SHARD: u32 = 0;

/// The inode of this number. Whoever looks for an inode that is being made waits for it, and cannot be
/// killed meanwhile: so all that takes time is done before.
pub(crate) fn get(super_block: &SuperBlock, number: u64) -> Result<ARef<Inode>> {
    match super_block.find_inode(number) {
        Some(inode) => Ok(inode),
        None => init(super_block, number, parts(super_block, number)?),
    }
}

/// What the inode of this number is, as the image says.
fn parts(super_block: &SuperBlock, number: u64) -> Result<Parts> {
    let store = &super_block.data().store;
    if number == ROOT_INODE {
        return Ok(Parts {
            record: *store.root(),
            shard: ROOT_SHARD,
            kind: InodeKind::Directory,
            extents: Extents::None,
        });
    }
    let index = store.shard_of(number)?;
    let shard = store.shard(index)?;
    let refused = |error| store.refused_in(index, format_args!("inode {number}"), error);
    let view = shard.view();
    let packs = store.known_blob_table()?.packs;
    let record = view.inode(number, &packs).map_err(refused)?;
    let mut extents = Extents::None;
    let file_type = record.file_type();
    let file_type = file_type.ok_or_else(|| refused(FormatError::Malformed("inode record")))?;
    let kind = match file_type {
        FileType::Directory => InodeKind::Directory,
        FileType::Regular => {
            extents = Extents::new(store, index, &shard, &record, refused)?;
            InodeKind::Regular
        }
        FileType::SymbolicLink => {
            InodeKind::SymbolicLink(c_string(view.symlink_target(&record).map_err(refused)?)?)
        }
        FileType::Fifo | FileType::Socket | FileType::CharacterDevice | FileType::BlockDevice => {
            InodeKind::Special(record.payload_first)
        }
    };
    Ok(Parts {
        record,
        shard: index,
        kind,
        extents,
    })
}

/// The inode of these parts, unless another task has made it.
fn init(super_block: &SuperBlock, number: u64, parts: Parts) -> Result<ARef<Inode>> {
    let new = match super_block.get_or_create_inode(number)? {
        Ok(inode) => return Ok(inode),
        Err(new) => new,
    };
    let Parts {
        record,
        shard,
        kind,
        extents,
    } = parts;
    let blocks = match kind {
        InodeKind::Regular => record.allocated.div_ceil(512),
        _ => 0,
    };
    let attributes = Attributes {
        mode: record.mode,
        uid: record.uid,
        gid: record.gid,
        nlink: record.nlink,
        size: record.size,
        blocks,
        mtime_seconds: record.mtime_seconds,
        mtime_nanoseconds: record.mtime_nanoseconds,
        generation: super_block.data().generation(),
    };
    let data = InodeData {
        record,
        shard,
        extents,
        read: Atomic::new(0),
        opened: Atomic::new(false),
        asked: Atomic::new(0),
        checked: Atomic::new(0),
        entries: Atomic::new(ENTRIES_UNKNOWN),
    };
    new.init(&attributes, kind, data).inspect_err(|_| {
        // It has an owner, say, that is no id.
        let error = FormatError::Malformed("inode record");
        let store = &super_block.data().store;
        store.refused_in(shard, format_args!("inode {number}"), error);
    })
}

impl ExportOperations for PeerFs {
    fn inode_of_handle(super_block: &SuperBlock, number: u64) -> Result<ARef<Inode>> {
        let count = super_block.data().store.manifest().inode_count;
        if !(ROOT_INODE..=count).contains(&number) {
            return Err(ESTALE);
        }
        get(super_block, number)
    }

    fn parent(directory: &Inode) -> Result<ARef<Inode>> {
        let parent = get(directory.super_block(), directory.data().record.link)?;
        match parent.data().record.file_type() {
            Some(FileType::Directory) => Ok(parent),
            _ => Err(refused(directory, FormatError::Malformed("link"))),
        }
    }
}

/// Says in the log what is wrong with an inode, or with what its record leads to.
#[cold]
pub(crate) fn refused(inode: &Inode, error: FormatError) -> Error {
    let number = inode.number();
    let store = &inode.super_block().data().store;
    store.refused_in(inode.data().shard, format_args!("inode {number}"), error)
}

/// The shard that has an inode's record.
pub(crate) fn shard_of(inode: &Inode) -> Result<Arc<ShardBlob>> {
    inode.super_block().data().store.shard(inode.data().shard)
}
