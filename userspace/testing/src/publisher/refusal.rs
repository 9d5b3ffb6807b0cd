// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Small images that break one rule of the format each.

use peerfs_format::{
    ChunkRecord, EntryRecord, ExtentRecord, FileType, InodeRecord, Record, SpanRecord, XattrRecord,
    XattrSetRecord,
};

use super::bloat::{file, pack_of_bytes, Bloated};
use super::image::{decode, encode, Image};

/// The rule that is broken.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Rule {
    /// None: this is how the others are but for what they break.
    None,
    /// Two entries have one name.
    NameTwice,
    /// Names do not ascend.
    NamesUnsorted,
    /// A span says another first name than its first entry has.
    SpanName,
    /// A span has no entries.
    SpanEmpty,
    /// An entry has another type than its inode.
    EntryType,
    /// An entry names the root.
    EntryOfRoot,
    /// A directory is in another one than it says.
    OtherParent,
    /// An inode has no name.
    NoLinks,
    /// Extents overlap.
    ExtentOverlap,
    /// An extent ends behind the file.
    ExtentBehindEnd,
    /// An extent ends behind its pack.
    ExtentBehindPack,
    /// Chunks overlap.
    ChunkOverlap,
    /// A chunk has a skippable frame before its own.
    SkippableFrame,
    /// A shard has other inodes than the blob table says.
    ShardInodes,
    /// Xattrs do not ascend.
    XattrsUnsorted,
}

/// An image of three files in the root, of which the second one has content, and breaks the rule.
pub(super) fn image(rule: Rule) -> Image {
    const ONE: usize = 2;
    let mut image = Bloated::new(3, file(0, 0, peerfs_format::NO_XATTRS));
    let length = 5;
    image.inodes[ONE] = file(length.into(), 1, peerfs_format::NO_XATTRS);
    let extent = ExtentRecord {
        file_offset: 0,
        pack: 0,
        pack_offset: 0,
        length,
    };
    image.shard.tables[1] = encode([extent]);
    image.packs = vec![pack_of_bytes(length)];
    let entries = |image: &mut Bloated, change: &dyn Fn(&mut Vec<EntryRecord>)| {
        change_records(&mut image.shard.tables[3], change);
    };
    match rule {
        Rule::None => {}
        Rule::NameTwice => entries(&mut image, &|entries| {
            entries[2].name_offset = entries[1].name_offset;
        }),
        Rule::NamesUnsorted => entries(&mut image, &|entries| entries.swap(1, 2)),
        Rule::SpanName => change_records(&mut image.shard.tables[2], &|spans: &mut Vec<
            SpanRecord,
        >| {
            spans[0].name_length -= 1;
        }),
        Rule::SpanEmpty => {
            change_records(&mut image.shard.tables[2], &|spans: &mut Vec<
                SpanRecord,
            >| {
                spans.push(SpanRecord {
                    entries_before: 3,
                    entry_count: 0,
                    ..spans[0]
                });
            });
            image.root.payload_count = 2;
        }
        Rule::EntryType => entries(&mut image, &|entries| {
            entries[1].file_type = FileType::SymbolicLink as u8;
        }),
        Rule::EntryOfRoot => entries(&mut image, &|entries| {
            entries[1].inode = 1;
            entries[1].file_type = FileType::Directory as u8;
        }),
        Rule::OtherParent => {
            image.inodes[ONE] = InodeRecord {
                link: 2,
                payload_count: 0,
                ..image.root
            };
            entries(&mut image, &|entries| {
                entries[1].file_type = FileType::Directory as u8;
            });
        }
        Rule::NoLinks => image.inodes[ONE].nlink = 0,
        Rule::ExtentOverlap => {
            image.shard.tables[1] = encode([extent, extent]);
            image.inodes[ONE].payload_count = 2;
        }
        Rule::ExtentBehindEnd => image.inodes[ONE].size = 4,
        Rule::ExtentBehindPack => {
            let pack_offset = 1;
            image.shard.tables[1] = encode([ExtentRecord {
                pack_offset,
                ..extent
            }]);
        }
        Rule::ChunkOverlap => change_records(&mut image.packs[0].chunks, &|chunks: &mut Vec<
            ChunkRecord,
        >| {
            chunks[1].logical_length = 2
        }),
        Rule::SkippableFrame => {
            // So long that it is no longer than what it decodes to.
            let content = [b'x'; 100];
            let frame = zstd::bulk::compress(&content, 1).unwrap_or_default();
            let stored = [&[0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9], &frame[..]].concat();
            let mut chunks = image.packs[0].stored_chunks().unwrap_or_default();
            chunks.truncate(1);
            chunks[0].0.logical_length = 100;
            chunks[0].0.codec = 1;
            chunks[0].1 = stored;
            image.packs[0].set_chunks(chunks);
            image.packs[0].record.logical_length = 100;
        }
        Rule::ShardInodes => image.inodes.push(image.inodes[1]),
        Rule::XattrsUnsorted => {
            let name_offset = image.shard.add_to_heap(b"user.buser.a");
            let xattr = |name_offset| XattrRecord {
                name_offset,
                name_length: 6,
                value_offset: 0,
                value_length: 1,
            };
            image.shard.tables[4] = encode([XattrSetRecord { first: 0, count: 2 }]);
            image.shard.tables[5] = encode([xattr(name_offset), xattr(name_offset + 6)]);
            image.inodes[ONE].xattrs = 0;
        }
    }
    image.inodes[0] = image.root;
    let mut image = image.into_image();
    if let Rule::ShardInodes = rule {
        image.totals[0] -= 1;
        image.shards[0].record.inode_count -= 1;
    }
    image
}

fn change_records<R: Record>(table: &mut Vec<u8>, change: &dyn Fn(&mut Vec<R>)) {
    let mut records = decode(table);
    change(&mut records);
    *table = encode(records);
}
