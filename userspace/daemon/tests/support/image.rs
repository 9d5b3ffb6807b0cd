// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A small image of which each byte is known.

use std::path::Path;

use capnp::message::Builder;
use capnp::serialize::write_message_to_words;
use peerfs_format::{
    peerfs_capnp, ChunkRecord, Digest, InodeRecord, PackRecord, Record, ShardRecord,
    FORMAT_VERSION, NO_XATTRS,
};
use peerfs_store::{sha256, write_image, Architecture, ImageBlobs, RuntimeConfig, Store};

/// Stored bytes of each chunk.
const CHUNK_LENGTH: u32 = 20_000;

/// An image of one pack.
pub struct TestImage {
    pub manifest: Digest,
    pub blob_table: Digest,
    pub shard: Digest,
    pub pack: PackRecord,
    pub chunks: Vec<Vec<u8>>,
}

impl TestImage {
    /// Puts the image into the store in `root_dir`; the same one for the same number of chunks.
    pub fn build(root_dir: &Path, chunk_count: u32) -> Self {
        Self::build_edited(root_dir, chunk_count, &[])
    }

    /// As [`TestImage::build`], with other bytes in some of the chunks.
    pub fn build_edited(root_dir: &Path, chunk_count: u32, edited: &[u32]) -> Self {
        let store = Store::create(root_dir).unwrap();
        let number = |chunk| {
            if edited.contains(&chunk) {
                chunk + 5000
            } else {
                chunk
            }
        };
        let chunks: Vec<Vec<u8>> = (0..chunk_count)
            .map(|chunk| chunk_bytes(number(chunk)))
            .collect();
        let index = store.add_blob(&index_blob(&chunks)).unwrap();
        let index_length = index_blob(&chunks).len() as u32;
        let content = chunks.concat();
        let pack = PackRecord {
            digest: store.add_blob(&content).unwrap(),
            index_digest: index,
            contents_digest: store.add_blob(&contents_blob(&chunks)).unwrap(),
            stored_length: content.len() as u64,
            logical_length: content.len() as u64,
            index_length,
            chunk_count,
        };
        let shard = put_shard(&store, b"peers do not read shards");
        let table_bytes = blob_table_blob(&pack, &shard);
        let blob_table = store.add_blob(&table_bytes).unwrap();
        let manifest_bytes = manifest_blob(&pack, &blob_table, table_bytes.len() as u32);
        let manifest = store.add_blob(&manifest_bytes).unwrap();
        let blobs = ImageBlobs {
            manifest: &manifest_bytes,
            blob_table,
            blob_table_length: table_bytes.len() as u64,
            shards: &[shard],
            packs: &[pack],
        };
        write_image(
            &store,
            &blobs,
            &Architecture::unknown(),
            &RuntimeConfig::default(),
            &"test".parse().unwrap(),
        )
        .unwrap();
        TestImage {
            manifest,
            blob_table,
            shard: shard.digest,
            pack,
            chunks,
        }
    }

    /// The image's pack, with an index that says that it has other chunks; and puts that into the store in
    /// `root_dir`.
    pub fn pack_by_a_lie(&self, root_dir: &Path) -> PackRecord {
        let blob = index_blob(&[vec![1; 100], vec![2; 100], vec![3; 100]]);
        let store = Store::open(root_dir).unwrap();
        PackRecord {
            index_digest: store.add_blob(&blob).unwrap(),
            stored_length: 3 * u64::from(CHUNK_LENGTH),
            logical_length: 3 * u64::from(CHUNK_LENGTH),
            index_length: blob.len() as u32,
            chunk_count: 3,
            ..self.pack
        }
    }

    /// Another image that has the pack too, and an index that says that it has these three chunks; puts what the
    /// image consists of into the store in `root_dir`, and nothing of the pack.
    pub fn image_by_a_lie(&self, root_dir: &Path) -> (Digest, PackRecord, Vec<Vec<u8>>) {
        let chunks: Vec<Vec<u8>> = (1000..1003).map(chunk_bytes).collect();
        let blob = index_blob(&chunks);
        let store = Store::create(root_dir).unwrap();
        let length = 3 * u64::from(CHUNK_LENGTH);
        let pack = PackRecord {
            index_digest: store.add_blob(&blob).unwrap(),
            stored_length: length,
            logical_length: length,
            index_length: blob.len() as u32,
            chunk_count: 3,
            ..self.pack
        };
        let shard = put_shard(&store, b"another shard");
        let table = blob_table_blob(&pack, &shard);
        let table_digest = store.add_blob(&table).unwrap();
        let manifest = manifest_blob(&pack, &table_digest, table.len() as u32);
        (store.add_blob(&manifest).unwrap(), pack, chunks)
    }

    /// Where a chunk is in the pack.
    pub fn offset(&self, chunk: u32) -> u64 {
        u64::from(chunk) * u64::from(CHUNK_LENGTH)
    }
}

/// Stores what stands for a shard of one inode.
fn put_shard(store: &Store, bytes: &[u8]) -> ShardRecord {
    ShardRecord {
        digest: store.add_blob(bytes).unwrap(),
        first_inode: 1,
        inode_count: 1,
        length: bytes.len() as u32,
    }
}

/// Bytes that differ from chunk to chunk.
fn chunk_bytes(chunk: u32) -> Vec<u8> {
    (0..CHUNK_LENGTH)
        .map(|place| (place.wrapping_mul(chunk + 7) >> 3) as u8 ^ chunk as u8)
        .collect()
}

fn index_blob(chunks: &[Vec<u8>]) -> Vec<u8> {
    let mut records = Vec::new();
    for (number, bytes) in chunks.iter().enumerate() {
        let offset = number as u32 * CHUNK_LENGTH;
        let record = ChunkRecord {
            digest: sha256(bytes),
            logical_offset: offset,
            stored_offset: offset,
            logical_length: CHUNK_LENGTH,
            stored_length: CHUNK_LENGTH,
            codec: 0,
        };
        records.extend(record_bytes(&record));
    }
    let mut message = Builder::new_default();
    let mut root = message.init_root::<peerfs_capnp::pack_index::Builder<'_>>();
    root.set_chunks(&records);
    write_message_to_words(&message)
}

fn contents_blob(chunks: &[Vec<u8>]) -> Vec<u8> {
    let digests = chunks.iter().map(|bytes| sha256(bytes).0);
    digests.collect::<Vec<_>>().concat()
}

fn blob_table_blob(pack: &PackRecord, shard: &ShardRecord) -> Vec<u8> {
    let mut message = Builder::new_default();
    let mut root = message.init_root::<peerfs_capnp::blob_table::Builder<'_>>();
    root.set_packs(&record_bytes(pack));
    root.set_shards(&record_bytes(shard));
    write_message_to_words(&message)
}

fn manifest_blob(pack: &PackRecord, blob_table: &Digest, blob_table_length: u32) -> Vec<u8> {
    let root_directory = InodeRecord {
        mode: 0o040755,
        uid: 0,
        gid: 0,
        nlink: 2,
        size: 0,
        allocated: 0,
        mtime_seconds: 0,
        mtime_nanoseconds: 0,
        payload_first: 0,
        payload_count: 0,
        xattrs: NO_XATTRS,
        link: 1,
    };
    let mut message = Builder::new_default();
    let mut root = message.init_root::<peerfs_capnp::manifest::Builder<'_>>();
    root.set_format_version(FORMAT_VERSION);
    root.set_inode_count(1);
    root.set_stored_bytes(pack.stored_length);
    root.set_root(&record_bytes(&root_directory));
    root.set_blob_table(&blob_table.0);
    root.set_blob_table_length(blob_table_length);
    write_message_to_words(&message)
}

fn record_bytes(record: &impl Record) -> Vec<u8> {
    let mut bytes = Vec::new();
    record.write_to(|part| bytes.extend_from_slice(part));
    bytes
}
