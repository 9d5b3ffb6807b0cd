// SPDX-License-Identifier: GPL-2.0 OR MIT

//! An array of records: a table in a Data field, or a list of Cap'n Proto's.
//!
//! The two arrays that are searched the most: chunks by their offset, in a pack's index, and entries
//! by their name, in a directory. The kernel can't keep a parsed message beside its bytes, since the one
//! borrows the other, so a list is reached through the message's frame each time; of tables it keeps
//! where they are.

use std::hint::black_box;

use capnp::message::{Builder, ReaderOptions};
use capnp::serialize::{read_message_from_flat_slice_no_alloc, write_message_to_words};
use clap::ValueEnum;
use peerfs_format::{
    peerfs_capnp, ChunkRecord, Digest, EntryRecord, PackIndexLayout, PackRecord, Record,
    ShardLayout, ShardRecord, SpanRecord,
};

use crate::{lists_capnp, Error, Result};

/// An array.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Array {
    ChunkTable,
    ChunkList,
    EntryTable,
    EntryList,
}

const CHUNK: u32 = 65_536;

/// Searches at places that differ each time, and prints the size of the array's blob.
pub(crate) fn search(array: Array, count: u32, searches: u32) -> Result<()> {
    let blob = match array {
        Array::ChunkTable => chunk_table(count),
        Array::ChunkList => chunk_list(count),
        Array::EntryTable => entry_table(count),
        Array::EntryList => entry_list(count),
    };
    let places = (0..searches).map(|number| number.wrapping_mul(2_654_435_761) % count);
    let names: Vec<_> = (0..count).map(name).collect();
    let name_of = |place: u32| {
        let name = names.get(place as usize);
        name.map(String::as_bytes).unwrap_or_default()
    };
    let mut found = 0;
    match array {
        Array::ChunkTable => {
            let layout = PackIndexLayout::parse(&blob, &pack(count))?;
            for place in places {
                let index = layout.view(black_box(&blob));
                let chunk = index.chunk_at(place * CHUNK + 7);
                found += u32::from(black_box(chunk).is_ok_and(|(number, _)| number == place));
            }
        }
        Array::ChunkList => {
            for place in places {
                let number = find_chunk(black_box(&blob), place * CHUNK + 7)?;
                found += u32::from(black_box(number) == Some(place));
            }
        }
        Array::EntryTable => {
            let layout = ShardLayout::parse(&blob, &shard())?;
            let span = SpanRecord {
                entries_before: 0,
                shard: 0,
                first_entry: 0,
                entry_count: count,
                name_offset: 0,
                name_length: 0,
            };
            for place in places {
                let entry = layout.view(black_box(&blob)).entry(&span, name_of(place))?;
                let inode = black_box(entry).map(|entry| entry.inode);
                found += u32::from(inode == Some(u64::from(place)));
            }
        }
        Array::EntryList => {
            for place in places {
                let inode = find_entry(black_box(&blob), name_of(place))?;
                found += u32::from(black_box(inode) == Some(u64::from(place)));
            }
        }
    }
    if found != searches {
        return Err(Error::NotFound {
            found,
            wanted: searches,
        });
    }
    println!("bytes={} searches={searches}", blob.len());
    Ok(())
}

fn name(number: u32) -> String {
    format!("file-{number:09}.txt")
}

fn digest(number: u32) -> Digest {
    Digest([number as u8; 32])
}

fn pack(count: u32) -> PackRecord {
    PackRecord {
        digest: digest(0),
        index_digest: digest(0),
        contents_digest: digest(0),
        stored_length: u64::from(count) * u64::from(CHUNK),
        logical_length: u64::from(count) * u64::from(CHUNK),
        index_length: 0,
        chunk_count: count,
    }
}

/// The record that leads to a shard of entries only.
fn shard() -> ShardRecord {
    ShardRecord {
        digest: digest(0),
        first_inode: 0,
        inode_count: 0,
        length: 0,
    }
}

fn chunk_table(count: u32) -> Vec<u8> {
    let mut table = Vec::new();
    for number in 0..count {
        let record = ChunkRecord {
            digest: digest(number),
            logical_offset: number * CHUNK,
            stored_offset: number * CHUNK,
            logical_length: CHUNK,
            stored_length: CHUNK,
            codec: 0,
        };
        record.write_to(|bytes| table.extend_from_slice(bytes));
    }
    let mut message = Builder::new_default();
    message
        .init_root::<peerfs_capnp::pack_index::Builder<'_>>()
        .set_chunks(&table);
    write_message_to_words(&message)
}

fn chunk_list(count: u32) -> Vec<u8> {
    let mut message = Builder::new_default();
    let mut chunks = message
        .init_root::<lists_capnp::index::Builder<'_>>()
        .init_chunks(count);
    for number in 0..count {
        let mut chunk = chunks.reborrow().get(number);
        chunk.set_digest0(number.into());
        chunk.set_logical_offset(number * CHUNK);
        chunk.set_stored_offset(number * CHUNK);
        chunk.set_logical_length(CHUNK);
        chunk.set_stored_length(CHUNK);
    }
    write_message_to_words(&message)
}

fn entry_table(count: u32) -> Vec<u8> {
    let mut table = Vec::new();
    let mut heap = Vec::new();
    for number in 0..count {
        let name = name(number);
        let record = EntryRecord {
            inode: number.into(),
            name_offset: heap.len() as u32,
            name_length: name.len() as u8,
            file_type: 8,
        };
        heap.extend_from_slice(name.as_bytes());
        record.write_to(|bytes| table.extend_from_slice(bytes));
    }
    let mut message = Builder::new_default();
    let mut shard = message.init_root::<peerfs_capnp::inode_shard::Builder<'_>>();
    shard.set_entries(&table);
    shard.set_heap(&heap);
    write_message_to_words(&message)
}

fn entry_list(count: u32) -> Vec<u8> {
    let mut message = Builder::new_default();
    let mut entries = message
        .init_root::<lists_capnp::directory::Builder<'_>>()
        .init_entries(count);
    for number in 0..count {
        let mut entry = entries.reborrow().get(number);
        entry.set_inode(number.into());
        entry.set_type(8);
        entry.set_name(name(number).as_bytes());
    }
    write_message_to_words(&message)
}

fn options() -> ReaderOptions {
    // As for the tables: what is read is bounded by the blob's size.
    *ReaderOptions::new().traversal_limit_in_words(None)
}

/// As that of tables, for lists.
fn partition_point(count: u32, before: impl Fn(u32) -> capnp::Result<bool>) -> capnp::Result<u32> {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle)? {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

fn find_chunk(mut blob: &[u8], offset: u32) -> capnp::Result<Option<u32>> {
    let message = read_message_from_flat_slice_no_alloc(&mut blob, options())?;
    let chunks = message
        .get_root::<lists_capnp::index::Reader<'_>>()?
        .get_chunks()?;
    let after = partition_point(chunks.len(), |place| {
        Ok(chunks.get(place).get_logical_offset() <= offset)
    })?;
    let Some(number) = after.checked_sub(1) else {
        return Ok(None);
    };
    // All of the record is wanted, as the table's reader gives it.
    let chunk = chunks.get(number);
    black_box((
        chunk.get_digest0(),
        chunk.get_digest1(),
        chunk.get_digest2(),
        chunk.get_digest3(),
    ));
    black_box((
        chunk.get_stored_offset(),
        chunk.get_stored_length(),
        chunk.get_codec(),
    ));
    Ok((offset - chunk.get_logical_offset() < chunk.get_logical_length()).then_some(number))
}

fn find_entry(mut blob: &[u8], name: &[u8]) -> capnp::Result<Option<u64>> {
    let message = read_message_from_flat_slice_no_alloc(&mut blob, options())?;
    let entries = message
        .get_root::<lists_capnp::directory::Reader<'_>>()?
        .get_entries()?;
    let place = partition_point(entries.len(), |place| {
        Ok(entries.get(place).get_name()? < name)
    })?;
    if place == entries.len() {
        return Ok(None);
    }
    let entry = entries.get(place);
    Ok((entry.get_name()? == name).then(|| entry.get_inode()))
}
