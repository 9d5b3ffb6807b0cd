// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The store that is mounted, and is filled with whatever it is given.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use peerfs_format::upcall::FetchChunks;
use peerfs_format::{Digest, PresenceHeader, PRESENCE_HEADER_SIZE};

use crate::source::StoredChunk;
use crate::{Error, Result};

pub(super) struct Target {
    store: PathBuf,
}

impl Target {
    pub(super) fn new(store: PathBuf) -> Self {
        Target { store }
    }

    /// Stores bytes under a digest, and opens the file.
    pub(super) fn put_blob(&self, digest: &Digest, bytes: &[u8]) -> Result<File> {
        let path = self.store.join("blobs/sha256").join(digest.to_string());
        let temporary = self.store.join("tmp").join(digest.to_string());
        fs::write(&temporary, bytes)
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(Error::io("write", &path))?;
        File::open(&path).map_err(Error::io("open", &path))
    }

    /// Stores chunks of a pack of `chunk_count` chunks, notes them in its map, and opens the pack.
    /// Unless `whole`, the pack's file ends where its last chunk does.
    pub(super) fn put_chunks(
        &self,
        request: &FetchChunks,
        chunks: &[StoredChunk],
        chunk_count: u32,
        whole: bool,
    ) -> Result<File> {
        let name = format!("{}-{}", request.pack, request.index);
        let path = self.store.join("partial").join(name);
        let map = path.with_extension("map");
        let write = || -> std::io::Result<()> {
            let file = open(&path)?;
            for chunk in chunks {
                file.write_all_at(&chunk.bytes, chunk.offset)?;
            }
            let end = chunks
                .last()
                .map_or(0, |chunk| chunk.offset + chunk.bytes.len() as u64);
            file.set_len(if whole { request.pack_length } else { end })?;
            let header = PresenceHeader {
                chunk_count,
                pack: request.pack,
                index: request.index,
            };
            let map = open(&map)?;
            map.set_len((PRESENCE_HEADER_SIZE + header.bits_size()) as u64)?;
            note(&map, header, chunks)
        };
        write().map_err(Error::io("write", &path))?;
        File::open(&path).map_err(Error::io("open", &path))
    }

    /// A file of the store that cannot be read through this descriptor.
    pub(super) fn write_only(&self) -> Result<File> {
        let path = self.store.join("tmp/write-only");
        File::create(&path).map_err(Error::io("create", &path))
    }

    /// A file of the store that no request is about.
    pub(super) fn readable(&self) -> Result<File> {
        let path = self.store.join("oci-layout");
        File::open(&path).map_err(Error::io("open", &path))
    }

    pub(super) fn directory(&self) -> Result<File> {
        File::open(&self.store).map_err(Error::io("open", &self.store))
    }
}

fn open(path: &std::path::Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

/// Sets the chunks' bits in a pack's map.
fn note(map: &File, header: PresenceHeader, chunks: &[StoredChunk]) -> std::io::Result<()> {
    map.write_all_at(&header.to_bytes(), 0)?;
    for chunk in chunks {
        let place = PRESENCE_HEADER_SIZE as u64 + u64::from(chunk.number / 8);
        let mut byte = [0];
        map.read_exact_at(&mut byte, place)?;
        byte[0] |= 1 << (chunk.number % 8);
        map.write_all_at(&byte, place)?;
    }
    Ok(())
}
