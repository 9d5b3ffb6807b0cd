// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is known of chunks that were built here, to which the hash table leads: a list that only grows.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use peerfs_format::Digest;

use crate::directory::{StoreDirectory, READABLE};
use crate::{layout, Result};

const RECORD_SIZE: usize = 80;

/// A record of the list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct ContentRecord {
    /// What it was entered by: the table has only a part of it.
    pub(super) key: Digest,
    /// The SHA-256 of the content.
    pub(super) content: Digest,
    /// The number of the pack among the names.
    pub(super) name: u32,
    pub(super) chunk: u32,
}

impl ContentRecord {
    fn to_bytes(self) -> [u8; RECORD_SIZE] {
        let mut bytes = [0; RECORD_SIZE];
        let fields = (self.key.0.into_iter())
            .chain(self.content.0)
            .chain(self.name.to_le_bytes())
            .chain(self.chunk.to_le_bytes());
        for (byte, field) in bytes.iter_mut().zip(fields) {
            *byte = field;
        }
        if let Some((fields, sum)) = bytes.split_last_chunk_mut() {
            *sum = checksum(fields);
        }
        bytes
    }

    fn of_bytes(bytes: &[u8; RECORD_SIZE]) -> Option<Self> {
        let (fields, sum) = bytes.split_last_chunk()?;
        if *sum != checksum(fields) {
            return None;
        }
        let (key, rest) = fields.split_first_chunk()?;
        let (content, rest) = rest.split_first_chunk()?;
        let (name, rest) = rest.split_first_chunk()?;
        Some(ContentRecord {
            key: Digest(*key),
            content: Digest(*content),
            name: u32::from_le_bytes(*name),
            chunk: u32::from_le_bytes(*rest.first_chunk()?),
        })
    }
}

/// What a disk that has changed a record shows by: not a proof of who wrote it.
fn checksum(fields: &[u8]) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(fields).as_bytes();
    [a, b, c, d, e, f, g, h]
}

/// The list, open once it is needed.
pub(super) struct ContentLog {
    directory: Arc<StoreDirectory>,
    file: Option<File>,
}

impl ContentLog {
    pub(super) fn new(directory: &Arc<StoreDirectory>) -> Self {
        ContentLog {
            directory: directory.clone(),
            file: None,
        }
    }

    /// A record; None if there is none of this number.
    pub(super) fn get(&mut self, number: u64) -> Result<Option<ContentRecord>> {
        let path = layout::CATALOGUE_CONTENTS;
        if self.file.is_none() {
            self.file = self.directory.read(path)?;
        }
        let (Some(file), Some(offset)) = (&self.file, number.checked_mul(RECORD_SIZE as u64))
        else {
            return Ok(None);
        };
        let mut bytes = [0; RECORD_SIZE];
        match file.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(ContentRecord::of_bytes(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(self.directory.failed("read", path)(error)),
        }
    }

    /// Appends records, and returns the number of the first one. To be called by whoever holds the lock for changes.
    pub(super) fn append(&mut self, records: &[ContentRecord]) -> Result<u64> {
        let path = layout::CATALOGUE_CONTENTS;
        let file = self.directory.write_or_create(path, READABLE)?;
        let bytes: Vec<u8> = records
            .iter()
            .flat_map(|record| record.to_bytes())
            .collect();
        let write = || -> io::Result<u64> {
            // What a process that was killed has written in part is written over.
            let number = file.metadata()?.len() / RECORD_SIZE as u64;
            file.write_all_at(&bytes, number * RECORD_SIZE as u64)?;
            Ok(number)
        };
        let number = write().map_err(self.directory.failed("write to", path))?;
        self.file = Some(file);
        Ok(number)
    }
}
