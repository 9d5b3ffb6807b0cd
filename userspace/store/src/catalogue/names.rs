// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The numbers by which the catalogue knows data files: their places in a list that only grows.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use peerfs_format::{DataFile, SLOT_SIZE};

use crate::directory::{StoreDirectory, READABLE};
use crate::{layout, whole_file, Result};

/// Names that are known at the most, whatever a file has: those of some 4 TiB of packs. Numbers have 24 bits, of which one
/// means none.
const NAMES_MAX: usize = 1 << 18;
/// Names that are read at once.
const BATCH: usize = 4096;

/// The list: the file, and a copy of it.
pub(super) struct Names {
    directory: Arc<StoreDirectory>,
    file: Option<File>,
    names: Vec<Option<DataFile>>,
    numbers: HashMap<DataFile, u32>,
}

impl Names {
    pub(super) fn new(directory: &Arc<StoreDirectory>) -> Self {
        Names {
            directory: directory.clone(),
            file: None,
            names: Vec::new(),
            numbers: HashMap::new(),
        }
    }

    /// The name with a number; None if there is none.
    pub(super) fn get(&mut self, number: u32) -> Result<Option<DataFile>> {
        if self.names.len() <= number as usize {
            self.read_on()?;
        }
        Ok(self.names.get(number as usize).copied().flatten())
    }

    /// The number of a name, which gets one if it has none and there are numbers left. To be called by whoever holds the
    /// lock for changes.
    pub(super) fn number(&mut self, name: &DataFile) -> Result<Option<u32>> {
        if let Some(number) = self.numbers.get(name) {
            return Ok(Some(*number));
        }
        self.read_on()?;
        if let Some(number) = self.numbers.get(name) {
            return Ok(Some(*number));
        }
        if self.names.len() >= NAMES_MAX {
            return Ok(None);
        }
        let path = layout::CATALOGUE_NAMES;
        let file = match self.file.take() {
            Some(file) => file,
            None => self.directory.write_or_create(path, READABLE)?,
        };
        let mut bytes = Vec::with_capacity(SLOT_SIZE);
        name.write_to(|piece| bytes.extend_from_slice(piece));
        let offset = self.names.len() as u64 * SLOT_SIZE as u64;
        let written = file.write_all_at(&bytes, offset);
        self.file = Some(file);
        written.map_err(self.directory.failed("write to", path))?;
        Ok(Some(self.add(Some(*name))))
    }

    fn add(&mut self, name: Option<DataFile>) -> u32 {
        let number = self.names.len() as u32; // at most NAMES_MAX
        self.names.push(name);
        if let Some(name) = name {
            self.numbers.entry(name).or_insert(number);
        }
        number
    }

    /// Takes in what others have added.
    fn read_on(&mut self) -> Result<()> {
        let path = layout::CATALOGUE_NAMES;
        if self.file.is_none() {
            let opened = self.directory.write(path);
            self.file = opened.or_else(|_| self.directory.read(path))?;
        }
        let Some(file) = &self.file else {
            return Ok(());
        };
        let mut bytes = vec![0; BATCH * SLOT_SIZE];
        let mut found = Vec::new();
        loop {
            let offset = (self.names.len() + found.len()) as u64 * SLOT_SIZE as u64;
            let count = whole_file::read_at(file, &mut bytes, offset);
            let count = count.map_err(self.directory.failed("read", path))?;
            let slots = bytes
                .get(..count)
                .unwrap_or_default()
                .chunks_exact(SLOT_SIZE);
            if slots.len() == 0 || self.names.len() + found.len() >= NAMES_MAX {
                break;
            }
            found.extend(slots.map(DataFile::parse));
        }
        for name in found {
            self.add(name);
        }
        Ok(())
    }
}
