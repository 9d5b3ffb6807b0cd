// SPDX-License-Identifier: GPL-2.0 OR MIT

//! All that a registry needs of an image, wherever it lies in the store.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::sync::Arc;

use peerfs_format::{BlobTable, Digest, PackRecord, METADATA_MAX};
use peerfs_oci::{
    media_type_of, Architecture, Document, ImageBlobs, OciImage, Reference, RuntimeConfig,
    OCI_INDEX_MAX,
};

use crate::image::read_blob;
use crate::images::form_of;
use crate::{index_file, sha256, Error, Pack, Result, Store};

/// An image to be copied to where OCI's tools find it.
pub struct ImageCopy {
    /// Its blobs, each once.
    pub blobs: Vec<CopyBlob>,
    /// Its indexes and manifests: each after what it leads to, the one that the image is called by last.
    pub documents: Vec<CopyDocument>,
}

/// A blob of such an image.
#[derive(Clone)]
pub struct CopyBlob {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub length: u64,
    place: BlobPlace,
}

/// An index or a manifest of such an image.
pub struct CopyDocument {
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

#[derive(Clone)]
enum BlobPlace {
    File,
    Memory(Arc<Vec<u8>>),
    Pack(PackRecord),
}

impl Store {
    /// What to copy of the image with this manifest, which a reference has led to. Of several OCI forms it is the one to
    /// which that leads: images of the same files may differ in how their programs are run. It is made if the store has none.
    ///
    /// # Errors
    /// [`Error::BlobMissing`] and the like if not all of its metadata is here.
    pub fn copy_of(&self, reference: &Reference, manifest: &Digest) -> Result<ImageCopy> {
        let bytes = self.read_metadata(manifest, METADATA_MAX)?;
        let parsed = self.read_manifest(manifest)?;
        let table = read_blob(self, &parsed.blob_table, parsed.blob_table_length)?;
        let table = BlobTable::parse(&table, parsed.inode_count)
            .map_err(Error::format(parsed.blob_table))?;
        let packs: Vec<PackRecord> = table.packs.iter().collect();
        let index = index_file::read(self.directory())?;
        let mut made = HashMap::new();
        let top = match form_of(self, &index, Some(reference), manifest) {
            Some((_, index)) => self.read_metadata(&index, METADATA_MAX.max(OCI_INDEX_MAX))?,
            None => {
                let shards: Vec<_> = table.shards.iter().collect();
                let form = OciImage::new(
                    &ImageBlobs {
                        manifest: &bytes,
                        blob_table: parsed.blob_table,
                        blob_table_length: parsed.blob_table_length.into(),
                        shards: &shards,
                        packs: &packs,
                    },
                    &Architecture::unknown(),
                    &RuntimeConfig::default(),
                );
                let form = form.map_err(Error::oci(self.root_dir().to_owned()))?;
                let blobs = form.blobs.into_iter();
                made = blobs.map(|blob| (sha256(&blob), Arc::new(blob))).collect();
                form.index
            }
        };
        let packs = packs.into_iter().map(|pack| (pack.digest, pack)).collect();
        let mut collecting = Collecting {
            store: self,
            made,
            packs,
            seen: HashSet::new(),
            copy: ImageCopy {
                blobs: Vec::new(),
                documents: Vec::new(),
            },
        };
        collecting.add_document(sha256(&top), top, true)?;
        Ok(collecting.copy)
    }

    /// Reads a blob of an image from its beginning. Nothing but chunks that lie apart is verified on the way: whoever takes
    /// the blob does that.
    ///
    /// # Errors
    /// [`Error::BlobMissing`] if it is not here; [`Error::Io`]. A chunk that is missing or damaged fails when it is read.
    pub fn open_copy(&self, blob: &CopyBlob) -> Result<Box<dyn Read + Send>> {
        if let BlobPlace::Memory(bytes) = &blob.place {
            return Ok(Box::new(Cursor::new(bytes.to_vec())));
        }
        // The finding that a whole one is damaged counts.
        if self.has_blob(&blob.digest) {
            if let Some(file) = self.open_blob(&blob.digest)? {
                return Ok(Box::new(file) as Box<dyn Read + Send>);
            }
        }
        let BlobPlace::Pack(record) = &blob.place else {
            return Err(Error::BlobMissing(blob.digest));
        };
        let index = read_blob(self, &record.index_digest, record.index_length)?;
        let pack = self.find_pack(record, index)?;
        let pack = pack.ok_or(Error::BlobMissing(blob.digest))?;
        if let Some(file) = pack.whole_file() {
            return Ok(Box::new(WholeFile { file, offset: 0 }));
        }
        Ok(Box::new(Chunks {
            pack,
            next: 0,
            rest: Cursor::default(),
        }))
    }
}

struct Collecting<'a> {
    store: &'a Store,
    /// The blobs of an OCI form that was made just now.
    made: HashMap<Digest, Arc<Vec<u8>>>,
    packs: HashMap<Digest, PackRecord>,
    seen: HashSet<Digest>,
    copy: ImageCopy,
}

impl Collecting<'_> {
    /// Adds a document after what it leads to. An index in an index is not followed.
    fn add_document(&mut self, digest: Digest, bytes: Vec<u8>, may_be_index: bool) -> Result<()> {
        if !self.seen.insert(digest) {
            return Ok(());
        }
        let parsed = Document::parse(&bytes).map_err(Error::oci(self.store.blob_path(&digest)))?;
        match &parsed {
            Document::Index(children) if may_be_index => {
                for child in children.iter() {
                    let digest = child.blob.digest;
                    let bytes = match self.made.get(&digest) {
                        Some(bytes) => bytes.to_vec(),
                        None => self.store.read_metadata(&digest, METADATA_MAX)?,
                    };
                    self.add_document(digest, bytes, false)?;
                }
            }
            Document::Index(_) => return Err(Error::NotAnImage(digest.to_string())),
            Document::Manifest { config, layers } => {
                for blob in layers.iter().chain([config]) {
                    self.add_blob(blob.digest, blob.length);
                }
            }
        }
        let default = parsed.default_media_type().to_owned();
        self.copy.documents.push(CopyDocument {
            digest,
            media_type: media_type_of(&bytes).unwrap_or(default),
            bytes,
        });
        Ok(())
    }

    fn add_blob(&mut self, digest: Digest, length: u64) {
        if !self.seen.insert(digest) {
            return;
        }
        let place = match (self.made.get(&digest), self.packs.get(&digest)) {
            (Some(bytes), _) => BlobPlace::Memory(Arc::clone(bytes)),
            (None, Some(record)) => BlobPlace::Pack(*record),
            (None, None) => BlobPlace::File,
        };
        self.copy.blobs.push(CopyBlob {
            digest,
            length,
            place,
        });
    }
}

/// An open file that others read as well, each at its own place.
struct WholeFile {
    file: Arc<File>,
    offset: u64,
}

impl Read for WholeFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use std::os::unix::fs::FileExt;
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

/// A pack that is read from wherever its chunks are.
struct Chunks {
    pack: Pack,
    next: u32,
    rest: Cursor<Vec<u8>>,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.rest.read(buffer)?;
            if count > 0 || buffer.is_empty() || self.next == self.pack.record().chunk_count {
                return Ok(count);
            }
            let (pack, chunk) = (*self.pack.digest(), self.next);
            let stored = self
                .pack
                .read_chunk(chunk)
                .and_then(|stored| stored.ok_or(Error::ChunkMissing { pack, chunk }));
            self.rest = Cursor::new(stored.map_err(io::Error::other)?);
            self.next += 1;
        }
    }
}
