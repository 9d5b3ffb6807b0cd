// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The chunks that are fetched of an image for some ranges of its files.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use peerfs_format::{pieces, Digest, PackIndex, Source, METADATA_MAX};
use peerfs_store::{Image, Store};

use crate::{Error, Result};

/// Prints the bytes of the chunks that have the ranges, as stored, and of the metadata between them and
/// the manifest: the shards of all inodes on the paths, and the indexes of the packs.
pub(crate) fn print(store: &Path, manifest: &Digest) -> Result<()> {
    let store = Arc::new(Store::open(store)?);
    let image = Image::open(store.clone(), manifest)?;
    let table = image.blob_table();
    let mut shards = HashSet::new();
    let mut indexes = HashMap::new();
    let mut chunks = BTreeMap::new();
    for line in io::stdin().lines() {
        let line = line?;
        let mut words = line.splitn(3, ' ');
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        let (Some(offset), Some(length)) = (number(), number()) else {
            return Err(Error::Range(line));
        };
        let path = words.next().unwrap_or_default();
        let mut parents: Vec<_> = Path::new(path).ancestors().collect();
        parents.reverse();
        for parent in parents {
            let parent = image.lookup(parent.as_os_str().as_encoded_bytes(), false)?;
            shards.extend(table.shard_of(parent.number()));
        }
        let file = image.lookup(path.as_bytes(), false)?;
        let end = offset.saturating_add(length).min(file.record().size);
        for piece in pieces(&file.extents()?, offset..end) {
            let Source::Pack { pack, offset } = piece.source else {
                continue;
            };
            let record = table.pack(pack)?;
            let index = match indexes.entry(pack) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    new.insert(store.read_metadata(&record.index_digest, METADATA_MAX)?)
                }
            };
            let index = PackIndex::parse(index, &record)?;
            for part in index.parts(offset, piece.length) {
                let part = part?;
                chunks.insert((pack, part.number), part.record.stored_length);
            }
        }
    }
    let stored: u64 = chunks.values().map(|length| u64::from(*length)).sum();
    let shard_bytes: u64 = table
        .shards
        .iter()
        .enumerate()
        .filter(|(number, _)| shards.contains(&(*number as u32)))
        .map(|(_, shard)| u64::from(shard.length))
        .sum();
    let index_bytes: usize = indexes.values().map(Vec::len).sum();
    println!(
        "chunks={} chunk_bytes={stored} shards={} shard_bytes={shard_bytes} indexes={} index_bytes={index_bytes}",
        chunks.len(), shards.len(), indexes.len(),
    );
    Ok(())
}
