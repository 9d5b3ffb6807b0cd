// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The map file beside a partial pack.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use peerfs_format::{Digest, PresenceHeader, PRESENCE_HEADER_SIZE};

use crate::layout::Layout;
use crate::{whole_file, Error, Result};

/// Which chunks of a partial pack are there: the file, and a copy of its bits.
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
    pub(crate) fn read(layout: &Layout, pack: &Digest, chunk_count: u32) -> Result<Option<Self>> {
        let path = layout.map(pack);
        let expected = PresenceHeader {
            chunk_count,
            pack: *pack,
        };
        let length = PRESENCE_HEADER_SIZE + expected.bits_size();
        let bytes = match whole_file::read(&path, length as u64) {
            Ok(bytes) => bytes,
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::FileTooLarge => return Ok(None),
                _ => return Err(Error::io("read", &path)(error)),
            },
        };
        let bits = match bytes.split_at_checked(PRESENCE_HEADER_SIZE) {
            Some((header, bits)) if PresenceHeader::parse(header) == Ok(expected) => bits,
            _ => return Ok(None),
        };
        if bits.len() != expected.bits_size() {
            return Ok(None);
        }
        Ok(Some(Self::with_bits(
            path,
            None,
            bits.to_vec(),
            chunk_count,
        )))
    }

    /// Opens the map of a pack for changes, and makes one if there is no valid one: with all chunks
    /// `present` or none.
    pub(crate) fn open(
        layout: &Layout,
        pack: &Digest,
        chunk_count: u32,
        present: bool,
    ) -> Result<Self> {
        let mut map = match Self::read(layout, pack, chunk_count)? {
            Some(map) => map,
            None => Self::create(layout, pack, chunk_count, present)?,
        };
        let file = OpenOptions::new()
            .write(true)
            .open(&map.path)
            .map_err(Error::io("open", &map.path))?;
        map.file = Some(file);
        Ok(map)
    }

    fn create(layout: &Layout, pack: &Digest, chunk_count: u32, present: bool) -> Result<Self> {
        let path = layout.map(pack);
        let header = PresenceHeader {
            chunk_count,
            pack: *pack,
        };
        let bits = if present {
            full_bits(chunk_count)
        } else {
            vec![0; header.bits_size()]
        };
        let content = [header.to_bytes().as_slice(), &bits].concat();
        whole_file::replace(&layout.tmp(), &path, &content).map_err(Error::io("create", &path))?;
        Ok(Self::with_bits(path, None, bits, chunk_count))
    }

    fn with_bits(path: PathBuf, file: Option<File>, bits: Vec<u8>, chunk_count: u32) -> Self {
        let present = bits.iter().map(|byte| byte.count_ones()).sum();
        PresenceMap {
            path,
            file,
            bits,
            chunk_count,
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

fn bit(chunk: u32) -> u8 {
    1 << (chunk % 8)
}

/// The bits of a pack that is all there; those behind the last chunk are zero.
pub(crate) fn full_bits(chunk_count: u32) -> Vec<u8> {
    let mut bits = vec![0xff; chunk_count.div_ceil(8) as usize];
    if let (Some(last), 1..) = (bits.last_mut(), chunk_count % 8) {
        *last = (1 << (chunk_count % 8)) - 1;
    }
    bits
}
