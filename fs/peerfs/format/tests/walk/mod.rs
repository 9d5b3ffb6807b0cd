// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Walks over everything that can be reached from some bytes, for the property tests and the fuzz
//! targets: whatever the bytes, nothing panics, and what the readers promise holds.

#![forbid(unsafe_code)]

use std::hint::black_box;

use peerfs_format::upcall::{ChunkData, Failure, FetchBlob, FetchChunks, FileReply, Header};
use peerfs_format::{
    first_data, first_hole, pieces, BlobTable, Codec, Digest, FileType, InodeRecord, Manifest,
    PackIndex, PackRecord, PresenceHeader, Shard, ShardLayout, CHUNK_MAX, METADATA_MAX, NAME_MAX,
    PACK_MAX, SYMLINK_MAX, XATTR_NAME_MAX, XATTR_VALUE_MAX,
};

/// The most records of a table that are looked at, so that an input takes bounded time.
const RECORDS_MAX: usize = 1024;

/// Reads bytes as a manifest.
pub fn manifest(bytes: &[u8]) {
    let Ok(manifest) = Manifest::parse(bytes) else {
        return;
    };
    assert_eq!(manifest.root.file_type(), Some(FileType::Directory));
    assert!(u64::from(manifest.blob_table_length) <= METADATA_MAX);
}

/// Reads bytes as a blob table.
pub fn blob_table(bytes: &[u8]) {
    let Ok(table) = BlobTable::parse(bytes) else {
        return;
    };
    for number in numbers(table.packs.len()) {
        if let Ok(pack) = table.pack(number) {
            assert!(pack.stored_length <= PACK_MAX && pack.logical_length <= PACK_MAX);
            assert!(u64::from(pack.index_length) <= METADATA_MAX);
        }
    }
    for number in numbers(table.shards.len()) {
        let Ok(shard) = table.shard(number) else {
            continue;
        };
        assert!(u64::from(shard.length) <= METADATA_MAX);
        for inode in [
            shard.first_inode,
            shard.first_inode.wrapping_sub(1),
            u64::MAX,
        ] {
            if let Some(found) = table.shard_of(inode) {
                assert!((found as usize) < table.shards.len());
            }
        }
    }
    assert!(table.pack(u32::MAX).is_err() && table.shard(u32::MAX).is_err());
}

/// Reads bytes as the index of a pack as large as there can be.
pub fn pack_index(bytes: &[u8]) {
    let Ok(index) = PackIndex::parse(bytes) else {
        return;
    };
    let pack = PackRecord {
        digest: Digest::default(),
        index_digest: Digest::default(),
        stored_length: PACK_MAX,
        logical_length: PACK_MAX,
        index_length: bytes.len() as u32,
        chunk_count: index.chunks.len() as u32,
    };
    for number in numbers(index.chunks.len()) {
        let Ok(chunk) = index.chunk(&pack, number) else {
            continue;
        };
        assert!((1..=CHUNK_MAX).contains(&chunk.logical_length));
        assert!((1..=chunk.logical_length).contains(&chunk.stored_length));
        assert!(matches!(chunk.codec(), Some(Codec::Raw | Codec::Zstd)));
        let end = chunk.logical_offset + (chunk.logical_length - 1);
        for offset in [chunk.logical_offset, end] {
            if let Ok((_, found)) = index.chunk_at(&pack, offset) {
                let covered = found.logical_offset..found.logical_offset + found.logical_length;
                assert!(covered.contains(&offset));
            }
        }
    }
    black_box(index.chunk_at(&pack, u32::MAX).is_ok());
    black_box(index.content_digests.iter().count());
}

/// Reads bytes as an inode shard.
pub fn shard(bytes: &[u8]) {
    let Ok(layout) = ShardLayout::parse(bytes) else {
        return;
    };
    let shard = layout.view(bytes);
    let numbers = shard.inode_numbers();
    assert!(shard.inode(numbers.end).is_err());
    assert!(shard.inode(numbers.start.wrapping_sub(1)).is_err());
    for number in numbers.take(RECORDS_MAX) {
        if let Ok(inode) = shard.inode(number) {
            walk_inode(&shard, &inode);
        }
    }
}

fn walk_inode(shard: &Shard<'_>, inode: &InodeRecord) {
    assert!(inode.mtime_nanoseconds < 1_000_000_000 && inode.size <= i64::MAX as u64);
    if let Ok(xattrs) = shard.xattrs(inode) {
        for xattr in xattrs.iter().take(RECORDS_MAX) {
            if let Ok((name, value)) = shard.xattr(&xattr) {
                assert!((1..=XATTR_NAME_MAX).contains(&name.len()));
                assert!(value.len() <= XATTR_VALUE_MAX);
            }
        }
    }
    match inode.file_type() {
        Some(FileType::Regular) => walk_file(shard, inode),
        Some(FileType::Directory) => walk_directory(shard, inode),
        Some(FileType::SymbolicLink) => {
            if let Ok(target) = shard.symlink_target(inode) {
                assert!((1..=SYMLINK_MAX).contains(&target.len()) && !target.contains(&0));
            }
        }
        Some(_) => (),
        None => panic!("an inode without a type was accepted"),
    }
}

fn walk_file(shard: &Shard<'_>, inode: &InodeRecord) {
    black_box(shard.content_digest(inode).is_ok());
    let Ok(extents) = shard.extents(inode) else {
        return;
    };
    let extents: Vec<_> = extents.iter().take(RECORDS_MAX).collect();
    let range = 0..inode.size;
    let mut position = 0;
    // Extents out of order can make no more pieces than two for each.
    for piece in pieces(&extents, range.clone()) {
        assert!(piece.file_offset == position && piece.length > 0);
        position += piece.length;
    }
    assert_eq!(position, inode.size);
    for start in [0, inode.size / 2, inode.size] {
        let data = first_data(&extents, start..inode.size);
        assert!(data.is_none_or(|data| (start..inode.size).contains(&data)));
        let hole = first_hole(&extents, start..inode.size);
        assert!((start..=inode.size).contains(&hole));
    }
}

fn walk_directory(shard: &Shard<'_>, inode: &InodeRecord) {
    let Ok(spans) = shard.spans(inode) else {
        return;
    };
    for span in spans.iter().take(RECORDS_MAX) {
        black_box(shard.span_name(&span).is_ok());
        let Ok(entries) = shard.entries(&span) else {
            continue;
        };
        for entry in entries.iter().take(RECORDS_MAX) {
            if let Ok(name) = shard.entry_name(&entry) {
                assert!((1..=NAME_MAX).contains(&name.len()));
                assert!(name != b"." && name != b"..");
                assert!(!name.contains(&b'/') && !name.contains(&0));
                // Another one of the same name may be found, or none if they are not sorted.
                if let Ok(Some(found)) = shard.entry(&span, name) {
                    assert_eq!(shard.entry_name(&found), Ok(name));
                }
            }
            black_box(FileType::from_d_type(entry.file_type));
        }
    }
    black_box(shard.span_of(inode, b"name").is_ok());
}

/// Reads bytes as a message on the device, and as the argument of the ioctl.
pub fn upcall(bytes: &[u8]) {
    black_box(FileReply::parse(bytes).is_ok());
    black_box(Header::decode(bytes).is_ok());
    let Ok((header, payload)) = Header::parse(bytes) else {
        return;
    };
    assert!(header.length as usize <= bytes.len() && payload.len() < bytes.len());
    if let Ok(request) = FetchBlob::parse(payload) {
        black_box(request.kind());
    }
    black_box(FetchChunks::parse(payload).is_ok());
    black_box(Failure::parse(payload).is_ok());
    // An error is the last item.
    for (_, stored) in ChunkData::new(payload).flatten() {
        assert!(stored.len() < payload.len());
    }
}

/// Reads bytes as the map of a partial pack.
pub fn presence(bytes: &[u8]) {
    if let Ok(header) = PresenceHeader::parse(bytes) {
        assert_eq!(PresenceHeader::parse(&header.to_bytes()), Ok(header));
        assert_eq!(
            header.bits_size() as u64,
            u64::from(header.chunk_count).div_ceil(8)
        );
    }
}

/// The first numbers of a table, as many as are looked at.
fn numbers(length: usize) -> std::ops::Range<u32> {
    0..length.min(RECORDS_MAX) as u32
}
