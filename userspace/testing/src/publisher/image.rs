// SPDX-License-Identifier: GPL-2.0 OR MIT

//! An image in memory, open to every change, and what it takes to publish it again: digests that fit.

use std::fs;
use std::path::Path;

use capnp::message::{Builder, HeapAllocator};
use capnp::serialize::write_message_to_words;
use capnp::traits::Owned;
use peerfs_format::{
    peerfs_capnp, BlobTable, ChunkRecord, Digest, Error as FormatError, Manifest, PackIndex,
    PackRecord, Record, Root, ShardLayout, ShardRecord, Table, FORMAT_VERSION,
};
use sha2::Sha256;

use super::blob::{BlobDamage, BlobName};
use super::table::TableDamage;
use crate::{Error, Result};

/// The tables of a shard, in the order of the schema's fields.
pub(super) const SHARD_TABLES: usize = 7;

/// An image in memory. The records hold whatever was found or put there; [`Image::publish`] makes the
/// digests and lengths of metadata fit.
#[derive(Clone)]
pub(super) struct Image {
    pub(super) totals: [u64; 3],
    /// The record of the root directory in the manifest.
    pub(super) root: Vec<u8>,
    pub(super) packs: Vec<Pack>,
    pub(super) shards: Vec<ShardImage>,
    /// The changes to the bytes of blobs once they are encoded.
    pub(super) blob_damages: Vec<(BlobName, BlobDamage)>,
    /// The changes to the blob table's tables when their digests fit.
    pub(super) pack_table: Vec<TableDamage>,
    pub(super) shard_table: Vec<TableDamage>,
}

#[derive(Clone)]
pub(super) struct Pack {
    pub(super) record: PackRecord,
    pub(super) chunks: Vec<u8>,
    pub(super) bytes: Vec<u8>,
    /// Whether the bytes or the places of chunks have changed, so that digests have to be computed.
    pub(super) is_changed: bool,
}

#[derive(Clone)]
pub(super) struct ShardImage {
    pub(super) record: ShardRecord,
    pub(super) first_inode: u64,
    /// Inodes, extents, spans, entries, xattr sets, xattrs, content digests.
    pub(super) tables: [Vec<u8>; SHARD_TABLES],
    pub(super) heap: Vec<u8>,
}

/// Blobs under their digests, the manifest's last.
pub(super) struct Published {
    pub(super) blobs: Vec<(Digest, Vec<u8>)>,
    pub(super) manifest: Digest,
}

pub(super) fn sha256(bytes: &[u8]) -> Digest {
    Digest(<Sha256 as sha2::Digest>::digest(bytes).into())
}

pub(super) fn encode<R: Record>(records: impl IntoIterator<Item = R>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for record in records {
        record.write_to(|part| bytes.extend_from_slice(part));
    }
    bytes
}

/// The whole records of a table.
pub(super) fn decode<R: Record>(bytes: &[u8]) -> Vec<R> {
    let whole = bytes.len() - bytes.len() % R::SIZE;
    Table::new(&bytes[..whole], "table").map_or(Vec::new(), |table| table.iter().collect())
}

impl Image {
    /// Reads an image from a complete store.
    pub(super) fn read(store: &Path, manifest: &Digest) -> Result<Self> {
        let read = |digest: &Digest| {
            let path = store.join("blobs/sha256").join(digest.to_string());
            fs::read(&path).map_err(Error::io("read", &path))
        };
        let malformed = || Error::format(store);
        let bytes = read(manifest)?;
        let parsed = Manifest::parse(&bytes).map_err(malformed())?;
        let Root::Plain(root) = parsed.root else {
            return Err(malformed()(FormatError::Malformed("plain image")));
        };
        let table = read(&parsed.blob_table)?;
        let table = BlobTable::parse(&table, parsed.inode_count).map_err(malformed())?;
        let mut packs = Vec::new();
        for record in table.packs.iter() {
            let index = read(&record.index_digest)?;
            let index = PackIndex::parse(&index, &record).map_err(malformed())?;
            packs.push(Pack {
                record,
                chunks: encode(index.chunks.iter()),
                bytes: read(&record.digest)?,
                is_changed: false,
            });
        }
        let mut shards = Vec::new();
        for record in table.shards.iter() {
            shards.push(ShardImage::read(record, &read(&record.digest)?).map_err(Error::from)?);
        }
        Ok(Image {
            totals: [
                parsed.inode_count,
                parsed.content_bytes,
                parsed.stored_bytes,
            ],
            root: encode([root]),
            packs,
            shards,
            blob_damages: Vec::new(),
            pack_table: Vec::new(),
            shard_table: Vec::new(),
        })
    }

    /// The same image in another form that the format allows: its entries in a shard of their own, and
    /// its packs twice.
    pub(super) fn spread(mut self) -> Self {
        let mut entries = Vec::new();
        let first = self.shards.len();
        for (number, shard) in self.shards.iter_mut().enumerate() {
            entries.push(ShardImage {
                record: ShardRecord {
                    inode_count: 0,
                    ..shard.record
                },
                first_inode: 0,
                tables: std::array::from_fn(|table| match table {
                    3 => std::mem::take(&mut shard.tables[3]),
                    _ => Vec::new(),
                }),
                heap: shard.heap.clone(),
            });
            let mut spans: Vec<peerfs_format::SpanRecord> = decode(&shard.tables[2]);
            for span in &mut spans {
                // As far behind the inodes' shards as the shard was behind the first.
                span.shard += first as u32;
            }
            shard.tables[2] = encode(spans);
            debug_assert!(number < first);
        }
        let end = self.shards.last().map_or(1, |shard| {
            shard.record.first_inode + u64::from(shard.record.inode_count)
        });
        for shard in &mut entries {
            shard.record.first_inode = end;
            shard.first_inode = end;
        }
        self.shards.extend(entries);
        self.packs.extend(self.packs.clone());
        self
    }

    /// Encodes everything.
    pub(super) fn publish(&self) -> Published {
        let mut blobs = Vec::new();
        let mut add = |name: BlobName, mut bytes: Vec<u8>| {
            for (damaged, damage) in &self.blob_damages {
                if *damaged == name {
                    damage.apply(&mut bytes);
                }
            }
            let digest = sha256(&bytes);
            let length = bytes.len() as u32;
            blobs.push((digest, bytes));
            (digest, length)
        };
        let mut packs = Vec::new();
        for (number, pack) in self.packs.iter().enumerate() {
            let mut record = pack.record;
            let chunks = pack.chunks_with_digests();
            if pack.is_changed {
                (record.digest, _) = add(BlobName::Pack(number), pack.bytes.clone());
            }
            let index = message::<peerfs_capnp::pack_index::Owned>(|mut root| {
                root.set_chunks(&chunks);
            });
            (record.index_digest, record.index_length) = add(BlobName::Index(number), index);
            packs.push(record);
        }
        let mut shards = Vec::new();
        for (number, shard) in self.shards.iter().enumerate() {
            let mut record = shard.record;
            (record.digest, record.length) = add(BlobName::Shard(number), shard.encode());
            shards.push(record);
        }
        let mut packs = encode(packs);
        let mut shards = encode(shards);
        for damage in &self.pack_table {
            damage.apply(&mut packs);
        }
        for damage in &self.shard_table {
            damage.apply(&mut shards);
        }
        let table = message::<peerfs_capnp::blob_table::Owned>(|mut root| {
            root.set_packs(&packs);
            root.set_shards(&shards);
        });
        let (table, table_length) = add(BlobName::BlobTable, table);
        let manifest = message::<peerfs_capnp::manifest::Owned>(|mut root| {
            root.set_format_version(FORMAT_VERSION);
            root.set_inode_count(self.totals[0]);
            root.set_content_bytes(self.totals[1]);
            root.set_stored_bytes(self.totals[2]);
            root.set_root(&self.root);
            root.set_blob_table(&table.0);
            root.set_blob_table_length(table_length);
        });
        let (manifest, _) = add(BlobName::Manifest, manifest);
        Published { blobs, manifest }
    }
}

impl Pack {
    /// The chunk table, with the digests of what the pack has at the chunks' places.
    fn chunks_with_digests(&self) -> Vec<u8> {
        if !self.is_changed {
            return self.chunks.clone();
        }
        let torn = self.chunks.len() - self.chunks.len() % ChunkRecord::SIZE;
        let mut records: Vec<ChunkRecord> = decode(&self.chunks);
        for record in &mut records {
            let start = record.stored_offset as usize;
            let stored = start
                .checked_add(record.stored_length as usize)
                .and_then(|end| self.bytes.get(start..end));
            if let Some(stored) = stored {
                record.digest = sha256(stored);
            }
        }
        let mut bytes = encode(records);
        bytes.extend_from_slice(&self.chunks[torn..]);
        bytes
    }
}

impl Pack {
    /// Takes over other chunks, each with its stored bytes, which then follow each other without gaps.
    pub(super) fn set_chunks(&mut self, chunks: Vec<(ChunkRecord, Vec<u8>)>) {
        self.bytes.clear();
        let mut records = Vec::new();
        for (mut record, stored) in chunks {
            record.stored_offset = self.bytes.len() as u32;
            record.stored_length = stored.len() as u32;
            self.bytes.extend(stored);
            records.push(record);
        }
        self.record.stored_length = self.bytes.len() as u64;
        self.record.chunk_count = records.len() as u32;
        self.chunks = encode(records);
        self.is_changed = true;
    }

    /// The chunks with their stored bytes; `None` if one's are not in the pack.
    pub(super) fn stored_chunks(&self) -> Option<Vec<(ChunkRecord, Vec<u8>)>> {
        let stored = |record: ChunkRecord| {
            let start = record.stored_offset as usize;
            let end = start.checked_add(record.stored_length as usize)?;
            Some((record, self.bytes.get(start..end)?.to_vec()))
        };
        decode(&self.chunks).into_iter().map(stored).collect()
    }
}

impl ShardImage {
    /// A shard of nothing.
    pub(super) fn empty() -> Self {
        ShardImage {
            record: ShardRecord {
                digest: Digest::default(),
                first_inode: 0,
                inode_count: 0,
                length: 0,
            },
            first_inode: 0,
            tables: Default::default(),
            heap: Vec::new(),
        }
    }

    fn read(record: ShardRecord, bytes: &[u8]) -> Result<Self, capnp::Error> {
        // Bounds and meaning are the readers' business; here every field is just bytes.
        if let Err(error) = ShardLayout::parse(bytes, &record) {
            return Err(capnp::Error::failed(error.to_string()));
        }
        let message = capnp::serialize::read_message(bytes, capnp::message::ReaderOptions::new())?;
        let root: peerfs_capnp::inode_shard::Reader<'_> = message.get_root()?;
        Ok(ShardImage {
            record,
            first_inode: root.get_first_inode(),
            tables: [
                root.get_inodes()?.to_vec(),
                root.get_extents()?.to_vec(),
                root.get_spans()?.to_vec(),
                root.get_entries()?.to_vec(),
                root.get_xattr_sets()?.to_vec(),
                root.get_xattrs()?.to_vec(),
                root.get_digests()?.to_vec(),
            ],
            heap: root.get_heap()?.to_vec(),
        })
    }

    fn encode(&self) -> Vec<u8> {
        let [inodes, extents, spans, entries, xattr_sets, xattrs, digests] = &self.tables;
        message::<peerfs_capnp::inode_shard::Owned>(|mut root| {
            root.set_first_inode(self.first_inode);
            root.set_inodes(inodes);
            root.set_extents(extents);
            root.set_spans(spans);
            root.set_entries(entries);
            root.set_xattr_sets(xattr_sets);
            root.set_xattrs(xattrs);
            root.set_digests(digests);
            root.set_heap(&self.heap);
        })
    }

    /// Appends bytes to the heap: where they are.
    pub(super) fn add_to_heap(&mut self, bytes: &[u8]) -> u32 {
        let offset = self.heap.len() as u32;
        self.heap.extend_from_slice(bytes);
        offset
    }
}

/// A message of one segment, as builders write it.
fn message<T: Owned>(fill: impl for<'a> FnOnce(T::Builder<'a>)) -> Vec<u8> {
    let mut message = Builder::new(HeapAllocator::new().first_segment_words(64 * 1024));
    fill(message.init_root());
    write_message_to_words(&message)
}
