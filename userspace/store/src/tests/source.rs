// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A pack to fill a store with, and what is checked of it there.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use capnp::message::Builder;
use capnp::serialize::write_message_to_words;
use peerfs_format::{
    peerfs_capnp, ChunkRecord, Digest, InodeRecord, PackRecord, Record, ShardRecord,
    FORMAT_VERSION, NO_XATTRS,
};
use tempfile::TempDir;

use crate::{sha256, Store};

/// A pack as it is somewhere else, and a store to fill.
pub(super) struct Source {
    pub(super) folder: TempDir,
    /// The folder that the store is in.
    pub(super) path: PathBuf,
    pub(super) record: PackRecord,
    pub(super) index: Vec<u8>,
    pub(super) chunks: Vec<Vec<u8>>,
}

/// The index of a pack of these chunks, and its record.
pub(super) fn describe(pack: &[u8], chunks: &[Vec<u8>]) -> (PackRecord, Vec<u8>) {
    let named = chunks
        .iter()
        .map(|chunk| (sha256(chunk), chunk.len() as u32));
    describe_named(sha256(pack), named)
}

/// As [`describe`], by the digests and lengths of the chunks.
pub(super) fn describe_named(
    pack: Digest,
    chunks: impl Iterator<Item = (Digest, u32)>,
) -> (PackRecord, Vec<u8>) {
    let mut table = Vec::new();
    let (mut offset, mut chunk_count) = (0, 0);
    for (digest, length) in chunks {
        chunk_count += 1;
        let record = ChunkRecord {
            digest,
            logical_offset: offset,
            stored_offset: offset,
            logical_length: length,
            stored_length: length,
            codec: 0,
        };
        record.write_to(|part| table.extend_from_slice(part));
        offset += length;
    }
    let mut message = Builder::new_default();
    let mut root = message.init_root::<peerfs_capnp::pack_index::Builder<'_>>();
    root.set_chunks(&table);
    let index = write_message_to_words(&message);
    let record = PackRecord {
        digest: pack,
        index_digest: sha256(&index),
        contents_digest: Digest::default(),
        stored_length: offset.into(),
        logical_length: offset.into(),
        index_length: index.len() as u32,
        chunk_count,
    };
    (record, index)
}

impl Source {
    /// So many chunks of so many bytes, of which none is like another.
    pub(super) fn with(chunk_count: u8, length: usize) -> Self {
        Self::of(
            (0..chunk_count)
                .map(|number| vec![number; length])
                .collect(),
        )
    }

    /// A pack of the same chunks but some.
    pub(super) fn edited(&self, edit: impl Fn(&mut Vec<Vec<u8>>)) -> Self {
        let mut chunks = self.chunks.clone();
        edit(&mut chunks);
        Self::of(chunks).in_folder(&self.path)
    }

    /// Fills the pack from the store and, what that does not have, with chunks, whose numbers are returned.
    pub(super) fn adopt_and_fill(&self, store: &Store) -> Vec<u32> {
        let pack = store.pack(&self.record, self.index.clone()).unwrap();
        let (missing, _) = pack.adopt(0..self.record.chunk_count).unwrap();
        for number in &missing {
            pack.write_chunk(*number, &self.chunks[*number as usize])
                .unwrap();
        }
        assert!(pack.complete().unwrap());
        missing
    }

    /// Checks that all chunks are here.
    pub(super) fn assert_here(&self, store: &Store) {
        let pack = store
            .find_pack(&self.record, self.index.clone())
            .unwrap()
            .unwrap();
        for (number, chunk) in self.chunks.iter().enumerate() {
            let stored = pack.read_chunk(number as u32).unwrap();
            assert_eq!(stored.as_ref(), Some(chunk), "chunk {number}");
        }
    }

    /// The manifest of an image that has the pack, in the store with all metadata but its shard.
    pub(super) fn image(&self, store: &Store) -> Digest {
        store.add_blob(&self.index).unwrap();
        image_of(store, &[self.record])
    }

    pub(super) fn new(chunk_count: u8) -> Self {
        let chunks: Vec<Vec<u8>> = (0..chunk_count)
            .map(|number| vec![number; 5000 + 100 * usize::from(number)])
            .collect();
        Self::of(chunks)
    }

    pub(super) fn of(chunks: Vec<Vec<u8>>) -> Self {
        let (record, index) = describe(&chunks.concat(), &chunks);
        let folder = tempfile::tempdir().unwrap();
        Source {
            path: folder.path().to_owned(),
            folder,
            record,
            index,
            chunks,
        }
    }

    /// The pack as it is in the store of another folder.
    pub(super) fn in_folder(self, path: &Path) -> Self {
        Source {
            path: path.to_owned(),
            ..self
        }
    }

    pub(super) fn store(&self) -> Store {
        Store::create(&self.path.join("store")).unwrap()
    }

    /// A pack that has all chunks and is no blob yet.
    pub(super) fn full(&self, store: &Store) -> Arc<crate::Pack> {
        let pack = store.pack(&self.record, self.index.clone()).unwrap();
        for (number, chunk) in self.chunks.iter().enumerate() {
            pack.write_chunk(number as u32, chunk).unwrap();
        }
        pack
    }

    /// A whole pack.
    pub(super) fn fill(&self, store: &Store) -> Arc<crate::Pack> {
        let pack = self.full(store);
        assert!(pack.complete().unwrap());
        pack
    }

    /// A pack that is whole but for chunks 5 and 6, which are damaged, and of which 5 was fetched anew.
    pub(super) fn fill_and_mend_half(&self, store: &Store) -> Arc<crate::Pack> {
        let pack = self.fill(store);
        self.damage(store, 5);
        self.damage(store, 6);
        pack.discard(5).unwrap();
        pack.write_chunk(5, &self.chunks[5]).unwrap();
        pack
    }

    /// Changes a byte of a chunk of the whole pack, on the disk.
    pub(super) fn damage(&self, store: &Store, chunk: u32) {
        let path = store.blob_path(&self.record.digest);
        let pack = store.find_pack(&self.record, self.index.clone()).unwrap();
        let place = pack.unwrap().chunk(chunk).unwrap().stored_offset;
        let file = File::options().write(true).open(path).unwrap();
        file.write_all_at(b"?", place.into()).unwrap();
    }

    pub(super) fn table(&self) -> std::path::PathBuf {
        self.beside("places")
    }

    pub(super) fn partial(&self) -> std::path::PathBuf {
        self.beside("partial")
    }

    pub(super) fn beside(&self, directory: &str) -> std::path::PathBuf {
        let store = self.path.join("store").join(directory);
        let (pack, index) = (self.record.digest, self.record.index_digest);
        store.join(format!("{pack}-{index}"))
    }
}

/// A record as it is in a table.
fn encode(record: &impl Record) -> Vec<u8> {
    let mut bytes = Vec::new();
    record.write_to(|part| bytes.extend_from_slice(part));
    bytes
}

/// The manifest of an image that has these packs, in the store with all metadata but its shard and the packs' indexes.
pub(super) fn image_of(store: &Store, packs: &[PackRecord]) -> Digest {
    let shard = ShardRecord {
        digest: sha256(b"a shard"),
        first_inode: 1,
        inode_count: 1,
        length: 100,
    };
    let mut message = Builder::new_default();
    let mut table = message.init_root::<peerfs_capnp::blob_table::Builder<'_>>();
    table.set_packs(&packs.iter().flat_map(encode).collect::<Vec<u8>>());
    table.set_shards(&encode(&shard));
    let table = write_message_to_words(&message);
    let root = InodeRecord {
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
    let mut manifest = message.init_root::<peerfs_capnp::manifest::Builder<'_>>();
    manifest.set_format_version(FORMAT_VERSION);
    manifest.set_inode_count(1);
    manifest.set_stored_bytes(packs.iter().map(|pack| pack.stored_length).sum());
    manifest.set_root(&encode(&root));
    manifest.set_blob_table(&store.add_blob(&table).unwrap().0);
    manifest.set_blob_table_length(table.len() as u32);
    store.add_blob(&write_message_to_words(&message)).unwrap()
}
