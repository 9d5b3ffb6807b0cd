// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Writing the manifest, and the blob table that it leads to.

use peerfs_format::{
    peerfs_capnp, Digest, Manifest, PackRecord, Record, ShardRecord, FORMAT_VERSION,
};

use crate::metadata_blob::MetadataBlob;

/// The manifest's bytes.
pub(crate) fn encode(manifest: &Manifest) -> Vec<u8> {
    let root_record = table(&[manifest.root]);
    let mut blob = MetadataBlob::new(root_record.len() + Digest::SIZE);
    let mut root = blob.root::<peerfs_capnp::manifest::Owned>();
    root.set_format_version(FORMAT_VERSION);
    root.set_inode_count(manifest.inode_count);
    root.set_content_bytes(manifest.content_bytes);
    root.set_stored_bytes(manifest.stored_bytes);
    root.set_root(&root_record);
    root.set_blob_table(&manifest.blob_table.0);
    root.set_blob_table_length(manifest.blob_table_length);
    blob.into_bytes()
}

/// The blob table's bytes.
pub(crate) fn encode_blob_table(packs: &[PackRecord], shards: &[ShardRecord]) -> Vec<u8> {
    let packs = table(packs);
    let shards = table(shards);
    let mut blob = MetadataBlob::new(packs.len() + shards.len());
    let mut root = blob.root::<peerfs_capnp::blob_table::Owned>();
    root.set_packs(&packs);
    root.set_shards(&shards);
    blob.into_bytes()
}

fn table<R: Record>(records: &[R]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(records.len() * R::SIZE);
    for record in records {
        record.write_to(|part| bytes.extend_from_slice(part));
    }
    bytes
}
