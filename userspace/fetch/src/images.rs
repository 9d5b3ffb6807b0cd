// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the store knows of an image, as far as it is there.

use peerfs_format::{BlobTable, Digest, Manifest, PackRecord};
use peerfs_store::{Error, Reference, Result, Store};

use crate::disk::{Disk, DiskError};

/// Why it is not known which image a reference stands for.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The store does not have the tag.
    #[error(
        "{0}; a tag is a name in this store: an image that is to be fetched is named by its digest"
    )]
    Tag(DiskError),
    /// Something else.
    #[error(transparent)]
    Other(DiskError),
}

/// The manifest of the image that a user means, which need not be in the store if it is named by its digest.
///
/// # Errors
/// [`ResolveError::Tag`] for a tag that the store does not have, and those of [`Store::resolve`].
pub async fn resolve(disk: &Disk, image: Reference) -> std::result::Result<Digest, ResolveError> {
    let resolved = disk.run(move |store| store.resolve(&image)).await;
    resolved.map_err(|error| match error {
        DiskError::Store(Error::UnknownImage { .. }) => ResolveError::Tag(error),
        error => ResolveError::Other(error),
    })
}

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
