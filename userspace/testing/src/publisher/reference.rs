// SPDX-License-Identifier: GPL-2.0 OR MIT

//! All that an image says about each path, read in the plainest way, to find out which paths a mutation
//! has not touched: everything that leads to them and that they consist of is as it was.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use peerfs_format::{
    ChunkRecord, EntryRecord, ExtentRecord, FileType, InodeRecord, Record, SpanRecord, XattrRecord,
    XattrSetRecord, ROOT_INODE,
};

use super::blob::BlobName;
use super::image::{decode, Image, ShardImage};
use super::table::SHARD;

/// The most paths, and names in a path, that are looked at: a mutated image may have no end.
const PATHS_MAX: usize = 2000;
const DEPTH_MAX: usize = 12;

/// For each path a number that is another one whenever anything is different that the path depends on.
pub(super) type Fingerprints = BTreeMap<PathBuf, u64>;

/// The fingerprints of all paths that can be found.
pub(super) fn fingerprints(image: &Image) -> Fingerprints {
    let mut found = Fingerprints::new();
    let is_damaged = |name| {
        image
            .blob_damages
            .iter()
            .any(|(damaged, _)| *damaged == name)
    };
    if is_damaged(BlobName::Manifest)
        || is_damaged(BlobName::BlobTable)
        || !image.shard_table.is_empty()
        || !image.pack_table.is_empty()
    {
        return found;
    }
    // Where inodes are found depends on all shards' places.
    let mut hasher = DefaultHasher::new();
    for shard in &image.shards {
        (shard.record.first_inode, shard.record.inode_count).hash(&mut hasher);
    }
    let mut open = vec![(PathBuf::new(), ROOT_INODE, hasher.finish(), 0)];
    while let Some((path, inode, parent, depth)) = open.pop() {
        if found.len() >= PATHS_MAX {
            break;
        }
        let mut hasher = DefaultHasher::new();
        parent.hash(&mut hasher);
        let Some(children) = hash_inode(image, inode, &mut hasher) else {
            continue;
        };
        let own = hasher.finish();
        if depth < DEPTH_MAX {
            for (name, inode) in children {
                open.push((path.join(OsStr::from_bytes(&name)), inode, own, depth + 1));
            }
        }
        found.insert(path, own);
    }
    found
}

/// A directory's names and the inodes that they stand for.
type Children = Vec<(Vec<u8>, u64)>;

/// Hashes all that an inode consists of; `None` if it cannot be made out.
fn hash_inode(image: &Image, inode: u64, hasher: &mut DefaultHasher) -> Option<Children> {
    let number = image
        .shards
        .iter()
        .rposition(|shard| shard.record.first_inode <= inode)?;
    let shard = whole_shard(image, number)?;
    shard.first_inode.hash(hasher);
    let place = usize::try_from(inode.checked_sub(shard.first_inode)?).ok()?;
    // The root's is in the manifest.
    let record = match inode {
        ROOT_INODE => slice(&image.root, 0, 1, InodeRecord::SIZE)?,
        _ => slice(&shard.tables[0], place, 1, InodeRecord::SIZE)?,
    };
    (number, place, record).hash(hasher);
    let record: InodeRecord = *decode(record).first()?;
    hash_xattrs(shard, &record, hasher)?;
    match record.file_type()? {
        FileType::Regular => hash_content(image, shard, &record, hasher).map(|()| Children::new()),
        FileType::Directory => directory(image, shard, &record, hasher),
        FileType::SymbolicLink => {
            in_heap(shard, record.payload_first, record.payload_count)?.hash(hasher);
            Some(Children::new())
        }
        _ => Some(Children::new()),
    }
}

fn hash_xattrs(shard: &ShardImage, record: &InodeRecord, hasher: &mut DefaultHasher) -> Option<()> {
    if record.xattrs == peerfs_format::NO_XATTRS {
        return Some(());
    }
    let set = slice(
        &shard.tables[4],
        record.xattrs as usize,
        1,
        XattrSetRecord::SIZE,
    )?;
    let set: XattrSetRecord = *decode(set).first()?;
    let xattrs = slice(
        &shard.tables[5],
        set.first as usize,
        set.count as usize,
        XattrRecord::SIZE,
    )?;
    for xattr in decode::<XattrRecord>(xattrs) {
        in_heap(shard, xattr.name_offset, xattr.name_length)?.hash(hasher);
        in_heap(shard, xattr.value_offset, xattr.value_length)?.hash(hasher);
    }
    Some(())
}

fn hash_content(
    image: &Image,
    shard: &ShardImage,
    record: &InodeRecord,
    hasher: &mut DefaultHasher,
) -> Option<()> {
    let (first, count) = (record.payload_first as usize, record.payload_count as usize);
    let extents = slice(&shard.tables[1], first, count, ExtentRecord::SIZE)?;
    extents.hash(hasher);
    for extent in decode::<ExtentRecord>(extents) {
        let number = extent.pack as usize;
        let pack = image.packs.get(number)?;
        let index = (BlobName::Index(number), BlobName::Pack(number));
        if image
            .blob_damages
            .iter()
            .any(|(name, _)| *name == index.0 || *name == index.1)
        {
            return None;
        }
        (pack.record.stored_length, pack.record.logical_length).hash(hasher);
        pack.record.chunk_count.hash(hasher);
        let wanted =
            u64::from(extent.pack_offset)..u64::from(extent.pack_offset) + u64::from(extent.length);
        for (place, chunk) in decode::<ChunkRecord>(&pack.chunks).iter().enumerate() {
            let start = u64::from(chunk.logical_offset);
            let end = start + u64::from(chunk.logical_length);
            if start < wanted.end && wanted.start < end {
                let stored = chunk.stored_offset as usize;
                let bytes = pack
                    .bytes
                    .get(stored..stored.checked_add(chunk.stored_length as usize)?)?;
                (place, start, end, chunk.codec, bytes).hash(hasher);
            }
        }
    }
    Some(())
}

fn directory(
    image: &Image,
    shard: &ShardImage,
    record: &InodeRecord,
    hasher: &mut DefaultHasher,
) -> Option<Children> {
    let (first, count) = (record.payload_first as usize, record.payload_count as usize);
    let spans = slice(&shard.tables[2], first, count, SpanRecord::SIZE)?;
    spans.hash(hasher);
    let mut children = Children::new();
    for span in decode::<SpanRecord>(spans) {
        in_heap(shard, span.name_offset, span.name_length)?.hash(hasher);
        let other = whole_shard(image, span.shard as usize)?;
        let (first, count) = (span.first_entry as usize, span.entry_count as usize);
        let entries = slice(&other.tables[3], first, count, EntryRecord::SIZE)?;
        entries.hash(hasher);
        for entry in decode::<EntryRecord>(entries) {
            let name = in_heap(other, entry.name_offset, entry.name_length.into())?;
            name.hash(hasher);
            children.push((name.to_vec(), entry.inode));
            if children.len() > PATHS_MAX {
                return None;
            }
        }
    }
    // A name that is there twice, or leads out: whose it is cannot be said.
    let mut names: Vec<&[u8]> = children.iter().map(|(name, _)| &name[..]).collect();
    names.sort_unstable();
    let is_twice = names.windows(2).any(|pair| pair[0] == pair[1]);
    let is_odd = |name: &&[u8]| Path::new(OsStr::from_bytes(name)).components().count() != 1;
    (!is_twice && !names.iter().any(is_odd)).then_some(children)
}

/// A shard, unless its bytes are damaged or one of its tables ends inside a record.
fn whole_shard(image: &Image, number: usize) -> Option<&ShardImage> {
    let shard = image.shards.get(number)?;
    let is_damaged = image
        .blob_damages
        .iter()
        .any(|(name, _)| *name == BlobName::Shard(number));
    let is_torn =
        (shard.tables.iter().zip(&SHARD)).any(|(table, layout)| table.len() % layout.width() != 0);
    (!is_damaged && !is_torn).then_some(shard)
}

fn slice(table: &[u8], first: usize, count: usize, width: usize) -> Option<&[u8]> {
    let start = first.checked_mul(width)?;
    table.get(start..start.checked_add(count.checked_mul(width)?)?)
}

fn in_heap(shard: &ShardImage, offset: u32, length: u32) -> Option<&[u8]> {
    let start = offset as usize;
    shard.heap.get(start..start.checked_add(length as usize)?)
}
