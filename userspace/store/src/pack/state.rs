// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What there is of a pack in the store's folder.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use peerfs_format::{ChunkRecord, Error as FormatError, PackIndexLayout, PackRecord, METADATA_MAX};

use crate::chunk::is_stored_chunk;
use crate::directory::{StoreDirectory, READABLE};
use crate::presence_map::PresenceMap;
use crate::{layout, sha256, Error, Result};

/// The file of a pack, and which chunks are in it.
pub(super) struct State {
    /// Stays the same file when the pack becomes whole.
    pub(super) file: Arc<File>,
    /// None for a whole pack.
    pub(super) map: Option<PresenceMap>,
}

impl State {
    /// The whole pack. Something of its name that is no file is as good as nothing: it is replaced when
    /// the pack becomes whole.
    pub(super) fn find_whole(
        directory: &StoreDirectory,
        record: &PackRecord,
    ) -> Result<Option<Self>> {
        match directory.read(&layout::blob(&record.digest)) {
            Ok(file) => Ok(file.map(|file| State {
                file: Arc::new(file),
                map: None,
            })),
            Err(Error::NotARegularFile(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The partial pack, to be read.
    pub(super) fn find_partial(
        directory: &StoreDirectory,
        record: &PackRecord,
    ) -> Result<Option<Self>> {
        let file = directory.read(&layout::partial(&record.digest, &record.index_digest))?;
        let map = PresenceMap::read(directory, record)?;
        Ok(file.zip(map).map(|(file, map)| State {
            file: Arc::new(file),
            map: Some(map),
        }))
    }

    pub(super) fn open_partial(
        directory: &Arc<StoreDirectory>,
        record: &PackRecord,
    ) -> Result<Self> {
        let name = layout::partial(&record.digest, &record.index_digest);
        let file = directory.write_or_create(&name, READABLE)?;
        let length = file
            .metadata()
            .map_err(directory.failed("read", &name))?
            .size();
        if length != record.stored_length {
            file.set_len(record.stored_length)
                .map_err(directory.failed("create", &name))?;
        }
        if length == 0 {
            // A map without its pack says nothing.
            let map = layout::map(&record.digest, &record.index_digest);
            directory
                .remove(&map)
                .map_err(directory.failed("remove", &map))?;
        }
        Ok(State {
            file: Arc::new(file),
            map: Some(PresenceMap::open(directory, record)?),
        })
    }
}

/// A chunk's stored bytes; None if what is there is something else, or not all there.
pub(super) fn read_stored(file: &File, record: &ChunkRecord) -> io::Result<Option<Vec<u8>>> {
    let mut stored = vec![0; record.stored_length as usize];
    match file.read_exact_at(&mut stored, u64::from(record.stored_offset)) {
        Ok(()) => Ok(is_stored_chunk(record, &stored).then_some(stored)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where everything lies in the index that a record names, if it is that one.
pub(super) fn check_index(record: &PackRecord, index: &[u8]) -> Result<PackIndexLayout> {
    if index.len() as u64 > METADATA_MAX {
        return Err(Error::BlobTooLarge {
            digest: record.index_digest,
            length: index.len() as u64,
            limit: METADATA_MAX,
        });
    }
    if sha256(index) != record.index_digest {
        return Err(Error::BlobDamaged(record.index_digest));
    }
    // The rest of the record is compared when the index is parsed: so an index has one record.
    if index.len() as u64 != u64::from(record.index_length) {
        let source = FormatError::Malformed("index length");
        return Err(Error::format(record.index_digest)(source));
    }
    PackIndexLayout::parse(index, record).map_err(Error::format(record.index_digest))
}
