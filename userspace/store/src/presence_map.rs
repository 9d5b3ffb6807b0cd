// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The map file beside a partial pack.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use peerfs_format::{PackRecord, PresenceHeader, PRESENCE_HEADER_SIZE};

use crate::directory::StoreDirectory;
use crate::{layout, whole_file, Error, Result};

/// The chunks of a partial pack that are there: the file, and a copy of its bits.
pub(crate) struct PresenceMap {
    path: PathBuf,
    /// None for whoever only reads.
    file: Option<File>,
    bits: Vec<u8>,
    chunk_count: u32,
    present: u32,
}

impl PresenceMap {
    /// Reads the map of a pack; None if there is no valid one.
    pub(crate) fn read(directory: &StoreDirectory, record: &PackRecord) -> Result<Option<Self>> {
        let name = name_of(record);
        let expected = header_of(record);
        let length = PRESENCE_HEADER_SIZE + expected.bits_size();
        let bytes = match whole_file::read(directory, &name, length as u64) {
            Ok(Some(bytes)) => bytes,
            Ok(None) | Err(Error::NotARegularFile(_)) => return Ok(None),
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::FileTooLarge => {
                return Ok(None)
            }
            Err(error) => return Err(error),
        };
        let bits = match bytes.split_at_checked(PRESENCE_HEADER_SIZE) {
            Some((header, bits)) if PresenceHeader::parse(header) == Ok(expected) => bits,
            _ => return Ok(None),
        };
        if bits.len() != expected.bits_size() {
            return Ok(None);
        }
        let mut bits = bits.to_vec();
        expected.clear_padding(&mut bits);
        Ok(Some(Self::with_bits(directory, record, bits)))
    }

    /// Opens the map of a pack for changes, and makes one that has no chunks if there is no valid one.
    pub(crate) fn open(directory: &Arc<StoreDirectory>, record: &PackRecord) -> Result<Self> {
        let mut map = match Self::read(directory, record)? {
            Some(map) => map,
            None => Self::create(directory, record)?,
        };
        let name = name_of(record);
        map.file = directory.write(&name)?;
        if map.file.is_none() {
            let vanished = io::ErrorKind::NotFound.into();
            return Err(directory.failed("open", &name)(vanished));
        }
        Ok(map)
    }

    fn create(directory: &Arc<StoreDirectory>, record: &PackRecord) -> Result<Self> {
        let header = header_of(record);
        let bits = vec![0; header.bits_size()];
        let content = [header.to_bytes().as_slice(), &bits].concat();
        whole_file::replace(directory, &name_of(record), &content)?;
        Ok(Self::with_bits(directory, record, bits))
    }

    fn with_bits(directory: &StoreDirectory, record: &PackRecord, bits: Vec<u8>) -> Self {
        let present = bits.iter().map(|byte| byte.count_ones()).sum();
        PresenceMap {
            path: directory.path(&name_of(record)),
            file: None,
            bits,
            chunk_count: record.chunk_count,
            present,
        }
    }

    /// Whether a chunk is there.
    pub(crate) fn has(&self, chunk: u32) -> bool {
        self.bits
            .get(chunk as usize / 8)
            .is_some_and(|byte| byte & bit(chunk) != 0)
    }

    /// Whether all chunks are there.
    pub(crate) fn is_full(&self) -> bool {
        self.present >= self.chunk_count
    }

    /// The bits, as in the file.
    pub(crate) fn bits(&self) -> &[u8] {
        &self.bits
    }

    /// Says that a chunk is there, or no longer.
    pub(crate) fn set(&mut self, chunk: u32, present: bool) -> Result<()> {
        if chunk >= self.chunk_count || self.has(chunk) == present {
            return Ok(());
        }
        let (Some(byte), Some(file)) = (self.bits.get_mut(chunk as usize / 8), &self.file) else {
            return Ok(());
        };
        let changed = *byte ^ bit(chunk);
        let offset = PRESENCE_HEADER_SIZE as u64 + u64::from(chunk / 8);
        file.write_all_at(&[changed], offset)
            .map_err(Error::io("write to", &self.path))?;
        *byte = changed;
        if present {
            self.present += 1;
        } else {
            self.present -= 1;
        }
        Ok(())
    }
}

fn name_of(record: &PackRecord) -> String {
    layout::map(&record.digest, &record.index_digest)
}

fn header_of(record: &PackRecord) -> PresenceHeader {
    PresenceHeader {
        chunk_count: record.chunk_count,
        pack: record.digest,
        index: record.index_digest,
    }
}

fn bit(chunk: u32) -> u8 {
    1 << (chunk % 8)
}

/// The bits of a pack that is all there.
pub(crate) fn full_bits(record: &PackRecord) -> Vec<u8> {
    let header = header_of(record);
    let mut bits = vec![0xff; header.bits_size()];
    header.clear_padding(&mut bits);
    bits
}
