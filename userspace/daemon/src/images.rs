// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the store knows of an image, as far as it is there.

use peerfs_format::{BlobTable, Digest, Manifest, PackRecord, METADATA_MAX};
use peerfs_store::{Error, Result, Store};

/// An image's manifest; none if it is not there, damaged, or no manifest.
///
/// # Errors
/// If the store can't be read.
pub fn manifest(store: &Store, digest: &Digest) -> Result<Option<Manifest>> {
    let blob = if_whole(store.read_metadata(digest, METADATA_MAX))?;
    Ok(blob.and_then(|blob| Manifest::parse(&blob).ok()))
}

/// The packs of an image; none if its blob table is not there, damaged, or no blob table.
///
/// # Errors
/// If the store can't be read.
pub fn packs(store: &Store, manifest: &Manifest) -> Result<Option<Vec<PackRecord>>> {
    let length = u64::from(manifest.blob_table_length);
    let blob = if_whole(store.read_metadata(&manifest.blob_table, length))?;
    Ok(blob.and_then(|blob| Some(BlobTable::parse(&blob).ok()?.packs.iter().collect())))
}

fn if_whole(blob: Result<Vec<u8>>) -> Result<Option<Vec<u8>>> {
    match blob {
        Err(Error::BlobMissing(_) | Error::BlobDamaged(_) | Error::BlobTooLarge { .. }) => Ok(None),
        read => read.map(Some),
    }
}
