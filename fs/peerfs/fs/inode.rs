// SPDX-License-Identifier: GPL-2.0

//! Inodes from their shards.
#![forbid(unsafe_code)]

use core::ops::Deref;

use kernel::alloc::flags::GFP_KERNEL_ACCOUNT;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::aref::ARef;
use kernel::sync::atomic::Atomic;
use kernel::sync::Arc;
use peerfs_format::{ExtentRecord, FileType, InodeRecord, Shard, Table, ROOT_INODE};

use super::{Inode, PeerFs, SuperBlock};
use crate::store::ShardBlob;
use crate::vfs::{c_string, Attributes, InodeKind, NewInode};

/// What an inode keeps of its shard.
pub(crate) struct InodeData {
    /// The inode's record.
    pub(super) record: InodeRecord,
    /// The index of the shard that has the record.
    pub(super) shard: u32,
    /// A regular file's extents.
    pub(super) extents: Extents,
    /// Where the last readahead of it ended.
    pub(super) read: Atomic<u64>,
    /// Whether the packs that it lies in, and their indexes, are open, and need not be looked at again.
    pub(super) opened: Atomic<bool>,
    /// Up to where of the file everything missing was asked for ahead of its readers.
    pub(super) asked: Atomic<u64>,
    /// How many of a directory's entries, from the first one on, were found to be valid.
    pub(super) checked: Atomic<u64>,
    /// How many entries a directory has, or [`ENTRIES_UNKNOWN`] before it is listed for the first time.
    pub(super) entries: Atomic<u64>,
}

/// Larger than any position in a directory.
pub(super) const ENTRIES_UNKNOWN: u64 = u64::MAX;

/// A regular file's extents. Most files have one, which takes no memory of its own.
pub(crate) enum Extents {
    One([ExtentRecord; 1]),
    Other(KVVec<ExtentRecord>),
}

impl Extents {
    const NONE: Self = Extents::Other(KVVec::new());

    /// Copies them. They are charged to whoever looks the file up, as the inode is: an image may claim any
    /// number.
    fn read(table: &Table<'_, ExtentRecord>) -> Result<Self> {
        if let (1, Some(extent)) = (table.len(), table.get(0)) {
            return Ok(Extents::One([extent]));
        }
        let mut extents = KVVec::with_capacity(table.len(), GFP_KERNEL_ACCOUNT)?;
        for extent in table.iter() {
            extents.push(extent, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(Extents::Other(extents))
    }
}

impl Deref for Extents {
    type Target = [ExtentRecord];

    fn deref(&self) -> &[ExtentRecord] {
        match self {
            Extents::One(extent) => extent,
            Extents::Other(extents) => extents,
        }
    }
}

/// A blob table's first shard begins with the root.
const ROOT_SHARD: u32 = 0;

/// The inode of this number.
pub(super) fn get(super_block: &SuperBlock, number: u64) -> Result<ARef<Inode>> {
    let new = match super_block.get_or_create_inode(number)? {
        Ok(inode) => return Ok(inode),
        Err(new) => new,
    };
    let store = &super_block.data().store;
    if number == ROOT_INODE {
        let root = store.manifest().root;
        return init(
            super_block,
            new,
            root,
            ROOT_SHARD,
            InodeKind::Directory,
            Extents::NONE,
        );
    }
    let index = store.shard_of(number)?;
    let shard = store.shard(index)?;
    let shard = shard.view();
    let record = shard.inode(number).map_err(|_| EIO)?;
    let mut extents = Extents::NONE;
    let kind = match record.file_type().ok_or(EIO)? {
        FileType::Directory => InodeKind::Directory,
        FileType::Regular => {
            let table = shard.extents(&record);
            extents = Extents::read(&table.map_err(|_| EIO)?)?;
            InodeKind::Regular
        }
        FileType::SymbolicLink => InodeKind::SymbolicLink(link_target(&shard, &record)?),
        FileType::Fifo | FileType::Socket | FileType::CharacterDevice | FileType::BlockDevice => {
            InodeKind::Special(record.payload_first)
        }
    };
    init(super_block, new, record, index, kind, extents)
}

/// A new inode with what its record, in the shard of this index, says.
fn init(
    super_block: &SuperBlock,
    new: NewInode<PeerFs>,
    record: InodeRecord,
    shard: u32,
    kind: InodeKind,
    extents: Extents,
) -> Result<ARef<Inode>> {
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
    new.init(
        &attributes,
        kind,
        InodeData {
            record,
            shard,
            extents,
            read: Atomic::new(0),
            opened: Atomic::new(false),
            asked: Atomic::new(0),
            checked: Atomic::new(0),
            entries: Atomic::new(ENTRIES_UNKNOWN),
        },
    )
}

/// The inode that a file handle names; ESTALE if the image has no such number.
pub(super) fn get_by_handle(super_block: &SuperBlock, number: u64) -> Result<ARef<Inode>> {
    let count = super_block.data().store.manifest().inode_count;
    if !(ROOT_INODE..=count).contains(&number) {
        return Err(ESTALE);
    }
    get(super_block, number)
}

/// The directory that a directory is in.
pub(super) fn parent(directory: &Inode) -> Result<ARef<Inode>> {
    let parent = get(directory.super_block(), directory.data().record.link)?;
    match parent.data().record.file_type() {
        Some(FileType::Directory) => Ok(parent),
        _ => Err(EIO),
    }
}

/// The shard that has an inode's record.
pub(super) fn shard_of(inode: &Inode) -> Result<Arc<ShardBlob>> {
    inode.super_block().data().store.shard(inode.data().shard)
}

fn link_target(shard: &Shard<'_>, record: &InodeRecord) -> Result<CString> {
    let target = shard.symlink_target(record).map_err(|_| EIO)?;
    c_string(target)
}
