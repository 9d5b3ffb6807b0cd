// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What images need.

use std::collections::{HashMap, HashSet};

use peerfs_format::{BlobTable, DataFile, Digest, KeyId, Manifest, PackRecord};
use peerfs_oci::links;
use peerfs_trace::{Trace, TRACE_MAX};

use crate::directory::FileId;
use crate::image::read_blob;
use crate::places::{PlaceTable, Ranges};
use crate::{index_file, layout, Error, Pack, Result, Store};

/// OCI indexes and manifests within each other that are followed.
const DEPTH_MAX: usize = 4;
/// The most bytes of one of them.
const OCI_MAX: u64 = 16 * 1024 * 1024;

/// What the images of a store need, as far as it is here.
#[derive(Default)]
pub(super) struct Marks {
    /// Blobs by their digests.
    pub(super) blobs: HashSet<Digest>,
    /// The keys of encrypted images.
    pub(super) keys: HashSet<KeyId>,
    /// Packs with their indexes.
    pub(super) packs: HashSet<(Digest, Digest)>,
    /// Ranges of bytes of data files that chunks of these packs are in, in no order.
    pub(super) ranges: Ranges,
    /// The packs that these are in, each with the index by which it is known there.
    shared: HashMap<Digest, Digest>,
    /// Images of which all metadata was here that says what they need.
    images: HashSet<Digest>,
    /// Blobs of OCI layouts that were read.
    read: HashSet<Digest>,
    /// The index that was read, if it need not be read again.
    index: Option<FileId>,
}

impl Marks {
    /// Marks what the images need that the index names, and those of `keep`, as far as it is not marked yet.
    pub(super) fn add(&mut self, store: &Store, keep: &[Digest]) -> Result<()> {
        let directory = store.directory();
        let index = directory
            .id(layout::INDEX)
            .map_err(directory.failed("read", layout::INDEX))?;
        if index.is_none() || self.index != index {
            self.index = index;
            for entry in index_file::read(directory)?.entries() {
                if let Some(digest) = entry.digest {
                    self.mark_oci(store, &digest, 0)?;
                }
            }
            for image in store.images()? {
                self.mark_image(store, &image.manifest)?;
            }
        }
        for manifest in keep {
            self.mark_image(store, manifest)?;
        }
        Ok(())
    }

    /// Marks blobs, as far as they are here and are traces.
    pub(super) fn add_traces(&mut self, store: &Store, traces: &[Digest]) {
        let traces = traces.iter().filter(|trace| is_trace(store, trace));
        self.blobs.extend(traces);
    }

    /// The index by which others know a pack that chunks of theirs are in.
    pub(super) fn index_of(&self, pack: &Digest) -> Option<Digest> {
        self.shared.get(pack).copied()
    }

    /// Marks bytes of data files.
    pub(super) fn add_ranges(&mut self, ranges: Ranges) {
        for (name, ranges) in ranges {
            self.share(&name);
            self.ranges.entry(name).or_default().extend(ranges);
        }
    }

    fn share(&mut self, name: &DataFile) {
        if let DataFile::Pack(pack, index) = name {
            self.shared.insert(*pack, *index);
        }
    }

    /// The marks of one image, and of these blobs that lead to it.
    pub(super) fn of_image(store: &Store, manifest: &Digest, named: &[Digest]) -> Result<Self> {
        let mut marks = Marks::default();
        for digest in named {
            marks.mark_oci(store, digest, 0)?;
        }
        marks.mark_image(store, manifest)?;
        Ok(marks)
    }

    /// Marks a blob of an OCI layout, and those that it names.
    fn mark_oci(&mut self, store: &Store, digest: &Digest, depth: usize) -> Result<()> {
        self.blobs.insert(*digest);
        if depth == DEPTH_MAX || self.read.contains(digest) {
            return Ok(());
        }
        let blob = match store.read_metadata(digest, OCI_MAX) {
            // A pack, or something of other tools: it names nothing.
            Err(Error::BlobTooLarge { .. } | Error::NotARegularFile(_)) => return Ok(()),
            // It may come, and is looked for again.
            Err(Error::BlobMissing(_)) => {
                self.index = None;
                return Ok(());
            }
            read => read?,
        };
        self.read.insert(*digest);
        for link in links(&blob) {
            match link.leads_on {
                true => self.mark_oci(store, &link.digest, depth + 1)?,
                false => {
                    self.blobs.insert(link.digest);
                }
            }
        }
        Ok(())
    }

    fn mark_image(&mut self, store: &Store, manifest: &Digest) -> Result<()> {
        if self.images.contains(manifest) {
            return Ok(());
        }
        // What is not yet here may come, and is looked for again.
        let Some(read) = manifest_if_here(store, manifest)? else {
            self.index = None;
            return Ok(());
        };
        self.blobs.extend([*manifest, read.blob_table]);
        self.keys.extend(read.key_id());
        let Some(table) = blob_table_if_here(store, &read)? else {
            self.index = None;
            return Ok(());
        };
        let table =
            BlobTable::parse(&table, read.inode_count).map_err(Error::format(read.blob_table))?;
        self.blobs
            .extend(table.shards.iter().map(|shard| shard.digest));
        for pack in table.packs.iter() {
            self.mark_pack(store, &pack)?;
        }
        self.images.insert(*manifest);
        Ok(())
    }

    fn mark_pack(&mut self, store: &Store, pack: &PackRecord) -> Result<()> {
        self.blobs
            .extend([pack.digest, pack.index_digest, pack.contents_digest]);
        if !self.packs.insert((pack.digest, pack.index_digest)) {
            return Ok(());
        }
        let Some(table) = PlaceTable::find(&store.shared().data_files, pack)? else {
            return Ok(());
        };
        let Some(open) = places_if_here(store, pack)? else {
            return Ok(());
        };
        for chunk in 0..pack.chunk_count {
            if let Some((name, offset)) = table.place(chunk) {
                let length = u64::from(open.chunk(chunk)?.stored_length);
                self.share(&name);
                let ranges = self.ranges.entry(name).or_default();
                ranges.push((offset, offset.saturating_add(length)));
            }
        }
        Ok(())
    }
}

/// An image's manifest; None if it is not here, without which nothing of the image that is would be found.
pub(super) fn manifest_if_here(store: &Store, manifest: &Digest) -> Result<Option<Manifest>> {
    match store.read_manifest(manifest) {
        Err(Error::BlobMissing(_) | Error::NotARegularFile(_)) => Ok(None),
        read => read.map(Some),
    }
}

fn is_trace(store: &Store, digest: &Digest) -> bool {
    let bytes = store.read_metadata(digest, TRACE_MAX);
    bytes.is_ok_and(|bytes| Trace::parse(&bytes).is_ok())
}

/// The bytes of an image's blob table; None if it is not here.
pub(super) fn blob_table_if_here(store: &Store, manifest: &Manifest) -> Result<Option<Vec<u8>>> {
    match read_blob(store, &manifest.blob_table, manifest.blob_table_length) {
        Err(Error::BlobMissing(_)) => Ok(None),
        table => table.map(Some),
    }
}

/// The places of a pack's chunks; None if there is no table, or not its index, without which nobody can say how long the
/// chunks are.
pub(super) fn places_if_here(store: &Store, pack: &PackRecord) -> Result<Option<Pack>> {
    let index = match read_blob(store, &pack.index_digest, pack.index_length) {
        Err(Error::BlobMissing(_)) => return Ok(None),
        index => index?,
    };
    store.find_places(pack, index)
}
