// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Metadata blobs: the manifest, and the blob table that it leads to.

use capnp::message::{Builder, HeapAllocator};
use capnp::serialize::write_message_to_words;
use capnp::traits::Owned;
use peerfs_format::{
    peerfs_capnp, Digest, KeyId, Manifest, PackRecord, Record, Root, ShardRecord, FORMAT_VERSION,
};

/// The manifest's bytes.
pub(crate) fn encode_manifest(manifest: &Manifest) -> Vec<u8> {
    let (root_record, key_id) = match &manifest.root {
        Root::Plain(record) => (table(&[*record]), None),
        Root::Encrypted(root) => (root.record.to_vec(), Some(root.key_id)),
    };
    let mut blob = MetadataBlob::new(root_record.len() + Digest::SIZE + KeyId::SIZE);
    let mut root = blob.root::<peerfs_capnp::manifest::Owned>();
    root.set_format_version(FORMAT_VERSION);
    root.set_incompatible_features(manifest.features);
    root.set_inode_count(manifest.inode_count);
    root.set_content_bytes(manifest.content_bytes);
    root.set_stored_bytes(manifest.stored_bytes);
    root.set_root(&root_record);
    root.set_blob_table(&manifest.blob_table.0);
    root.set_blob_table_length(manifest.blob_table_length);
    if let Some(key_id) = &key_id {
        root.set_key_id(&key_id.0);
    }
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

/// The bytes of some records.
pub(crate) fn table<R: Record>(records: &[R]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(records.len() * R::SIZE);
    for record in records {
        record.write_to(|part| bytes.extend_from_slice(part));
    }
    bytes
}

/// Room for the root struct and the words that fields are rounded up to.
const OVERHEAD_WORDS: usize = 64;

/// A metadata blob being written: one segment, so that the same content is the same bytes.
pub(crate) struct MetadataBlob {
    message: Builder<HeapAllocator>,
}

impl MetadataBlob {
    /// A blob with so many bytes of fields.
    pub(crate) fn new(field_bytes: usize) -> Self {
        let words = field_bytes / 8 + OVERHEAD_WORDS;
        // More than 2^32 words do not come about: fields of one blob are far smaller.
        let words = u32::try_from(words).unwrap_or(u32::MAX);
        MetadataBlob {
            message: Builder::new(HeapAllocator::new().first_segment_words(words)),
        }
    }

    /// The root struct.
    pub(crate) fn root<T: Owned>(&mut self) -> T::Builder<'_> {
        self.message.init_root()
    }

    /// The blob.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        write_message_to_words(&self.message)
    }
}
