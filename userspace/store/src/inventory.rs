// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The blobs of an image that are in the store.

use std::collections::HashSet;

use peerfs_format::{BlobTable, BlobTableLayout, Digest, Manifest, PackRecord, METADATA_MAX};

use crate::image::read_blob;
use crate::{Error, Result, Store};

/// The blobs of an image, and what of them is in the store. Nothing of their content is verified but the manifest and
/// the blob table.
#[derive(Clone, Debug)]
pub struct Inventory {
    /// The manifest.
    pub manifest: Manifest,
    /// Its blobs, each once: the manifest, the blob table, shards, pack indexes, packs, pack contents. The first two
    /// alone if the blob table is not here.
    pub blobs: Vec<BlobPresence>,
}

/// A blob of an image, and what of it is in the store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BlobPresence {
    /// Its kind.
    pub kind: BlobKind,
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub bytes: u64,
    /// Those of them that are here.
    pub present_bytes: u64,
    /// Of a pack: its chunks.
    pub chunks: u32,
    /// And those of them that are here.
    pub present_chunks: u32,
}

/// The kind of a blob of an image.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum BlobKind {
    /// The manifest.
    Manifest,
    /// The blob table.
    BlobTable,
    /// An inode shard.
    InodeShard,
    /// A pack index.
    PackIndex,
    /// A pack.
    Pack,
    /// Pack contents, which take no part in what is said of the image as a whole: only builders read them.
    PackContents,
}

impl Inventory {
    /// Bytes of all blobs that readers need, those that are not here and not known yet included.
    pub fn bytes(&self) -> u64 {
        let known = self.sum(|blob| blob.bytes);
        if self.is_table_here() {
            known
        } else {
            known.saturating_add(self.manifest.stored_bytes)
        }
    }

    /// Those of them that are in the store.
    pub fn present_bytes(&self) -> u64 {
        self.sum(|blob| blob.present_bytes)
    }

    /// Whether all of the image that readers need is in the store.
    pub fn is_complete(&self) -> bool {
        self.read_blobs().all(BlobPresence::is_complete)
    }

    fn is_table_here(&self) -> bool {
        let mut tables = self.blobs.iter();
        tables.any(|blob| blob.kind == BlobKind::BlobTable && blob.is_complete())
    }

    /// The blobs that readers need.
    fn read_blobs(&self) -> impl Iterator<Item = &BlobPresence> {
        let blobs = self.blobs.iter();
        blobs.filter(|blob| blob.kind != BlobKind::PackContents)
    }

    /// The bytes of packs are numbers that an image's publisher has chosen.
    fn sum(&self, bytes: impl Fn(&BlobPresence) -> u64) -> u64 {
        self.read_blobs()
            .map(bytes)
            .fold(0, |sum, bytes| sum.saturating_add(bytes))
    }
}

impl BlobPresence {
    /// Whether all of it is in the store.
    pub fn is_complete(&self) -> bool {
        self.present_bytes == self.bytes && self.present_chunks == self.chunks
    }
}

impl Store {
    /// The blobs of the image with this manifest, and what of them is here.
    ///
    /// # Errors
    /// [`Error::BlobMissing`] if the manifest is not here; [`Error::BlobDamaged`] or [`Error::Format`] if that or the
    /// blob table is damaged or not valid; [`Error::Io`].
    pub fn inventory(&self, manifest: &Digest) -> Result<Inventory> {
        let blob = self.read_metadata(manifest, METADATA_MAX)?;
        let length = blob.len() as u64;
        let digest = *manifest;
        let manifest = Manifest::parse(&blob).map_err(Error::format(digest))?;
        let mut blobs = vec![
            self.presence(BlobKind::Manifest, digest, length),
            self.presence(
                BlobKind::BlobTable,
                manifest.blob_table,
                manifest.blob_table_length.into(),
            ),
        ];
        match read_blob(self, &manifest.blob_table, manifest.blob_table_length) {
            Ok(table) => {
                let layout = BlobTableLayout::parse(&table, manifest.inode_count)
                    .map_err(Error::format(manifest.blob_table))?;
                self.add_blobs(&layout.view(&table), &mut blobs)?;
            }
            Err(Error::BlobMissing(_)) => (),
            Err(error) => return Err(error),
        }
        Ok(Inventory { manifest, blobs })
    }

    /// Adds what a blob table names, each blob once.
    fn add_blobs(&self, table: &BlobTable<'_>, blobs: &mut Vec<BlobPresence>) -> Result<()> {
        let mut seen = HashSet::new();
        for shard in table.shards.iter() {
            if seen.insert(shard.digest) {
                blobs.push(self.presence(BlobKind::InodeShard, shard.digest, shard.length.into()));
            }
        }
        for pack in table.packs.iter() {
            if seen.insert(pack.index_digest) {
                blobs.push(self.presence(
                    BlobKind::PackIndex,
                    pack.index_digest,
                    pack.index_length.into(),
                ));
            }
        }
        for pack in table.packs.iter() {
            if seen.insert(pack.digest) {
                blobs.push(self.pack_presence(&pack)?);
            }
        }
        // Last, so that nothing that readers need is taken for one of these.
        for pack in table.packs.iter() {
            if seen.insert(pack.contents_digest) {
                let (kind, length) = (BlobKind::PackContents, pack.contents_length());
                blobs.push(self.presence(kind, pack.contents_digest, length));
            }
        }
        Ok(())
    }

    fn presence(&self, kind: BlobKind, digest: Digest, bytes: u64) -> BlobPresence {
        BlobPresence {
            kind,
            digest,
            bytes,
            present_bytes: if self.has_blob(&digest) { bytes } else { 0 },
            chunks: 0,
            present_chunks: 0,
        }
    }

    fn pack_presence(&self, record: &PackRecord) -> Result<BlobPresence> {
        let whole = self.has_blob(&record.digest);
        let mut presence = BlobPresence {
            chunks: record.chunk_count,
            present_chunks: if whole { record.chunk_count } else { 0 },
            ..self.presence(BlobKind::Pack, record.digest, record.stored_length)
        };
        // Without its index nothing can be said of a part, and nothing be read of it.
        if !whole && self.has_places(&record.digest, &record.index_digest) {
            let pack = match read_blob(self, &record.index_digest, record.index_length) {
                Ok(index) => self.find_pack(record, index)?,
                Err(Error::BlobMissing(_)) => None,
                Err(error) => return Err(error),
            };
            if let Some(pack) = pack {
                let bits = pack.presence();
                presence.present_bytes = pack.present_bytes();
                presence.present_chunks = bits.iter().map(|byte| byte.count_ones()).sum();
            }
        }
        Ok(presence)
    }
}
