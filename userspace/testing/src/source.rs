// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A complete store that answers come from, read without verifying anything.

use std::collections::HashMap;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use peerfs_format::{Digest, PackIndex, PackRecord};

use crate::{Error, Result};

/// A chunk as it is stored, and where.
pub(crate) struct StoredChunk {
    pub(crate) number: u32,
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) struct Source {
    store: PathBuf,
    /// The packs that were asked for, with their indexes.
    packs: HashMap<Digest, (File, Vec<u8>)>,
}

impl Source {
    pub(crate) fn new(store: PathBuf) -> Self {
        Source {
            store,
            packs: HashMap::new(),
        }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.store.join("blobs/sha256").join(digest.to_string())
    }

    pub(crate) fn blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.path(digest);
        fs::read(&path).map_err(Error::io("read", &path))
    }

    /// Chunks of a pack, and what is known of it.
    pub(crate) fn chunks(
        &mut self,
        pack: &Digest,
        index: &Digest,
        numbers: Range<u32>,
    ) -> Result<(Vec<StoredChunk>, PackRecord)> {
        let path = self.path(pack);
        if !self.packs.contains_key(pack) {
            let file = File::open(&path).map_err(Error::io("open", &path))?;
            let opened = (file, self.blob(index)?);
            self.packs.insert(*pack, opened);
        }
        let (file, bytes) = &self.packs[pack];
        let record = PackRecord::of_index(*pack, *index, bytes).map_err(Error::format(&path))?;
        let index = PackIndex::parse(bytes, &record).map_err(Error::format(&path))?;
        let mut chunks = Vec::new();
        for number in numbers {
            let chunk = index.chunk(number).map_err(Error::format(&path))?;
            let offset = u64::from(chunk.stored_offset);
            let mut bytes = vec![0; chunk.stored_length as usize];
            file.read_exact_at(&mut bytes, offset)
                .map_err(Error::io("read", &path))?;
            chunks.push(StoredChunk {
                number,
                offset,
                bytes,
            });
        }
        Ok((chunks, record))
    }
}
