// SPDX-License-Identifier: GPL-2.0 OR MIT

//! An image as an OCI artifact: an OCI image manifest whose layers are the blobs.

use oci_spec::image::{Descriptor, ImageManifestBuilder, MediaType, SCHEMA_VERSION};
use peerfs_format::{Digest, PackRecord, ShardRecord};

use crate::descriptor::{describe, descriptor};
use crate::error::check_length;
use crate::{media_type, Result};

/// The blobs of an image.
pub struct ImageBlobs<'a> {
    /// The manifest's bytes.
    pub manifest: &'a [u8],
    /// The blob table's digest.
    pub blob_table: Digest,
    /// The blob table's bytes.
    pub blob_table_length: u64,
    /// The inode shards.
    pub shards: &'a [ShardRecord],
    /// The packs, each with its index and contents.
    pub packs: &'a [PackRecord],
}

/// The configuration of an artifact, which is none.
pub(crate) const NO_CONFIG: &[u8] = b"{}";

/// The OCI image manifest of the artifact: the same bytes for the same image, whatever machine makes them.
///
/// # Errors
/// [`crate::Error::TooLarge`] if there are too many blobs.
pub(crate) fn artifact(image: &ImageBlobs<'_>) -> Result<Vec<u8>> {
    let manifest = ImageManifestBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageManifest)
        .artifact_type(media_type::IMAGE)
        .config(describe(MediaType::EmptyJSON, NO_CONFIG))
        .layers(layers(image))
        .build()
        .expect("all mandatory fields are set");
    check_length(
        "the OCI image manifest",
        "blobs",
        serde_json::to_vec(&manifest)?,
    )
}

/// The manifest first, then the rest of the metadata, then the data; each blob once.
fn layers(image: &ImageBlobs<'_>) -> Vec<Descriptor> {
    let layer = |media_type: &str, digest: &Digest, length: u64| {
        descriptor(MediaType::from(media_type), digest, length)
    };
    let mut layers = vec![
        describe(MediaType::from(media_type::MANIFEST), image.manifest),
        layer(
            media_type::BLOB_TABLE,
            &image.blob_table,
            image.blob_table_length,
        ),
    ];
    let shards = image.shards.iter();
    layers.extend(
        shards.map(|shard| layer(media_type::INODE_SHARD, &shard.digest, shard.length.into())),
    );
    let packs = || image.packs.iter();
    layers.extend(packs().map(|pack| {
        layer(
            media_type::PACK_INDEX,
            &pack.index_digest,
            pack.index_length.into(),
        )
    }));
    layers.extend(packs().map(|pack| {
        layer(
            media_type::PACK_CONTENTS,
            &pack.contents_digest,
            pack.contents_length(),
        )
    }));
    layers.extend(packs().map(|pack| layer(media_type::PACK, &pack.digest, pack.stored_length)));
    layers
}
