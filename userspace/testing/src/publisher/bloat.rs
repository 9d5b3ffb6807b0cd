// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Images of which one table is as large as the format allows, of the smallest records there are: what they cost
//! whoever only looks at them.

use std::fs;
use std::path::{Path, PathBuf};

use peerfs_format::{
    ChunkRecord, Digest, EntryRecord, ExtentRecord, FileType, InodeRecord, PackRecord, Record,
    ShardRecord, SpanRecord, XattrRecord, XattrSetRecord, METADATA_MAX, NO_XATTRS,
};

use super::image::{encode, sha256, Image, Pack, ShardImage};
use crate::{Error, Result};

/// Bytes of a blob that are not of the table.
const OVERHEAD: usize = 512 * 1024;

/// The table that is as large as it can be.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Table {
    /// A file of as many extents as there can be, of a byte each with holes between them.
    Extents,
    /// As many extents, which two thousand files say that they have, each all of them.
    SharedExtents,
    /// As many extents, of two packs in turn, of which the store has neither.
    Packs,
    /// A file of as many chunks as there can be, of a byte each.
    Chunks,
    /// A directory of as many spans as there can be, all of the same entries.
    Spans,
    /// A directory of as many entries as there can be; the last one is a directory, and has this name.
    Entries,
    /// A file with as many xattrs as there can be.
    Xattrs,
    /// As many inodes as there can be, in one shard.
    Inodes,
}

/// Writes such an image into a store, and prints its manifest's digest.
pub(crate) fn bloat(store: &Path, table: Table) -> Result<()> {
    add(store, &image(table))
}

/// Writes an image into a store, which may be an empty folder, and prints its manifest's digest.
pub(super) fn add(store: &Path, image: &Image) -> Result<()> {
    let published = image.publish();
    let blobs = store.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(Error::io("create", &blobs))?;
    for (digest, bytes) in &published.blobs {
        let path: PathBuf = blobs.join(digest.to_string());
        fs::write(&path, bytes).map_err(Error::io("write", &path))?;
    }
    println!("{}", published.manifest);
    Ok(())
}

/// The number of records of this width that fill a blob.
fn full(width: usize) -> u32 {
    ((METADATA_MAX as usize - OVERHEAD) / width) as u32
}

fn inode(file_type: FileType, number: u64) -> InodeRecord {
    InodeRecord {
        mode: (file_type as u32) << 12 | 0o755,
        uid: 0,
        gid: 0,
        nlink: 1,
        size: 0,
        allocated: 0,
        mtime_seconds: 0,
        mtime_nanoseconds: 0,
        payload_first: 0,
        payload_count: 0,
        xattrs: NO_XATTRS,
        link: number,
    }
}

/// An image of one shard, whose root has files of this record, each with its own number.
pub(super) struct Bloated {
    pub(super) root: InodeRecord,
    pub(super) inodes: Vec<InodeRecord>,
    pub(super) shard: ShardImage,
    pub(super) packs: Vec<Pack>,
}

impl Bloated {
    pub(super) fn new(files: u32, file: InodeRecord) -> Self {
        let mut shard = ShardImage::empty();
        let name = |number: u32| format!("{number:08}").into_bytes();
        let entries: Vec<_> = (0..files)
            .map(|number| EntryRecord {
                inode: u64::from(number) + 2,
                name_offset: shard.add_to_heap(&name(number)),
                name_length: 8,
                file_type: FileType::Regular as u8,
            })
            .collect();
        let span = SpanRecord {
            entries_before: 0,
            shard: 0,
            first_entry: 0,
            entry_count: files,
            name_offset: 0,
            name_length: 8,
        };
        shard.tables[2] = encode([span]);
        shard.tables[3] = encode(entries);
        shard.tables[6] = vec![0; Digest::SIZE];
        let root = InodeRecord {
            payload_count: 1,
            nlink: 2,
            ..inode(FileType::Directory, 1)
        };
        let mut inodes = vec![root];
        inodes.resize(files as usize + 1, file);
        Bloated {
            root,
            inodes,
            shard,
            packs: Vec::new(),
        }
    }

    pub(super) fn into_image(self) -> Image {
        let mut shard = self.shard;
        let inode_count = self.inodes.len() as u32;
        shard.record = ShardRecord {
            digest: Digest::default(),
            first_inode: 1,
            inode_count,
            length: 0,
        };
        shard.first_inode = 1;
        shard.tables[0] = encode(self.inodes);
        Image {
            totals: [inode_count.into(), 0, 0],
            root: encode([self.root]),
            packs: self.packs,
            shards: vec![shard],
            blob_damages: Vec::new(),
            pack_table: Vec::new(),
            shard_table: Vec::new(),
        }
    }
}

/// A pack of chunks of a byte each.
pub(super) fn pack_of_bytes(chunks: u32) -> Pack {
    let chunk = |number| ChunkRecord {
        digest: sha256(b"x"),
        logical_offset: number,
        stored_offset: number,
        logical_length: 1,
        stored_length: 1,
        codec: 0,
    };
    Pack {
        record: PackRecord {
            digest: Digest::default(),
            index_digest: Digest::default(),
            contents_digest: Digest::default(),
            stored_length: chunks.into(),
            logical_length: chunks.into(),
            index_length: 0,
            chunk_count: chunks,
        },
        chunks: encode((0..chunks).map(chunk)),
        bytes: vec![b'x'; chunks as usize],
        is_changed: true,
    }
}

/// A pack that no store has.
fn absent_pack(number: u8) -> Pack {
    let mut pack = pack_of_bytes(4096);
    pack.record.digest = Digest([number; Digest::SIZE]);
    pack.is_changed = false;
    pack
}

/// A regular file whose extents are the first ones of the shard.
pub(super) fn file(size: u64, payload_count: u32, xattrs: u32) -> InodeRecord {
    InodeRecord {
        size,
        payload_count,
        xattrs,
        ..inode(FileType::Regular, 0)
    }
}

fn image(table: Table) -> Image {
    let bytes_in_turn = |packs: u32| {
        move |number: u32| ExtentRecord {
            file_offset: 2 * u64::from(number),
            pack: number % packs,
            pack_offset: number % 4096,
            length: 1,
        }
    };
    let mut bloated;
    match table {
        Table::Extents | Table::SharedExtents | Table::Packs => {
            let count = full(ExtentRecord::SIZE);
            let (files, packs) = match table {
                Table::Packs => (1, vec![absent_pack(1), absent_pack(2)]),
                Table::Extents => (1, vec![pack_of_bytes(4096)]),
                _ => (2000, vec![pack_of_bytes(4096)]),
            };
            let extent = bytes_in_turn(packs.len() as u32);
            bloated = Bloated::new(files, file(2 * u64::from(count), count, NO_XATTRS));
            bloated.shard.tables[1] = encode((0..count).map(extent));
            bloated.packs = packs;
        }
        Table::Chunks => {
            let count = full(ChunkRecord::SIZE);
            bloated = Bloated::new(1, file(count.into(), 1, NO_XATTRS));
            bloated.shard.tables[1] = encode([ExtentRecord {
                file_offset: 0,
                pack: 0,
                pack_offset: 0,
                length: count,
            }]);
            bloated.packs = vec![pack_of_bytes(count)];
        }
        Table::Spans => {
            let count = full(SpanRecord::SIZE);
            bloated = Bloated::new(1000, file(0, 0, NO_XATTRS));
            bloated.root.payload_count = count;
            bloated.inodes[0] = bloated.root;
            let span = |number: u32| SpanRecord {
                entries_before: u64::from(number) * 1000,
                shard: 0,
                first_entry: 0,
                entry_count: 1000,
                name_offset: 0,
                name_length: 8,
            };
            bloated.shard.tables[2] = encode((0..count).map(span));
        }
        Table::Entries => {
            // Names of eight bytes, all of the same file but for that of the directory.
            let count = full(EntryRecord::SIZE + 8);
            bloated = Bloated::new(count, file(0, 0, NO_XATTRS));
            let mut entries: Vec<EntryRecord> = super::image::decode(&bloated.shard.tables[3]);
            entries.iter_mut().for_each(|entry| entry.inode = 2);
            if let Some(last) = entries.last_mut() {
                last.inode = 3;
                last.file_type = FileType::Directory as u8;
                last.name_offset = bloated.shard.add_to_heap(b"last");
                last.name_length = 4;
            }
            bloated.shard.tables[3] = encode(entries);
            bloated.inodes.truncate(2);
            bloated.inodes.push(inode(FileType::Directory, 1));
        }
        Table::Xattrs => {
            // Names that ascend, of ten bytes each, and no values: far more than a list may have.
            let count = full(XattrRecord::SIZE + 10);
            bloated = Bloated::new(1, file(0, 0, 0));
            bloated.shard.tables[4] = encode([XattrSetRecord { first: 0, count }]);
            let heap = bloated.shard.heap.len() as u32;
            for number in 0..count {
                bloated
                    .shard
                    .add_to_heap(format!("user.{number:05x}").as_bytes());
            }
            bloated.shard.tables[5] = encode((0..count).map(|number| XattrRecord {
                name_offset: heap + 10 * number,
                name_length: 10,
                value_offset: 0,
                value_length: 0,
            }));
        }
        Table::Inodes => {
            let count = full(InodeRecord::SIZE + EntryRecord::SIZE + 8);
            bloated = Bloated::new(count, file(0, 0, NO_XATTRS));
        }
    }
    bloated.into_image()
}
