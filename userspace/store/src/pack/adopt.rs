// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Chunks of a pack that the store has already, by another pack.

use peerfs_format::{ChunkRecord, DataFile, Digest};

use super::state::read_stored_at;
use super::{Pack, State};
use crate::Result;

/// How often what was found is looked at again because something was given up meanwhile.
const TRIES: usize = 3;

/// A chunk that was found, and where.
struct Found {
    chunk: u32,
    name: DataFile,
    offset: u64,
}

impl Pack {
    /// Looks in the rest of the store for chunks that are missing, and enters where they are. Returns those that
    /// are still missing, and whether it is time to [`Pack::complete`] the pack.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) if there is no such chunk; [`Error::Io`](crate::Error::Io) if the
    /// store can't be read or changed.
    pub fn adopt(&self, chunks: impl IntoIterator<Item = u32>) -> Result<(Vec<u32>, bool)> {
        let is_missing = |chunk: &u32| !self.has(*chunk);
        let mut missing: Vec<u32> = chunks.into_iter().filter(is_missing).collect();
        if missing.is_empty() || !self.is_for_filling() {
            return Ok((missing, false));
        }
        for _ in 0..TRIES {
            // What is collected from here on may be what is found.
            let collections = self.store.data_files.lock_changes()?.collections();
            let found = self.find_elsewhere(&missing)?;
            if found.is_empty() {
                break;
            }
            let changes = self.store.data_files.lock_changes()?;
            if changes.collections() != collections {
                continue;
            }
            let mut state = self.lock();
            let State::Places(places) = &mut *state else {
                return Ok((Vec::new(), false));
            };
            for found in &found {
                self.enter(&changes, places, found.chunk, &found.name, found.offset)?;
            }
            missing.retain(|chunk| !places.table.has(*chunk));
            let is_full = places.table.is_full();
            drop(state);
            found.iter().for_each(|found| self.tell_came(found.chunk));
            return Ok((missing, is_full));
        }
        Ok((missing, false))
    }

    /// Those of some chunks that the catalogue leads to, verified.
    fn find_elsewhere(&self, chunks: &[u32]) -> Result<Vec<Found>> {
        let records = chunks.iter().map(|chunk| Ok((*chunk, self.chunk(*chunk)?)));
        let records: Vec<(u32, ChunkRecord)> = records.collect::<Result<_>>()?;
        let digests: Vec<Digest> = records.iter().map(|(_, record)| record.digest).collect();
        let places = self.store.catalogue.find(&digests)?;
        let mut found = Vec::new();
        for ((chunk, record), place) in records.into_iter().zip(places) {
            let Some((name, offset)) = place else {
                continue;
            };
            let Some(file) = self.store.data_files.open(&name)? else {
                continue;
            };
            // What can't be read there is as good as nothing.
            if let Ok(Some(_)) = read_stored_at(&file, &record, offset) {
                found.push(Found {
                    chunk,
                    name,
                    offset,
                });
            }
        }
        Ok(found)
    }
}
