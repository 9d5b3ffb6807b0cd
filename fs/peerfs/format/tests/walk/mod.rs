// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Walks over everything that can be reached from some bytes, for the property tests and the fuzz
//! targets: whatever the bytes, nothing panics, and what the readers promise holds.

#![forbid(unsafe_code)]

use std::hint::black_box;

use capnp::message::{Reader, ReaderOptions};
use capnp::serialize::{read_message_from_flat_slice_no_alloc, NoAllocSliceSegments};
use peerfs_format::upcall::{
    used_chunks, Failure, FetchBlob, FetchChunks, FileReply, Header, PlacesReply, Workload,
};
use peerfs_format::{
    first_data, first_hole, peerfs_capnp, pieces, BlobTable, DataFile, Digest, Error, ExtentRecord,
    FileType, InodeRecord, Manifest, PackIndex, PackRecord, Piece, Place, PlacesHeader, Record,
    Root, Shard, ShardLayout, ShardRecord, Source, Table, CHUNK_MAX, DATA_FILE_MAX, METADATA_MAX,
    NAME_MAX, PACK_MAX, SLOTS_MAX, SYMLINK_MAX, XATTR_NAME_MAX, XATTR_VALUE_MAX,
};

/// The most records of a table that are looked at, so that an input takes bounded time.
const RECORDS_MAX: usize = 1024;

/// Reads bytes as a manifest.
pub fn manifest(bytes: &[u8]) {
    let Ok(manifest) = Manifest::parse(bytes) else {
        return;
    };
    if let Root::Plain(root) = manifest.root {
        assert_eq!(root.file_type(), Some(FileType::Directory));
    }
    assert!(u64::from(manifest.blob_table_length) <= METADATA_MAX);
}

/// Reads bytes as the blob table of an image with as many inodes as its last shard ends with.
pub fn blob_table(bytes: &[u8]) {
    let inode_count = claimed_shards(bytes)
        .and_then(|shards| shards.last().copied())
        .map_or(1, |last| {
            last.first_inode
                .saturating_add(last.inode_count.into())
                .saturating_sub(1)
        });
    let Ok(table) = BlobTable::parse(bytes, inode_count) else {
        return;
    };
    assert!(BlobTable::parse(bytes, inode_count.wrapping_add(1)).is_err());
    for number in numbers(table.packs.len()) {
        let pack = table.pack(number).unwrap();
        assert!((1..=PACK_MAX).contains(&pack.stored_length));
        assert!((1..=PACK_MAX).contains(&pack.logical_length));
        assert!(u64::from(pack.index_length) <= METADATA_MAX && pack.chunk_count >= 1);
    }
    let mut next = 1;
    for number in numbers(table.shards.len()) {
        let shard = table.shard(number).unwrap();
        assert!((1..=METADATA_MAX).contains(&shard.length.into()));
        assert_eq!(shard.first_inode, next);
        next += u64::from(shard.inode_count);
        if shard.inode_count > 0 {
            assert_eq!(table.shard_of(shard.first_inode), Some(number));
            assert_eq!(table.shard_of(next - 1), Some(number));
        }
    }
    assert_eq!(table.shard_of(0), None);
    assert_eq!(table.shard_of(u64::MAX), None);
    assert!(table.pack(u32::MAX).is_err() && table.shard(u32::MAX).is_err());
}

/// Reads bytes as the index of a pack that ends where its last chunk does. Whether it is one.
pub fn pack_index(bytes: &[u8]) -> bool {
    let Ok(pack) = PackRecord::of_index(Digest::default(), Digest::default(), bytes) else {
        return false;
    };
    let index = PackIndex::parse(bytes, &pack).unwrap();
    let mut next = (0, 0);
    for number in numbers(index.chunks.len()) {
        let chunk = index.chunk(number).unwrap();
        assert_eq!((chunk.logical_offset, chunk.stored_offset), next);
        assert!((1..=CHUNK_MAX).contains(&chunk.logical_length));
        assert!((1..=chunk.logical_length).contains(&chunk.stored_length));
        assert!(chunk.codec().is_some());
        let last = chunk.logical_offset + (chunk.logical_length - 1);
        // What a walk from the beginning comes to is what a search finds, wherever it begins.
        for offset in [
            chunk.logical_offset,
            (chunk.logical_offset + last) / 2,
            last,
        ] {
            assert_eq!(index.chunk_at(offset), Ok((number, chunk)));
        }
        next = (last + 1, chunk.stored_offset + chunk.stored_length);
    }
    assert!(index.chunk_at(u32::MAX).is_err());
    true
}

/// Reads bytes as an inode shard of an image with some packs. Whether it has a regular file with extents that
/// is accepted, and one that is not.
pub fn shard(bytes: &[u8]) -> (bool, bool) {
    let mut found = (false, false);
    let Some(record) = claimed_shard(bytes) else {
        return found;
    };
    let Ok(layout) = ShardLayout::parse(bytes, &record) else {
        return found;
    };
    let packs = packs();
    let packs = Table::new(&packs, "packs").unwrap();
    let shard = layout.view(bytes);
    let numbers = shard.inode_numbers();
    assert!(shard.inode(numbers.end, &packs).is_err());
    assert!(shard.inode(numbers.start.wrapping_sub(1), &packs).is_err());
    for number in numbers.take(RECORDS_MAX) {
        match shard.inode(number, &packs) {
            Ok(inode) => {
                walk_inode(&shard, &inode, &packs);
                found.0 |= inode.file_type() == Some(FileType::Regular) && inode.payload_count > 1;
            }
            Err(error) => found.1 |= error == Error::Malformed("extent record"),
        }
    }
    found
}

/// Two packs of different lengths.
fn packs() -> Vec<u8> {
    let mut bytes = Vec::new();
    for logical_length in [1000, PACK_MAX] {
        let pack = PackRecord {
            digest: Digest::default(),
            index_digest: Digest::default(),
            contents_digest: Digest::default(),
            stored_length: 1,
            logical_length,
            index_length: 4096,
            chunk_count: 1,
        };
        pack.write_to(|part| bytes.extend_from_slice(part));
    }
    bytes
}

/// What whoever leads to a blob says of it when they say what is in it.
fn message(mut bytes: &[u8]) -> Option<Reader<NoAllocSliceSegments<'_>>> {
    read_message_from_flat_slice_no_alloc(&mut bytes, ReaderOptions::new()).ok()
}

fn records<R: Record>(data: capnp::Result<&[u8]>) -> Option<Vec<R>> {
    let table = Table::new(data.ok()?, "table").ok()?;
    Some(table.iter().collect())
}

fn claimed_shards(bytes: &[u8]) -> Option<Vec<ShardRecord>> {
    let message = message(bytes)?;
    let root: peerfs_capnp::blob_table::Reader<'_> = message.get_root().ok()?;
    records(root.get_shards())
}

/// The record of a shard as it says itself.
pub fn claimed_shard(bytes: &[u8]) -> Option<ShardRecord> {
    let message = message(bytes)?;
    let root: peerfs_capnp::inode_shard::Reader<'_> = message.get_root().ok()?;
    Some(ShardRecord {
        digest: Digest::default(),
        first_inode: root.get_first_inode(),
        inode_count: records::<InodeRecord>(root.get_inodes())?.len() as u32,
        length: bytes.len() as u32,
    })
}

fn walk_inode(shard: &Shard<'_>, inode: &InodeRecord, packs: &Table<'_, PackRecord>) {
    assert!(inode.mtime_nanoseconds < 1_000_000_000 && inode.size <= i64::MAX as u64);
    assert!(inode.nlink >= 1);
    if let Ok(xattrs) = shard.xattrs(inode) {
        let mut last = Vec::new();
        for (name, value) in xattrs.take(RECORDS_MAX).map_while(Result::ok) {
            assert!((1..=XATTR_NAME_MAX).contains(&name.len()));
            assert!(value.len() <= XATTR_VALUE_MAX);
            assert!(name > &last[..]);
            last = name.to_vec();
        }
    }
    match inode.file_type() {
        Some(FileType::Regular) => walk_file(shard, inode, packs),
        Some(FileType::Directory) => walk_directory(shard, inode),
        Some(FileType::SymbolicLink) => {
            let target = shard.symlink_target(inode).unwrap();
            assert!((1..=SYMLINK_MAX).contains(&target.len()) && !target.contains(&0));
            assert_eq!(target.len() as u64, inode.size);
        }
        Some(_) => (),
        None => panic!("an inode without a type was accepted"),
    }
}

fn walk_file(shard: &Shard<'_>, inode: &InodeRecord, packs: &Table<'_, PackRecord>) {
    black_box(shard.content_digest(inode).is_ok());
    let extents = shard.extents(inode).unwrap();
    let whole: Vec<_> = pieces(&extents, 0..inode.size).take(RECORDS_MAX).collect();
    let mut position = 0;
    for piece in &whole {
        assert!(piece.file_offset == position && piece.length > 0);
        position += piece.length;
        if let Source::Pack { pack, offset } = piece.source {
            let length = packs.get(pack as usize).unwrap().logical_length;
            assert!(u64::from(offset) + piece.length <= length);
        }
    }
    assert!(position == inode.size || whole.len() == RECORDS_MAX);
    let decoded: Vec<ExtentRecord> = extents.iter().collect();
    // Wherever a reader begins, they get what a walk from the beginning comes to.
    for start in whole.iter().flat_map(places) {
        let piece = pieces(&extents, start..inode.size).next().unwrap();
        assert_eq!(Some(piece), part_of(&whole, start));
        assert_eq!(pieces(&decoded, start..inode.size).next(), Some(piece));
        let data = first_data(&extents, start..inode.size);
        assert!(data.is_none_or(|data| (start..inode.size).contains(&data)));
        let hole = first_hole(&extents, start..inode.size);
        assert!((start..=inode.size).contains(&hole));
        assert_eq!(data == Some(start), piece.source != Source::Hole);
    }
}

/// Bytes at the ends of a piece and in it.
fn places(piece: &Piece) -> [u64; 3] {
    let last = piece.file_offset + (piece.length - 1);
    [
        piece.file_offset,
        piece.file_offset + piece.length / 2,
        last,
    ]
}

/// What is left of the piece that has this byte, from there on.
fn part_of(pieces: &[Piece], byte: u64) -> Option<Piece> {
    let has =
        |piece: &&Piece| (piece.file_offset..piece.file_offset + piece.length).contains(&byte);
    let piece = pieces.iter().find(has)?;
    let skipped = byte - piece.file_offset;
    Some(Piece {
        file_offset: byte,
        length: piece.length - skipped,
        source: match piece.source {
            Source::Hole => Source::Hole,
            Source::Pack { pack, offset } => Source::Pack {
                pack,
                offset: offset + skipped as u32,
            },
        },
    })
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
                assert!(entry.inode != 1 && FileType::from_d_type(entry.file_type).is_some());
            }
        }
        let first = entries.get(0).map(|entry| shard.checked_entry_name(&entry));
        let repeated = shard.span_name(&span);
        if let (Some(Ok(first)), Ok(repeated)) = (first, repeated) {
            assert_eq!(
                shard.check_span_name(&span, repeated).is_ok(),
                first == repeated
            );
        }
    }
    black_box(shard.span_of(inode, b"name").is_ok());
}

/// Reads bytes as a message on the device, and as the arguments of the ioctls.
pub fn upcall(bytes: &[u8]) {
    black_box(FileReply::parse(bytes).is_ok());
    black_box(PlacesReply::parse(bytes).is_ok());
    black_box(Header::decode(bytes).is_ok());
    let Ok((header, payload)) = Header::parse(bytes) else {
        return;
    };
    assert!(header.length as usize <= bytes.len() && payload.len() < bytes.len());
    if let Ok(request) = FetchBlob::parse(payload) {
        black_box(request.kind());
        if let Some(name) = request.workload.name() {
            assert_eq!(Workload::new(name), Some(request.workload));
        }
    }
    black_box(FetchChunks::parse(payload).is_ok());
    black_box(Failure::parse(payload).is_ok());
    if let Ok(runs) = used_chunks(bytes) {
        for run in runs.flatten() {
            black_box(run.chunks().take(RECORDS_MAX).count());
        }
    }
}

/// Reads bytes as a table of places.
pub fn places_table(bytes: &[u8]) {
    let Ok(header) = PlacesHeader::parse(bytes) else {
        return;
    };
    let at = |offset: u64| bytes.get(usize::try_from(offset).ok()?..);
    for chunk in numbers(header.chunk_count as usize) {
        let Some(entry) = at(PlacesHeader::place_offset(chunk)).and_then(<[u8]>::first_chunk)
        else {
            break;
        };
        let entry = u64::from_le_bytes(*entry);
        if let Some(place) = Place::of_entry(entry) {
            assert!(place.slot < SLOTS_MAX && place.offset < DATA_FILE_MAX);
            assert_eq!(place.to_entry(), entry);
        }
    }
    for slot in 0..SLOTS_MAX {
        let Some(slot) = at(header.slot_offset(slot)) else {
            break;
        };
        if let Some(file) = DataFile::parse(slot) {
            let mut written = Vec::new();
            file.write_to(|piece| written.extend(piece));
            assert_eq!(DataFile::parse(&written), Some(file));
        }
    }
}

/// The first numbers of a table, as many as are looked at.
fn numbers(length: usize) -> std::ops::Range<u32> {
    0..length.min(RECORDS_MAX) as u32
}
