// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Writing the manifest.

use peerfs_format::{peerfs_capnp, PackRecord, Record, ShardRecord, FORMAT_VERSION};

use crate::metadata_blob::MetadataBlob;

/// What the manifest says besides the lists.
pub(crate) struct Totals {
    /// Inodes.
    pub(crate) inode_count: u64,
    /// Bytes that regular files hold, holes not counted.
    pub(crate) content_bytes: u64,
    /// Bytes of all packs as stored.
    pub(crate) stored_bytes: u64,
}

/// The manifest's bytes.
pub(crate) fn encode(totals: &Totals, packs: &[PackRecord], shards: &[ShardRecord]) -> Vec<u8> {
    let packs = table(packs);
    let shards = table(shards);
    let mut blob = MetadataBlob::new(packs.len() + shards.len());
    let mut root = blob.root::<peerfs_capnp::manifest::Owned>();
    root.set_format_version(FORMAT_VERSION);
    root.set_inode_count(totals.inode_count);
    root.set_content_bytes(totals.content_bytes);
    root.set_stored_bytes(totals.stored_bytes);
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
