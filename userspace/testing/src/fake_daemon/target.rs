// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The store that is mounted, and is filled with whatever it is given.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use peerfs_format::{DataFile, Digest, PackRecord, Place, PlacesHeader};

use crate::places::{open_file, PlacesTable};
use crate::source::StoredChunk;
use crate::{Error, Result};

/// What becomes of chunks in the store.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Storing {
    /// They are where they are in the pack.
    Partial,
    /// They are, and the file ends behind the last one.
    CutPartial,
    /// They are in a loose file.
    Loose,
    /// They are in a loose file, and the table says a byte behind.
    Beside,
    /// They are where they are in the pack, and the table says nothing of it.
    Unnoted,
    /// They are, and the table is that of another pack.
    OtherTable,
}

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

    /// Stores chunks of a pack and notes their places. Returns the table, and the slot that they are in with its file.
    pub(super) fn put_chunks(
        &self,
        pack: &PackRecord,
        chunks: &[StoredChunk],
        storing: Storing,
    ) -> Result<(File, u32, File)> {
        let is_loose = matches!(storing, Storing::Loose | Storing::Beside);
        let (name, path) = if is_loose {
            fs::create_dir_all(self.store.join("loose")).map_err(Error::io("make", &self.store))?;
            (DataFile::Loose(7), self.store.join("loose/7"))
        } else {
            let name = format!("{}-{}", pack.digest, pack.index_digest);
            let path = self.store.join("partial").join(name);
            (DataFile::Pack(pack.digest, pack.index_digest), path)
        };
        let write = || -> std::io::Result<(File, Vec<u64>)> {
            let file = open_file(&path)?;
            let mut end = file.metadata()?.len();
            let mut offsets = Vec::new();
            for chunk in chunks {
                let offset = if is_loose { end } else { chunk.offset };
                file.write_all_at(&chunk.bytes, offset)?;
                end = offset + chunk.bytes.len() as u64;
                offsets.push(offset);
            }
            match storing {
                Storing::CutPartial => file.set_len(end)?,
                Storing::Loose | Storing::Beside => {}
                _ => file.set_len(pack.stored_length)?,
            }
            Ok((file, offsets))
        };
        let (file, offsets) = write().map_err(Error::io("write", &path))?;
        let mut table = PlacesTable::open(&self.store, pack)?;
        let slot = table.slot_of(&name)?;
        for (chunk, mut offset) in chunks.iter().zip(offsets) {
            offset += u64::from(storing == Storing::Beside);
            let entry = match storing {
                Storing::Unnoted => 0,
                _ => Place { slot, offset }.to_entry(),
            };
            table.set_entries(chunk.number, &[entry])?;
        }
        if storing == Storing::OtherTable {
            table.set_header(&PlacesHeader {
                pack: pack.index_digest,
                ..table.header()
            })?;
        }
        Ok((table.file, slot, file))
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
