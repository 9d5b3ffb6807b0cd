// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What somebody who has one image lacks of another one.

use std::collections::HashSet;

use peerfs_format::{Digest, PackIndexLayout};

use crate::{ChunkReader, Error, Image, Result};

/// What somebody who has one image lacks of another one, whoever they get it from.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Transfer {
    /// Chunks.
    pub chunks: u64,
    /// Their stored bytes.
    pub chunk_bytes: u64,
    /// Bytes of metadata: the manifest, the blob table, inode shards and pack indexes.
    pub metadata_bytes: u64,
}

/// What of the second image is not in the first one. Holds the digests of all chunks of both: some 50 MB for a million of
/// them.
///
/// # Errors
/// Those of reading metadata, which must be here.
pub fn transfer<A: ChunkReader, B: ChunkReader>(
    first: &Image<A>,
    second: &Image<B>,
) -> Result<Transfer> {
    let mut known = HashSet::new();
    visit(first, |digest, _, _| {
        known.insert(digest);
    })?;
    let mut lacking = Transfer::default();
    visit(second, |digest, bytes, is_chunk| {
        if !known.insert(digest) {
            return;
        }
        if is_chunk {
            lacking.chunks += 1;
            lacking.chunk_bytes += bytes;
        } else {
            lacking.metadata_bytes += bytes;
        }
    })?;
    Ok(lacking)
}

/// Calls `each` with the digests of all metadata blobs and chunks of an image, their bytes, and whether they are chunks.
fn visit<R: ChunkReader>(image: &Image<R>, mut each: impl FnMut(Digest, u64, bool)) -> Result<()> {
    let manifest = image.manifest();
    each(*image.digest(), image.manifest_length(), false);
    each(
        manifest.blob_table,
        manifest.blob_table_length.into(),
        false,
    );
    let table = image.blob_table();
    for shard in table.shards.iter() {
        each(shard.digest, shard.length.into(), false);
    }
    // At most as many as numbers of 32 bits.
    for number in 0..table.packs.len() as u32 {
        let (record, index) = image.pack_index(number)?;
        each(record.index_digest, record.index_length.into(), false);
        let failed = || Error::format(record.index_digest);
        let layout = PackIndexLayout::parse(&index, &record).map_err(failed())?;
        let view = layout.view(&index);
        for chunk in 0..record.chunk_count {
            let chunk = view.chunk(chunk).map_err(failed())?;
            each(chunk.digest, chunk.stored_length.into(), true);
        }
    }
    Ok(())
}
