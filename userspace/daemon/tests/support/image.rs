// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A small image of which each byte is known.

use std::path::Path;

use capnp::message::Builder;
use capnp::serialize::write_message_to_words;
use peerfs_format::{
    peerfs_capnp, ChunkRecord, Digest, PackRecord, Record, ShardRecord, FORMAT_VERSION,
};
use peerfs_store::{sha256, write_image, ImageBlobs, Store};

/// Stored bytes of each chunk.
const CHUNK_LENGTH: u32 = 20_000;

/// An image of one pack.
pub struct TestImage {
    pub manifest: Digest,
    pub shard: Digest,
    pub pack: PackRecord,
    pub chunks: Vec<Vec<u8>>,
}

impl TestImage {
    /// Puts the image into the store in `root_dir`; the same one for the same number of chunks.
    pub fn build(root_dir: &Path, chunk_count: u32) -> Self {
        let store = Store::create(root_dir).unwrap();
        let chunks: Vec<Vec<u8>> = (0..chunk_count).map(chunk_bytes).collect();
        let index = store.add_blob(&index_blob(&chunks)).unwrap();
        let index_length = index_blob(&chunks).len() as u32;
        let content = chunks.concat();
        let pack = PackRecord {
            digest: store.add_blob(&content).unwrap(),
            index_digest: index,
            stored_length: content.len() as u64,
            logical_length: content.len() as u64,
            index_length,
            chunk_count,
        };
        let shard_bytes = b"peers do not read shards";
        let shard = ShardRecord {
            digest: store.add_blob(shard_bytes).unwrap(),
            first_inode: 1,
            inode_count: 1,
            length: shard_bytes.len() as u32,
        };
        let manifest_bytes = manifest_blob(&pack, &shard);
        let manifest = store.add_blob(&manifest_bytes).unwrap();
        let blobs = ImageBlobs {
            manifest,
            manifest_length: manifest_bytes.len() as u64,
            shards: &[shard],
            packs: &[pack],
        };
        write_image(&store, &blobs, "test").unwrap();
        TestImage {
            manifest,
            shard: shard.digest,
            pack,
            chunks,
        }
    }

    /// Where a chunk is in the pack.
    pub fn offset(&self, chunk: u32) -> u64 {
        u64::from(chunk) * u64::from(CHUNK_LENGTH)
    }
}

/// Bytes that differ from chunk to chunk.
fn chunk_bytes(chunk: u32) -> Vec<u8> {
    (0..CHUNK_LENGTH)
        .map(|place| (place.wrapping_mul(chunk + 7) >> 3) as u8 ^ chunk as u8)
        .collect()
}

fn index_blob(chunks: &[Vec<u8>]) -> Vec<u8> {
    let (mut records, mut content_digests) = (Vec::new(), Vec::new());
    for (number, bytes) in chunks.iter().enumerate() {
        let digest = sha256(bytes);
        let offset = number as u32 * CHUNK_LENGTH;
        let record = ChunkRecord {
            digest,
            logical_offset: offset,
            stored_offset: offset,
            logical_length: CHUNK_LENGTH,
            stored_length: CHUNK_LENGTH,
            codec: 0,
        };
        record.write_to(|bytes| records.extend_from_slice(bytes));
        content_digests.extend_from_slice(&digest.0);
    }
    let mut message = Builder::new_default();
    let mut root = message.init_root::<peerfs_capnp::pack_index::Builder<'_>>();
    root.set_chunks(&records);
    root.set_content_digests(&content_digests);
    write_message_to_words(&message)
}

fn manifest_blob(pack: &PackRecord, shard: &ShardRecord) -> Vec<u8> {
    let (mut packs, mut shards) = (Vec::new(), Vec::new());
    pack.write_to(|bytes| packs.extend_from_slice(bytes));
    shard.write_to(|bytes| shards.extend_from_slice(bytes));
    let mut message = Builder::new_default();
    let mut root = message.init_root::<peerfs_capnp::manifest::Builder<'_>>();
    root.set_format_version(FORMAT_VERSION);
    root.set_inode_count(1);
    root.set_stored_bytes(pack.stored_length);
    root.set_packs(&packs);
    root.set_shards(&shards);
    write_message_to_words(&message)
}
