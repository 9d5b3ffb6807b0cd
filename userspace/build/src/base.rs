// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The chunks of images that a new one is built upon.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use peerfs_format::{Digest, PackIndex, PackRecord, METADATA_MAX};
use peerfs_store::{Error as StoreError, Image, Store};

use crate::Result;

/// The chunks of the base images, and where they are over all packs.
#[derive(Default)]
pub(crate) struct BaseChunks {
    /// By the digest of their content.
    pub(crate) places: HashMap<Digest, u64>,
    /// Where the new chunks begin.
    pub(crate) end: u64,
}

/// Reads the pack indexes of base images. Returns their packs, in order and each once, and the
/// chunks in them.
pub(crate) fn read(store: &Arc<Store>, images: &[Digest]) -> Result<(Vec<PackRecord>, BaseChunks)> {
    let mut packs = Vec::new();
    let mut seen = HashSet::new();
    let mut base = BaseChunks::default();
    for digest in images {
        let image = Image::open(store.clone(), digest)?;
        let table = image.blob_table();
        for number in 0..table.packs.len() as u32 {
            let pack = table
                .pack(number)
                .map_err(StoreError::format(image.manifest().blob_table))?;
            if !seen.insert(pack.digest) {
                continue;
            }
            let index = store.read_metadata(&pack.index_digest, METADATA_MAX)?;
            let index = PackIndex::parse(&index).map_err(StoreError::format(pack.index_digest))?;
            for (chunk, content) in index.content_digests.iter().enumerate() {
                let record = index
                    .chunk(&pack, chunk as u32)
                    .map_err(StoreError::format(pack.index_digest))?;
                base.places
                    .entry(content)
                    .or_insert(base.end + u64::from(record.logical_offset));
            }
            base.end += pack.logical_length;
            packs.push(pack);
        }
    }
    Ok((packs, base))
}
