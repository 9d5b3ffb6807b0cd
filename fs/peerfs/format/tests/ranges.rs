// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The arithmetic of ranges, against the plainest way to say the same: byte by byte, record by record.

#![forbid(unsafe_code)]

use peerfs_format::{
    first_data, first_hole, pieces, ChunkRecord, ExtentRecord, PackIndex, Record, ShardRecord,
    Source, Table,
};
use proptest::collection::vec;
use proptest::prelude::*;

/// Extents as a builder writes them: ascending, not overlapping, some with holes between them. They
/// begin anywhere in the file, also close to the end of what 64 bits count.
fn extents() -> impl Strategy<Value = Vec<ExtentRecord>> {
    let base = prop_oneof![
        Just(0_u64),
        Just(u64::from(u32::MAX) - 50),
        Just(i64::MAX as u64 - 2000)
    ];
    let parts = vec((0..40_u64, 1..60_u32, 0..3_u32, 0..1000_u32), 0..12);
    (base, parts).prop_map(|(base, parts)| {
        let mut end = base;
        let extent = |(gap, length, pack, pack_offset)| {
            let file_offset = end + gap;
            end = file_offset + u64::from(length);
            ExtentRecord {
                file_offset,
                pack,
                pack_offset,
                length,
            }
        };
        parts.into_iter().map(extent).collect()
    })
}

/// Where a byte comes from.
fn source_of(extents: &[ExtentRecord], byte: u64) -> Source {
    let covers = |extent: &&ExtentRecord| {
        (extent.file_offset..extent.file_offset + u64::from(extent.length)).contains(&byte)
    };
    extents
        .iter()
        .find(covers)
        .map_or(Source::Hole, |extent| Source::Pack {
            pack: extent.pack,
            offset: extent.pack_offset + (byte - extent.file_offset) as u32,
        })
}

/// A range around the extents.
fn range(extents: &[ExtentRecord], start: u64, length: u64) -> std::ops::Range<u64> {
    let first = extents.first().map_or(0, |extent| extent.file_offset);
    let start = first.saturating_sub(20) + start;
    start..start + length
}

fn encode<R: Record>(records: &[R]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for record in records {
        record.write_to(|part| bytes.extend_from_slice(part));
    }
    bytes
}

/// A chunk record of which only the logical part counts.
fn chunk(logical_offset: u32, logical_length: u32) -> ChunkRecord {
    ChunkRecord {
        digest: Default::default(),
        logical_offset,
        stored_offset: 0,
        logical_length,
        stored_length: 0,
        codec: 0,
    }
}

/// A pack index over encoded chunk records.
fn index(chunks: &[u8]) -> PackIndex<'_> {
    PackIndex {
        chunks: Table::new(chunks, "chunks").unwrap(),
        ivs: Table::new(&[], "vectors").unwrap(),
    }
}

proptest! {
    #[test]
    fn each_part_is_of_the_chunk_that_a_search_finds(
        lengths in vec(1..60_u32, 0..30),
        start in 0..1000_u32,
        length in 0..1000_u64,
    ) {
        let mut end = 0;
        let chunks: Vec<_> = lengths
            .iter()
            .map(|length| {
                end += length;
                chunk(end - length, *length)
            })
            .collect();
        let bytes = encode(&chunks);
        let index = index(&bytes);
        let mut position = start;
        let mut parts = index.parts(start, length);
        for part in parts.by_ref().map_while(Result::ok) {
            prop_assert_eq!(index.chunk_at(position), Ok((part.number, part.record)));
            prop_assert_eq!(part.record.logical_offset + part.skipped, position);
            prop_assert!(part.length > 0 && part.range().end <= part.record.logical_length as usize);
            position += part.length;
        }
        // All of it, or all that there is.
        let wanted = u64::from(start) + length;
        let has_all = length == 0 || wanted <= end.into();
        let expected = if has_all { wanted } else { end.max(start).into() };
        prop_assert_eq!(u64::from(position), expected);
        prop_assert!(parts.next().is_none());
        prop_assert_eq!(index.parts(start, length).all(|part| part.is_ok()), has_all);
        // The numbers are those of the parts.
        let numbers: Vec<_> = index.parts(start, length).flatten().map(|part| part.number).collect();
        if length > 0 && start < end {
            let found = index.numbers(start..start + length as u32).unwrap();
            prop_assert_eq!(found.collect::<Vec<_>>(), numbers);
        }
    }

    /// What no reader accepts.
    #[test]
    fn any_chunks_divide_a_range_in_no_more_parts_than_there_are(
        records in vec((any::<u32>(), any::<u32>()), 0..12),
        near in vec((0..100_u32, 0..100_u32), 0..12),
        start in prop_oneof![any::<u32>(), 0..100_u32, (u32::MAX - 100)..=u32::MAX],
        length in prop_oneof![any::<u64>(), 0..200_u64],
    ) {
        let chunks: Vec<_> = near.into_iter().chain(records).map(|(offset, length)| chunk(offset, length)).collect();
        let bytes = encode(&chunks);
        let parts: Vec<_> = index(&bytes).parts(start, length).collect();
        prop_assert!(parts.len() <= chunks.len() + 1);
        let mut position = u64::from(start);
        for part in parts.iter().flatten() {
            prop_assert_eq!(u64::from(part.record.logical_offset) + u64::from(part.skipped), position);
            prop_assert!(part.length > 0);
            position += u64::from(part.length);
        }
        let is_done = parts.iter().all(|part| part.is_ok());
        prop_assert!(!is_done || position == u64::from(start).saturating_add(length));
    }

    #[test]
    fn every_byte_of_a_piece_is_from_its_source(
        extents in extents(),
        start in 0..900_u64,
        length in 0..900_u64,
    ) {
        let range = range(&extents, start, length);
        let mut position = range.start;
        let mut last = None;
        for piece in pieces(&extents, range.clone()) {
            prop_assert_eq!(piece.file_offset, position);
            prop_assert!(piece.length > 0);
            for place in 0..piece.length {
                let expected = match piece.source {
                    Source::Hole => Source::Hole,
                    Source::Pack { pack, offset } => Source::Pack { pack, offset: offset + place as u32 },
                };
                prop_assert_eq!(source_of(&extents, piece.file_offset + place), expected);
            }
            // Holes are not cut into pieces.
            prop_assert!(last != Some(Source::Hole) || piece.source != Source::Hole);
            last = Some(piece.source);
            position += piece.length;
        }
        prop_assert_eq!(position, range.end);
    }

    #[test]
    fn seeking_finds_the_first_byte_of_its_kind(
        extents in extents(),
        start in 0..900_u64,
        length in 0..900_u64,
    ) {
        let range = range(&extents, start, length);
        let is_hole = |byte: &u64| source_of(&extents, *byte) == Source::Hole;
        let data = range.clone().find(|byte| !is_hole(byte));
        prop_assert_eq!(first_data(&extents, range.clone()), data);
        let hole = range.clone().find(is_hole).unwrap_or(range.end);
        prop_assert_eq!(first_hole(&extents, range), hole);
    }

    /// What a malicious image may have: any numbers, in any order.
    #[test]
    fn any_extents_divide_a_range_without_gaps(
        parts in vec((any::<u64>(), any::<u32>(), any::<u32>(), any::<u32>()), 0..12),
        start: u64,
        length in 0..1_000_000_u64,
        is_near in any::<bool>(),
    ) {
        let extents: Vec<_> = parts
            .iter()
            .map(|&(file_offset, pack, pack_offset, length)| ExtentRecord {
                file_offset: if is_near { start.saturating_add(file_offset % 1_000_000) } else { file_offset },
                pack,
                pack_offset,
                length,
            })
            .collect();
        let range = start..start.saturating_add(length);
        let mut position = range.start;
        let mut count = 0;
        for piece in pieces(&extents, range.clone()) {
            prop_assert_eq!(piece.file_offset, position);
            prop_assert!(piece.length > 0);
            position += piece.length;
            count += 1;
        }
        prop_assert_eq!(position, range.end.max(range.start));
        // Each piece ends at a border of an extent: nobody is kept busy for ever.
        prop_assert!(count <= 2 * extents.len() + 1);
        let data = first_data(&extents, range.clone());
        prop_assert!(data.is_none_or(|data| range.contains(&data)));
        let hole = first_hole(&extents, range.clone());
        prop_assert!(hole == range.end || range.contains(&hole));
    }

    #[test]
    fn a_table_is_searched_as_a_slice_is(
        mut inodes in vec(0..200_u64, 0..40),
        wanted in 0..200_u64,
        first in 0..50_usize,
        count in 0..50_usize,
    ) {
        inodes.sort_unstable();
        let records: Vec<_> = inodes
            .iter()
            .map(|&first_inode| ShardRecord {
                digest: Default::default(),
                first_inode,
                inode_count: 1,
                length: 1,
            })
            .collect();
        let bytes = encode(&records);
        let table = Table::<ShardRecord>::new(&bytes, "shards").unwrap();
        let place = table.partition_point(|shard| shard.first_inode < wanted);
        prop_assert_eq!(place, inodes.partition_point(|&inode| inode < wanted));
        let part = table.range(first, count).map(|part| part.iter().collect::<Vec<_>>());
        let expected = records.get(first..first + count).map(<[_]>::to_vec);
        prop_assert_eq!(part, expected);
    }
}
