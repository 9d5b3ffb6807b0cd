// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Reading an image through the library.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

use peerfs_format::{ChunkRecord, Digest, Iv, PackRecord};
use peerfs_store::{ChunkReader, Error, Image, Pack, PackReader, Result, Store, StoredChunk};

use crate::fixture::Fixture;

/// Reads from a store, and fetches what is not there from another one.
struct Fetching {
    store: Arc<Store>,
    source: Store,
    fetched: Arc<AtomicU32>,
    /// Answers with a chunk that is right, but another one.
    swaps: bool,
}

struct FetchingPack {
    pack: Arc<Pack>,
    source: Pack,
    fetched: Arc<AtomicU32>,
    swaps: bool,
}

impl ChunkReader for Fetching {
    type Pack = FetchingPack;

    fn read_metadata(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        match self.store.read_metadata(digest, limit) {
            Err(Error::BlobMissing(_)) => {
                let blob = self.source.read_metadata(digest, limit)?;
                self.store.put_blob(digest, &blob)?;
                Ok(blob)
            }
            found => found,
        }
    }

    fn pack_reader(&self, record: &PackRecord, index: Vec<u8>) -> Result<FetchingPack> {
        let source = self.source.find_pack(record, index.clone())?;
        Ok(FetchingPack {
            pack: self.store.pack(record, index)?,
            source: source.ok_or(Error::BlobMissing(record.digest))?,
            fetched: self.fetched.clone(),
            swaps: self.swaps,
        })
    }
}

impl PackReader for FetchingPack {
    fn chunk_at(&self, logical_offset: u32) -> Result<(u32, ChunkRecord)> {
        self.pack.chunk_at(logical_offset)
    }

    fn iv(&self, chunk: u32) -> Option<Iv> {
        self.pack.iv(chunk)
    }

    fn read_chunk(&self, chunk: u32) -> Result<StoredChunk> {
        if self.swaps {
            return PackReader::read_chunk(&self.source, chunk ^ 1);
        }
        if let Some(stored) = self.pack.stored_chunk(chunk)? {
            return Ok(stored);
        }
        let stored = PackReader::read_chunk(&self.source, chunk)?;
        self.pack.write_chunk(chunk, stored.bytes())?;
        self.fetched.fetch_add(1, Ordering::Relaxed);
        Ok(stored)
    }
}

fn read<R: ChunkReader>(image: &Image<R>, path: &[u8]) -> Result<Vec<u8>> {
    let file = image.lookup(path, true)?;
    let mut content = Vec::new();
    image.read(&file, 0, u64::MAX, |part| {
        content.extend_from_slice(part);
        Result::Ok(())
    })?;
    Ok(content)
}

#[test]
fn what_is_not_here_is_fetched_when_it_is_read() {
    let fixture = Fixture::new();
    let folder = tempfile::tempdir().unwrap();
    let fetched = Arc::new(AtomicU32::new(0));
    // One for both: its lock might be inherited for a moment by a process that another test starts.
    let store = Arc::new(Store::create(folder.path()).unwrap());
    let open = |swaps| {
        Arc::new(Fetching {
            store: store.clone(),
            source: Store::open(&fixture.store()).unwrap(),
            fetched: fetched.clone(),
            swaps,
        })
    };
    let image = Image::open(open(false), &fixture.manifest).unwrap();
    assert!(read(&image, b"/file").unwrap() == fixture.content);
    let chunks = fixture.pack().0.chunk_count;
    assert_eq!(fetched.load(Ordering::Relaxed), chunks);
    drop(image);
    // A reader is not believed that another chunk is the one that was asked for.
    let image = Image::open(open(true), &fixture.manifest).unwrap();
    let refused = read(&image, b"/file");
    assert!(
        matches!(refused, Err(Error::ChunkDamaged { chunk: 0, .. })),
        "{refused:?}"
    );
    drop(image);
    // All of it is in the store, where it is read without the other one.
    fs::remove_dir_all(fixture.store()).unwrap();
    let store = Arc::new(Store::open(folder.path()).unwrap());
    let image = Image::open(store, &fixture.manifest).unwrap();
    assert!(read(&image, b"file").unwrap() == fixture.content);
    assert_eq!(fetched.load(Ordering::Relaxed), chunks);
}
