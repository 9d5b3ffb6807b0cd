// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Tables that a malicious publisher makes: nearly right, so that some are accepted. Of those an answer from any
//! start must be that of the walk from the beginning: by such a walk files are said to be the same, and by
//! searches that begin anywhere their pages are filled.

#![forbid(unsafe_code)]

use capnp::message::Builder;
use capnp::serialize::write_message_to_words;
use peerfs_format::{
    peerfs_capnp, BlobTable, ChunkRecord, Digest, Error, ExtentRecord, InodeRecord, PackIndex,
    PackRecord, Record, ShardLayout, ShardRecord, SpanRecord, Table, XattrRecord, XattrSetRecord,
    NO_XATTRS, PACK_MAX,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::{encode, walk};

/// Tables that are tried.
const CASES: usize = 20_000;

/// What is done to a table of records.
#[derive(Clone, Debug)]
enum Change {
    /// A number of a record, by its place among the numbers.
    Set(Index, usize, u64),
    Exchange(Index, Index),
    Repeat(Index, Index),
    Remove(Index),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let value = prop_oneof![
        0..300_u64,
        Just(u32::MAX.into()),
        Just(u64::MAX),
        any::<u64>()
    ];
    let change = prop_oneof![
        4 => (any::<Index>(), 0..5_usize, value)
            .prop_map(|(record, field, value)| Change::Set(record, field, value)),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(one, other)| Change::Exchange(one, other)),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Change::Repeat(from, to)),
        1 => any::<Index>().prop_map(Change::Remove),
    ];
    vec(change, 0..3)
}

fn apply<R: Clone>(records: &mut Vec<R>, changes: &[Change], set: impl Fn(&mut R, usize, u64)) {
    for change in changes {
        let count = records.len();
        if count == 0 {
            return;
        }
        match change {
            Change::Set(record, field, value) => {
                set(&mut records[record.index(count)], *field, *value)
            }
            Change::Exchange(one, other) => records.swap(one.index(count), other.index(count)),
            Change::Repeat(from, to) => {
                records.insert(to.index(count), records[from.index(count)].clone())
            }
            Change::Remove(record) => drop(records.remove(record.index(count))),
        }
    }
}

fn inode(mode: u32, payload_count: u32, xattrs: u32) -> InodeRecord {
    InodeRecord {
        mode,
        uid: 0,
        gid: 0,
        nlink: 1,
        size: 0,
        allocated: 0,
        mtime_seconds: 0,
        mtime_nanoseconds: 0,
        payload_first: 0,
        payload_count,
        xattrs,
        link: 0,
    }
}

/// Calls `is_accepted` with many values; some must be accepted, and some refused.
fn some_are_accepted<T: Strategy>(strategy: T, mut is_accepted: impl FnMut(T::Value) -> bool) {
    let mut runner = TestRunner::deterministic();
    let accepted = (0..CASES)
        .filter(|_| is_accepted(strategy.new_tree(&mut runner).unwrap().current()))
        .count();
    assert!(accepted > CASES / 20, "only {accepted} were accepted");
    assert!(
        accepted < CASES * 19 / 20,
        "as many as {accepted} were accepted"
    );
}

fn chunk(lengths: (u32, u32), offsets: (u32, u32)) -> ChunkRecord {
    let (logical_length, saved) = lengths;
    ChunkRecord {
        digest: Digest([offsets.0 as u8; Digest::SIZE]),
        logical_offset: offsets.0,
        stored_offset: offsets.1,
        logical_length,
        stored_length: logical_length - saved.min(logical_length - 1),
        codec: u8::from(saved > 0),
    }
}

fn pack_index(chunks: &[ChunkRecord]) -> Vec<u8> {
    let mut message = Builder::new_default();
    let mut root = message.init_root::<peerfs_capnp::pack_index::Builder<'_>>();
    root.set_chunks(&encode(chunks));
    write_message_to_words(&message)
}

#[test]
fn in_a_pack_index_that_is_accepted_searches_find_what_a_walk_does() {
    let lengths = vec((1..100_u32, 0..3_u32), 1..12);
    some_are_accepted((lengths, changes()), |(lengths, changes)| {
        let mut ends = (0, 0);
        let mut chunks: Vec<_> = lengths
            .into_iter()
            .map(|lengths| {
                let chunk = chunk(lengths, ends);
                ends = (ends.0 + chunk.logical_length, ends.1 + chunk.stored_length);
                chunk
            })
            .collect();
        apply(&mut chunks, &changes, |chunk, field, value| match field {
            0 => chunk.logical_offset = value as u32,
            1 => chunk.stored_offset = value as u32,
            2 => chunk.logical_length = value as u32,
            3 => chunk.stored_length = value as u32,
            _ => chunk.codec = value as u8,
        });
        walk::pack_index(&pack_index(&chunks))
    });
}

#[test]
fn a_pack_index_of_another_pack_is_refused() {
    let chunks = [chunk((10, 0), (0, 0)), chunk((20, 5), (10, 10))];
    let blob = pack_index(&chunks);
    let pack = PackRecord {
        digest: Digest::default(),
        index_digest: Digest::default(),
        contents_digest: Digest::default(),
        stored_length: 25,
        logical_length: 30,
        index_length: blob.len() as u32,
        chunk_count: 2,
    };
    assert!(PackIndex::parse(&blob, &pack).is_ok());
    let others = [
        PackRecord {
            stored_length: 26,
            ..pack
        },
        PackRecord {
            stored_length: 24,
            ..pack
        },
        PackRecord {
            logical_length: 31,
            ..pack
        },
        PackRecord {
            logical_length: 29,
            ..pack
        },
        PackRecord {
            chunk_count: 1,
            ..pack
        },
        PackRecord {
            chunk_count: 3,
            ..pack
        },
    ];
    assert!(others
        .iter()
        .all(|pack| PackIndex::parse(&blob, pack).is_err()));
}

#[test]
fn the_extents_of_a_file_that_is_accepted_divide_it_in_one_way() {
    let extents = vec((0..40_u64, 1..60_u32, 0..2_u32, 0..500_u32), 1..10);
    let mut refused = 0;
    some_are_accepted(
        (extents, 0..3_u64, changes()),
        |(extents, rest, changes)| {
            let mut size = 0;
            let mut extents: Vec<_> = extents
                .into_iter()
                .map(|(hole, length, pack, pack_offset)| {
                    let file_offset = size + hole;
                    size = file_offset + u64::from(length);
                    ExtentRecord {
                        file_offset,
                        pack,
                        pack_offset,
                        length,
                    }
                })
                .collect();
            apply(&mut extents, &changes, |extent, field, value| match field {
                0 | 1 => extent.file_offset = value,
                2 => extent.pack = value as u32,
                3 => extent.pack_offset = value as u32,
                _ => extent.length = value as u32,
            });
            let inode = InodeRecord {
                mode: 0o100644,
                uid: 0,
                gid: 0,
                nlink: 1,
                size: size + rest,
                allocated: 0,
                mtime_seconds: 0,
                mtime_nanoseconds: 0,
                payload_first: 0,
                payload_count: extents.len() as u32,
                xattrs: NO_XATTRS,
                link: 0,
            };
            let mut message = Builder::new_default();
            let mut root = message.init_root::<peerfs_capnp::inode_shard::Builder<'_>>();
            root.set_first_inode(7);
            root.set_inodes(&encode(&[inode]));
            root.set_extents(&encode(&extents));
            let (was_accepted, was_refused) = walk::shard(&write_message_to_words(&message));
            refused += usize::from(was_refused);
            was_accepted
        },
    );
    assert!(
        refused > CASES / 20,
        "only {refused} had extents that were refused"
    );
}

/// A shard of these inodes, with so many extents and spans.
fn shard_of(inodes: &[InodeRecord], extents: usize, spans: usize) -> Vec<u8> {
    let mut message = Builder::new_default();
    let mut root = message.init_root::<peerfs_capnp::inode_shard::Builder<'_>>();
    root.set_first_inode(2);
    root.set_inodes(&encode(inodes));
    root.set_extents(&vec![0; extents * ExtentRecord::SIZE]);
    root.set_spans(&vec![0; spans * SpanRecord::SIZE]);
    write_message_to_words(&message)
}

#[test]
fn inodes_that_share_extents_or_spans_are_refused() {
    let file = |count| inode(0o100644, count, NO_XATTRS);
    let directory = |count| inode(0o40755, count, NO_XATTRS);
    let link = inode(0o120777, 9, NO_XATTRS);
    let inodes = [file(3), directory(2), file(1), directory(1), link];
    let parse = |extents, spans| {
        let blob = shard_of(&inodes, extents, spans);
        ShardLayout::parse(&blob, &walk::claimed_shard(&blob).unwrap())
    };
    assert!(parse(4, 3).is_ok() && parse(5, 3).is_ok());
    assert_eq!(parse(3, 3).err(), Some(Error::Malformed("extent table")));
    assert_eq!(parse(4, 2).err(), Some(Error::Malformed("span table")));
}

/// Whether the xattrs of these names, of an inode, are accepted.
fn are_xattrs(names: &[&[u8]]) -> bool {
    let mut heap = Vec::new();
    let mut xattrs = Vec::new();
    for name in names {
        xattrs.push(XattrRecord {
            name_offset: heap.len() as u32,
            name_length: name.len() as u32,
            value_offset: 0,
            value_length: 0,
        });
        heap.extend_from_slice(name);
    }
    let set = XattrSetRecord {
        first: 0,
        count: xattrs.len() as u32,
    };
    let mut message = Builder::new_default();
    let mut root = message.init_root::<peerfs_capnp::inode_shard::Builder<'_>>();
    root.set_first_inode(2);
    root.set_inodes(&encode(&[inode(0o010644, 0, 0)]));
    root.set_xattr_sets(&encode(&[set]));
    root.set_xattrs(&encode(&xattrs));
    root.set_heap(&heap);
    let blob = write_message_to_words(&message);
    let layout = ShardLayout::parse(&blob, &walk::claimed_shard(&blob).unwrap()).unwrap();
    let shard = layout.view(&blob);
    let inode = shard.inode(2, &Table::new(&[], "packs").unwrap()).unwrap();
    let found: Result<Vec<_>, _> = shard.xattrs(&inode).unwrap().collect();
    found.is_ok_and(|found| {
        found
            .iter()
            .map(|(name, _)| *name)
            .eq(names.iter().copied())
    })
}

#[test]
fn xattrs_have_names_that_there_are_and_ascend() {
    assert!(are_xattrs(&[]));
    assert!(are_xattrs(&[
        b"security.capability",
        b"system.posix_acl_access",
        b"system.posix_acl_default",
        b"trusted.a",
        b"user.a",
        b"user.b\xff",
    ]));
    let long = [&b"user."[..], &[b'x'; 250]].concat();
    assert!(are_xattrs(&[&long]));
    for names in [
        &[&b"user.b"[..], b"user.a"][..],
        &[b"user.a", b"user.a"],
        &[b"user."],
        &[b"user"],
        &[b""],
        &[b"system.posix_acl"],
        &[b"system.nfs4_acl"],
        &[b"other.a"],
        &[b"user.a\0b"],
        &[&[&long[..], b"x"].concat()],
    ] {
        assert!(!are_xattrs(names), "{names:?}");
    }
    let many: Vec<_> = (0..6000)
        .map(|number| format!("user.{number:05}").into_bytes())
        .collect();
    let many: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
    assert!(are_xattrs(&many[..5957]) && !are_xattrs(&many[..5958]));
}

#[test]
fn every_record_of_a_blob_table_is_checked() {
    let digest = Digest::default();
    let shard = |first_inode, inode_count, length| ShardRecord {
        digest,
        first_inode,
        inode_count,
        length,
    };
    let pack = PackRecord {
        digest,
        index_digest: digest,
        contents_digest: digest,
        stored_length: 1,
        logical_length: 1,
        index_length: 4096,
        chunk_count: 1,
    };
    let parse = |packs: &[PackRecord], shards: &[ShardRecord], inodes| {
        let mut message = Builder::new_default();
        let mut root = message.init_root::<peerfs_capnp::blob_table::Builder<'_>>();
        root.set_packs(&encode(packs));
        root.set_shards(&encode(shards));
        BlobTable::parse(&write_message_to_words(&message), inodes).is_ok()
    };
    let shards = [shard(1, 3, 8), shard(4, 0, 8), shard(4, 2, 8)];
    assert!(parse(&[pack, pack], &shards, 5));
    for packs in [
        PackRecord {
            stored_length: 0,
            ..pack
        },
        PackRecord {
            stored_length: PACK_MAX + 1,
            ..pack
        },
        PackRecord {
            logical_length: 0,
            ..pack
        },
        PackRecord {
            logical_length: PACK_MAX + 1,
            ..pack
        },
        PackRecord {
            index_length: (16 << 20) + 1,
            ..pack
        },
        PackRecord {
            chunk_count: 0,
            ..pack
        },
        PackRecord {
            chunk_count: 79,
            ..pack
        },
    ] {
        assert!(!parse(&[pack, packs], &shards, 5), "{packs:?}");
    }
    for (shards, inodes) in [
        (&shards[..], 4),
        (&shards, 6),
        (&[], 0),
        (&[shard(1, 0, 8)], 0),
        (&[shard(1, 0, 8), shard(1, 1, 8)], 1),
        (&[shard(2, 1, 8)], 2),
        (&[shard(1, 3, 8), shard(5, 1, 8)], 5),
        (&[shard(1, 3, 8), shard(3, 1, 8)], 3),
        (&[shard(1, 3, 0)], 3),
        (&[shard(1, 3, (16 << 20) + 1)], 3),
        (&[shard(1, 3, 8), shard(u64::MAX, 3, 8)], 2),
    ] {
        assert!(!parse(&[pack], shards, inodes), "{shards:?}");
    }
}
