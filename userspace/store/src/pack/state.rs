// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What there is of a pack in the store's folder.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use peerfs_format::{
    ChunkRecord, DataFile, Error as FormatError, PackIndexLayout, PackRecord, METADATA_MAX,
};

use crate::chunk::is_stored_chunk;
use crate::directory::{StoreDirectory, READABLE};
use crate::places::{DataFiles, PlaceTable};
use crate::{layout, sha256, Error, Result};

/// Where a pack's chunks are.
pub(super) enum State {
    /// All in one blob.
    Whole(Arc<File>),
    /// As far as they are here, where a table says.
    Places(Places),
}

/// The places of a pack's chunks.
pub(super) struct Places {
    pub(super) table: PlaceTable,
    /// The pack's own partial file, if this process writes to it.
    pub(super) own: Option<Arc<File>>,
    /// Whether what comes goes to loose files; None before anything has come.
    pub(super) goes_loose: Option<bool>,
}

impl Places {
    fn new(table: PlaceTable) -> Self {
        Places {
            table,
            own: None,
            goes_loose: None,
        }
    }
}

impl State {
    /// The whole pack. Something of its name that is no file is as good as nothing: it is replaced when
    /// the pack becomes whole.
    pub(super) fn find_whole(
        directory: &StoreDirectory,
        record: &PackRecord,
    ) -> Result<Option<Self>> {
        match directory.read(&layout::blob(&record.digest)) {
            Ok(file) => Ok(file.map(|file| State::Whole(Arc::new(file)))),
            Err(Error::NotARegularFile(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The places, to be read; None if there is no table.
    pub(super) fn find_places(data_files: &DataFiles, record: &PackRecord) -> Result<Option<Self>> {
        let table = PlaceTable::find(data_files, record)?;
        Ok(table.map(|table| State::Places(Places::new(table))))
    }

    /// The places, to be changed.
    pub(super) fn open_places(data_files: &DataFiles, record: &PackRecord) -> Result<Self> {
        let table = PlaceTable::open(data_files, record)?;
        Ok(State::Places(Places::new(table)))
    }
}

/// The pack's own partial file, to be written to; made if it is not there.
pub(super) fn open_own(directory: &StoreDirectory, record: &PackRecord) -> Result<Arc<File>> {
    let name = layout::partial(&record.digest, &record.index_digest);
    let file = directory.write_or_create(&name, READABLE)?;
    let length = file.metadata().map(|metadata| metadata.size());
    if length.map_err(directory.failed("read", &name))? != record.stored_length {
        file.set_len(record.stored_length)
            .map_err(directory.failed("create", &name))?;
    }
    Ok(Arc::new(file))
}

/// The name of a pack's own file as a data file.
pub(super) fn own_name(record: &PackRecord) -> DataFile {
    DataFile::Pack(record.digest, record.index_digest)
}

/// A chunk's stored bytes at its place in the pack; None if what is there is something else, or not all there.
pub(super) fn read_stored(file: &File, record: &ChunkRecord) -> io::Result<Option<Vec<u8>>> {
    read_stored_at(file, record, record.stored_offset.into())
}

/// As [`read_stored`], at any place.
pub(super) fn read_stored_at(
    file: &File,
    record: &ChunkRecord,
    offset: u64,
) -> io::Result<Option<Vec<u8>>> {
    let mut stored = vec![0; record.stored_length as usize];
    match file.read_exact_at(&mut stored, offset) {
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
