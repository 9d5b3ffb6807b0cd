// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The changes that a malicious publisher may make to an image.

use std::io;

use fastrand::Rng;
use peerfs_format::{
    ChunkRecord, EntryRecord, ExtentRecord, FileType, InodeRecord, Record, SpanRecord, ROOT_INODE,
};

use super::blob::{BlobDamage, BlobName};
use super::frame::Frames;
use super::image::{decode, encode, Image};
use super::table::{TableDamage, CHUNKS, PACKS, SHARD, SHARDS};

/// Names that no builder writes.
const NAMES: [&[u8]; 9] = [
    b".",
    b"..",
    b"a/b",
    b"/",
    b"../../../etc/passwd",
    b"nul\0inside",
    b"\0",
    b"",
    b"x",
];
/// Targets of symbolic links.
const TARGETS: [&[u8]; 6] = [
    b"",
    b"nul\0inside",
    b"../../../../../../etc/passwd",
    b"/",
    b".",
    b"name-0/name-0",
];

/// Bytes that are read at once, at the least.
const PAGE: u32 = 4096;

const INODES: usize = 0;
const EXTENTS: usize = 1;
const SPANS: usize = 2;
const ENTRIES: usize = 3;

/// Changes one thing; says what. `None` if the image has nothing to do it to.
pub(super) fn mutate(
    image: &mut Image,
    frames: &Frames,
    rng: &mut Rng,
) -> io::Result<Option<String>> {
    Ok(match rng.u32(..36) {
        0..10 => shard_table(image, rng),
        10 => root(image, rng),
        11..14 => chunk_table(image, rng),
        14..16 => blob_table(image, rng),
        16..20 => stored_chunk(image, frames, rng)?,
        20..23 => Some(blob(image, rng)),
        23..25 => name(image, rng),
        25..27 => cycle(image, rng),
        27 => target(image, rng),
        28 => total(image, rng),
        29 => first_inode(image, rng),
        30 => heap(image, rng),
        31 => chain(image, rng),
        32..34 => decoy_chunk(image, rng),
        _ => decoy_extent(image, rng),
    })
}

fn shard_table(image: &mut Image, rng: &mut Rng) -> Option<String> {
    let number = rng.usize(..image.shards.len());
    let shard = &mut image.shards[number];
    let filled: Vec<usize> = (0..SHARD.len())
        .filter(|&table| !shard.tables[table].is_empty())
        .collect();
    let table = *rng.choice(&filled)?;
    let (damage, what) = TableDamage::choose(&SHARD[table], &shard.tables[table], rng)?;
    damage.apply(&mut shard.tables[table]);
    Some(format!("shard {number}, {what}"))
}

fn chunk_table(image: &mut Image, rng: &mut Rng) -> Option<String> {
    let number = rng.usize(..image.packs.len());
    let pack = &mut image.packs[number];
    let (damage, what) = TableDamage::choose(&CHUNKS, &pack.chunks, rng)?;
    damage.apply(&mut pack.chunks);
    // Half of them have digests that fit their new places, so that more than the digest is looked at.
    pack.is_changed = rng.bool();
    Some(format!("index {number}, {what}"))
}

fn blob_table(image: &mut Image, rng: &mut Rng) -> Option<String> {
    let what = if rng.bool() {
        let table = encode(image.packs.iter().map(|pack| pack.record));
        let (damage, what) = TableDamage::choose(&PACKS, &table, rng)?;
        image.pack_table.push(damage);
        what
    } else {
        let table = encode(image.shards.iter().map(|shard| shard.record));
        let (damage, what) = TableDamage::choose(&SHARDS, &table, rng)?;
        image.shard_table.push(damage);
        what
    };
    Some(format!("blob table, {what}"))
}

fn root(image: &mut Image, rng: &mut Rng) -> Option<String> {
    let (damage, what) = TableDamage::choose(&SHARD[INODES], &image.root, rng)?;
    damage.apply(&mut image.root);
    Some(format!("manifest, {what}"))
}

/// Other stored bytes for a chunk.
fn stored_chunk(image: &mut Image, frames: &Frames, rng: &mut Rng) -> io::Result<Option<String>> {
    let number = rng.usize(..image.packs.len());
    let pack = &mut image.packs[number];
    let Some(mut chunks) = pack.stored_chunks().filter(|chunks| !chunks.is_empty()) else {
        return Ok(None);
    };
    let index = rng.usize(..chunks.len());
    let (chunk, stored) = &mut chunks[index];
    if chunk.logical_length > peerfs_format::CHUNK_MAX {
        return Ok(None);
    }
    let (bytes, what) = frames.choose(stored, chunk.logical_length, rng)?;
    *stored = bytes;
    chunk.codec = 1;
    if rng.u32(..8) == 0 {
        chunk.logical_length = rng.u32(1..=peerfs_format::CHUNK_MAX);
    }
    pack.set_chunks(chunks);
    Ok(Some(format!("pack {number}, chunk {index}: {what}")))
}

/// A page of the publisher's own in the middle of a chunk, where only who does not come from the beginning
/// finds it: were this accepted, whoever reads a file with the same chunks in another image would get it.
fn decoy_chunk(image: &mut Image, rng: &mut Rng) -> Option<String> {
    let number = rng.usize(..image.packs.len());
    let pack = &mut image.packs[number];
    let mut chunks = pack.stored_chunks()?;
    let long: Vec<usize> = (0..chunks.len())
        .filter(|&index| chunks[index].0.logical_length > 2 * PAGE)
        .collect();
    let index = *rng.choice(&long)?;
    let (chunk, _) = chunks[index];
    let decoy = ChunkRecord {
        logical_offset: chunk.logical_offset + rng.u32(1..chunk.logical_length - PAGE),
        logical_length: rng.u32(1..=PAGE),
        codec: 0,
        ..chunk
    };
    let stored = vec![b'!'; decoy.logical_length as usize];
    chunks.insert(index + 1, (decoy, stored));
    pack.set_chunks(chunks);
    Some(format!("index {number}: a decoy in chunk {index}"))
}

/// An extent behind those of a file that ends where the file's first page does: who comes from the beginning
/// does not meet it, but a search for a later page ends behind it.
fn decoy_extent(image: &mut Image, rng: &mut Rng) -> Option<String> {
    let number = with_records(image, INODES, rng)?;
    let shard = &mut image.shards[number];
    let mut inodes: Vec<InodeRecord> = decode(&shard.tables[INODES]);
    let mut extents: Vec<ExtentRecord> = decode(&shard.tables[EXTENTS]);
    let long: Vec<usize> = (0..inodes.len())
        .filter(|&index| {
            inodes[index].file_type() == Some(FileType::Regular)
                && inodes[index].payload_count == 1
                && inodes[index].size > u64::from(2 * PAGE)
        })
        .collect();
    let index = *rng.choice(&long)?;
    let inode = &mut inodes[index];
    let extent = *extents.get(inode.payload_first as usize)?;
    inode.payload_first = extents.len() as u32;
    inode.payload_count = 2;
    let length = rng.u32(1..=PAGE);
    extents.extend([extent, ExtentRecord { length, ..extent }]);
    shard.tables[INODES] = encode(inodes);
    shard.tables[EXTENTS] = encode(extents);
    Some(format!(
        "shard {number}: a decoy behind the extent of inode {index}"
    ))
}

fn blob(image: &mut Image, rng: &mut Rng) -> String {
    let name = match rng.u32(..6) {
        0 => BlobName::Manifest,
        1 => BlobName::BlobTable,
        2 => BlobName::Index(rng.usize(..image.packs.len())),
        _ => BlobName::Shard(rng.usize(..image.shards.len())),
    };
    let damage = BlobDamage::choose(rng);
    image.blob_damages.push((name, damage));
    format!("{name:?}: {damage:x?}")
}

/// Another name for an entry: one that no builder writes, or another entry's.
fn name(image: &mut Image, rng: &mut Rng) -> Option<String> {
    let number = with_records(image, ENTRIES, rng)?;
    let shard = &mut image.shards[number];
    let mut entries: Vec<EntryRecord> = decode(&shard.tables[ENTRIES]);
    let index = rng.usize(..entries.len());
    let what = if rng.u32(..3) == 0 {
        let other = entries[rng.usize(..entries.len())];
        entries[index].name_offset = other.name_offset;
        entries[index].name_length = other.name_length;
        "another entry's name".to_owned()
    } else {
        let name = NAMES[rng.usize(..NAMES.len())];
        entries[index].name_offset = shard.add_to_heap(name);
        entries[index].name_length = name.len() as u8;
        format!("the name {name:02x?}")
    };
    shard.tables[ENTRIES] = encode(entries);
    Some(format!("shard {number}, entry {index}: {what}"))
}

/// A directory that is in itself, in one of those in it, or in several.
fn cycle(image: &mut Image, rng: &mut Rng) -> Option<String> {
    let directories: Vec<u64> = image
        .shards
        .iter()
        .flat_map(|shard| {
            let inodes: Vec<InodeRecord> = decode(&shard.tables[INODES]);
            let first = shard.first_inode;
            inodes
                .into_iter()
                .enumerate()
                .filter_map(move |(index, inode)| {
                    let is_directory = inode.file_type() == Some(FileType::Directory);
                    is_directory.then(|| first.wrapping_add(index as u64))
                })
        })
        .collect();
    let number = with_records(image, ENTRIES, rng)?;
    let shard = &mut image.shards[number];
    let mut entries: Vec<EntryRecord> = decode(&shard.tables[ENTRIES]);
    let index = rng.usize(..entries.len());
    let inode = if rng.u32(..3) == 0 {
        ROOT_INODE
    } else {
        *rng.choice(&directories)?
    };
    entries[index].inode = inode;
    entries[index].file_type = FileType::Directory as u8;
    shard.tables[ENTRIES] = encode(entries);
    Some(format!("shard {number}, entry {index}: directory {inode}"))
}

/// A symbolic link to somewhere else, or an inode that becomes one.
fn target(image: &mut Image, rng: &mut Rng) -> Option<String> {
    let number = with_records(image, INODES, rng)?;
    let shard = &mut image.shards[number];
    let mut inodes: Vec<InodeRecord> = decode(&shard.tables[INODES]);
    let links: Vec<usize> = (0..inodes.len())
        .filter(|&index| inodes[index].file_type() == Some(FileType::SymbolicLink))
        .collect();
    let index = match rng.choice(&links) {
        Some(index) if rng.u32(..4) != 0 => *index,
        _ => rng.usize(..inodes.len()),
    };
    let long = vec![b'l'; rng.usize(4000..5000)];
    let target = match rng.usize(..TARGETS.len() + 1) {
        place if place < TARGETS.len() => TARGETS[place],
        _ => &long,
    };
    let offset = shard.add_to_heap(target);
    let inode = &mut inodes[index];
    inode.mode = 0o120777;
    inode.payload_first = offset;
    inode.payload_count = target.len() as u32;
    inode.size = match rng.u32(..3) {
        0 => rng.u64(..),
        _ => target.len() as u64,
    };
    shard.tables[INODES] = encode(inodes);
    let shown = &target[..target.len().min(20)];
    Some(format!(
        "shard {number}, inode {index}: a link to {shown:02x?}"
    ))
}

fn total(image: &mut Image, rng: &mut Rng) -> Option<String> {
    let index = rng.usize(..image.totals.len());
    let value = if rng.bool() { u64::MAX } else { rng.u64(..) };
    image.totals[index] = value;
    Some(format!("manifest, total {index} = {value:#x}"))
}

fn first_inode(image: &mut Image, rng: &mut Rng) -> Option<String> {
    let number = rng.usize(..image.shards.len());
    let shard = &mut image.shards[number];
    let value = match rng.u32(..4) {
        0 => u64::MAX - rng.u64(..100),
        1 => rng.u64(..),
        2 => 0,
        _ => shard.first_inode.wrapping_add(rng.u64(..5)).wrapping_sub(2),
    };
    shard.first_inode = value;
    Some(format!("shard {number}, first inode {value:#x}"))
}

fn heap(image: &mut Image, rng: &mut Rng) -> Option<String> {
    let number = rng.usize(..image.shards.len());
    let heap = &mut image.shards[number].heap;
    let place = rng.usize(..heap.len().max(1));
    if rng.bool() {
        heap.truncate(place);
        return Some(format!("shard {number}, heap cut off at {place}"));
    }
    let byte = [0, b'/', b'.', 0xff][rng.usize(..4)];
    *heap.get_mut(place)? = byte;
    Some(format!("shard {number}, heap byte {place} = {byte:#x}"))
}

/// Directories of far more entries than there are: spans that repeat one, or claim to.
fn chain(image: &mut Image, rng: &mut Rng) -> Option<String> {
    let number = with_records(image, SPANS, rng)?;
    let shard = &mut image.shards[number];
    let mut inodes: Vec<InodeRecord> = decode(&shard.tables[INODES]);
    let mut spans: Vec<SpanRecord> = decode(&shard.tables[SPANS]);
    let directory = inodes
        .iter_mut()
        .filter(|inode| inode.file_type() == Some(FileType::Directory) && inode.payload_count > 0)
        .nth(rng.usize(..3))?;
    let span = *spans.get(directory.payload_first as usize)?;
    let count = rng.u32(2..200);
    directory.payload_first = spans.len() as u32;
    directory.payload_count = count;
    for repeated in 0..count {
        let before = u64::from(repeated) * u64::from(span.entry_count);
        spans.push(SpanRecord {
            entries_before: if rng.u32(..20) == 0 {
                rng.u64(..)
            } else {
                before
            },
            ..span
        });
    }
    shard.tables[INODES] = encode(inodes);
    shard.tables[SPANS] = encode(spans);
    Some(format!(
        "shard {number}: a directory of {count} times the same span"
    ))
}

/// A shard whose table of this kind has records.
fn with_records(image: &Image, table: usize, rng: &mut Rng) -> Option<usize> {
    let width = [InodeRecord::SIZE, 1, SpanRecord::SIZE, EntryRecord::SIZE][table];
    let filled: Vec<usize> = (0..image.shards.len())
        .filter(|&number| image.shards[number].tables[table].len() >= width)
        .collect();
    rng.choice(&filled).copied()
}
