// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a change of one chunk costs with several ways to divide chunks into packs: the bytes of packs that there were
//! not before.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use peerfs_build::{PackBorders, PackSizes};
use peerfs_format::{ChunkRecord, Digest, Record, METADATA_MAX};
use peerfs_store::{sha256, Image, Store};

use crate::{Error, Result};

/// A chunk as the rule for borders sees it.
#[derive(Clone, Copy)]
struct Chunk {
    content: Digest,
    stored: u32,
    logical: u32,
}

/// A change of a tree, by what it does to the chunk that it meets.
#[derive(Clone, Copy)]
enum Change {
    /// The chunk has other content, which takes a few bytes more or less.
    Edited,
    /// There is one more chunk before it.
    Added,
}

/// Divides the chunks of an image by each of the sizes, and prints what the packs are like, and what it costs to change
/// a chunk: on average over `places` of them.
pub(crate) fn print(
    store: &Path,
    manifest: &Digest,
    all_sizes: &[PackSizes],
    places: usize,
) -> Result<()> {
    let chunks = read_chunks(store, manifest)?;
    for sizes in all_sizes {
        let packs = divide(&chunks, *sizes);
        let known: HashSet<Digest> = packs.iter().map(|pack| pack.name).collect();
        let index_bytes = chunks.len() * ChunkRecord::SIZE;
        print!(
            "min={} more={} max={} packs={} index={}",
            sizes.min,
            sizes.more,
            sizes.max,
            packs.len(),
            index_bytes / packs.len().max(1),
        );
        for (name, change) in [("edited", Change::Edited), ("added", Change::Added)] {
            let mut costs: Vec<u64> = (0..places)
                .map(|place| {
                    let place = place * chunks.len() / places;
                    let changed = divide(&change.at(&chunks, place), *sizes);
                    let new = changed.iter().filter(|pack| !known.contains(&pack.name));
                    new.map(|pack| pack.stored).sum()
                })
                .collect();
            costs.sort_unstable();
            let mean = costs.iter().sum::<u64>() / costs.len().max(1) as u64;
            let worst = costs.last().copied().unwrap_or_default();
            print!(" {name}={mean} {name}_worst={worst}");
        }
        println!();
    }
    Ok(())
}

impl Change {
    fn at(self, chunks: &[Chunk], place: usize) -> Vec<Chunk> {
        let mut changed = chunks.to_vec();
        let old = changed[place];
        let content = sha256(&old.content.0);
        match self {
            Change::Edited => {
                // One of -15 to 16 bytes, as the digest says.
                let stored = (old.stored + u32::from(content.0[31] & 31)).saturating_sub(15);
                let stored = stored.clamp(1, old.logical);
                changed[place] = Chunk {
                    content,
                    stored,
                    ..old
                };
            }
            Change::Added => changed.insert(place, Chunk { content, ..old }),
        }
        changed
    }
}

/// A pack that there would be.
struct Pack {
    /// What tells it from others: the digest of its chunks' digests.
    name: Digest,
    stored: u64,
}

fn divide(chunks: &[Chunk], sizes: PackSizes) -> Vec<Pack> {
    let mut packs = Vec::new();
    let mut borders = PackBorders::new(sizes);
    let (mut first, mut stored) = (0, 0);
    for (number, chunk) in chunks.iter().enumerate() {
        if !borders.has_room(chunk.stored, chunk.logical) {
            packs.push(pack(&chunks[first..number], stored));
            (borders, first, stored) = (PackBorders::new(sizes), number, 0);
        }
        stored += u64::from(chunk.stored);
        if borders.add(&chunk.content, chunk.stored, chunk.logical) {
            packs.push(pack(&chunks[first..=number], stored));
            (borders, first, stored) = (PackBorders::new(sizes), number + 1, 0);
        }
    }
    if first < chunks.len() {
        packs.push(pack(&chunks[first..], stored));
    }
    packs
}

fn pack(chunks: &[Chunk], stored: u64) -> Pack {
    let names: Vec<[u8; Digest::SIZE]> = chunks.iter().map(|chunk| chunk.content.0).collect();
    Pack {
        name: sha256(&names.concat()),
        stored,
    }
}

/// The chunks of an image, in the order in which they were packed.
fn read_chunks(store: &Path, manifest: &Digest) -> Result<Vec<Chunk>> {
    let store = Arc::new(Store::open(store)?);
    let image = Image::open(store.clone(), manifest)?;
    let mut chunks = Vec::new();
    for record in image.blob_table().packs.iter() {
        let index = store.read_metadata(&record.index_digest, METADATA_MAX)?;
        let index = peerfs_format::PackIndex::parse(&index, &record)?;
        let contents = store.read_metadata(&record.contents_digest, METADATA_MAX)?;
        let contents = record.content_digests(&contents)?;
        chunks.extend(
            index
                .chunks
                .iter()
                .zip(contents.iter())
                .map(|(chunk, content)| Chunk {
                    content,
                    stored: chunk.stored_length,
                    logical: chunk.logical_length,
                }),
        );
    }
    match chunks.is_empty() {
        true => Err(Error::NoChunks),
        false => Ok(chunks),
    }
}
