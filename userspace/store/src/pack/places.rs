// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a builder does with the places of a pack, beside whoever fills it.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use peerfs_format::{DataFile, PackRecord};

use super::state::{check_index, open_own, own_name, State};
use super::{Pack, PackStore};
use crate::{layout, Error, Result};

impl Pack {
    /// Opens the places of a pack to enter some, even beside a whole one; makes a table if there is none.
    pub(crate) fn open_places(
        store: &Arc<PackStore>,
        record: &PackRecord,
        index: Vec<u8>,
    ) -> Result<Self> {
        let layout = check_index(record, &index)?;
        let state = State::open_places(&store.data_files, record)?;
        Ok(Self::new(store, record, (index, layout), true, state))
    }

    /// The data file in which a chunk is, and where in it; None if it is not here.
    pub(crate) fn location(&self, chunk: u32) -> Result<Option<(DataFile, u64)>> {
        let offset = self.chunk(chunk)?.stored_offset.into();
        Ok(match &*self.lock() {
            State::Whole(_) => Some((own_name(&self.record), offset)),
            State::Places(places) => places.table.place(chunk),
        })
    }

    /// The pack's own file, made if it is not there.
    pub(crate) fn open_own(&self) -> Result<Arc<File>> {
        open_own(self.store.data_files.directory(), &self.record)
    }

    /// Writes a chunk to the pack's own file, at its offset in the pack, or to a loose one; returns where it is.
    pub(crate) fn write(
        &self,
        own: Option<&File>,
        stored: &[u8],
        offset: u64,
    ) -> Result<(DataFile, u64)> {
        let Some(own) = own else {
            return self.store.data_files.append(stored);
        };
        own.write_all_at(stored, offset)
            .map_err(Error::io("write to", &self.path()))?;
        Ok((own_name(&self.record), offset))
    }

    /// Enters where a chunk is.
    pub(crate) fn enter_place(&self, chunk: u32, name: &DataFile, offset: u64) -> Result<()> {
        let changes = self.store.data_files.lock_changes()?;
        match &mut *self.lock() {
            State::Places(places) => self.enter(&changes, places, chunk, name, offset),
            State::Whole(_) => Ok(()),
        }
    }

    /// Brings the table and the data files that it names to the disk, whoever has written to them.
    pub(crate) fn sync(&self, names: &HashSet<DataFile>) -> Result<()> {
        let data_files = &self.store.data_files;
        for name in names {
            if let Some(file) = data_files.open(name)? {
                file.sync_data()
                    .map_err(Error::io("write to", &self.path()))?;
            }
        }
        if let State::Places(places) = &*self.lock() {
            places.table.sync()?;
        }
        let directory = data_files.directory();
        for name in [layout::PARTIALS, layout::LOOSE, layout::PLACES] {
            directory
                .sync(name)
                .map_err(directory.failed("write to", name))?;
        }
        Ok(())
    }
}
