// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the store knows of an image, as far as it is there.

use peerfs_format::{BlobTable, Digest, Manifest, PackRecord};
use peerfs_store::{Error, Result, Store};

/// An image's manifest; none if it is not there, damaged, or no manifest.
///
/// # Errors
/// If the store can't be read.
pub fn manifest(store: &Store, digest: &Digest) -> Result<Option<Manifest>> {
    if_usable(store.read_manifest(digest))
}

/// The packs of an image; none if its blob table is not there, damaged, or no blob table.
///
/// # Errors
/// If the store can't be read.
pub fn packs(store: &Store, manifest: &Manifest) -> Result<Option<Vec<PackRecord>>> {
    let length = u64::from(manifest.blob_table_length);
    let blob = if_usable(store.read_metadata(&manifest.blob_table, length))?;
    Ok(blob.and_then(|blob| {
        Some(
            BlobTable::parse(&blob, manifest.inode_count)
                .ok()?
                .packs
                .iter()
                .collect(),
        )
    }))
}

fn if_usable<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Err(
            Error::BlobMissing(_)
            | Error::BlobDamaged(_)
            | Error::BlobTooLarge { .. }
            | Error::NotARegularFile(_)
            | Error::Format { .. },
        ) => Ok(None),
        read => read.map(Some),
    }
}
