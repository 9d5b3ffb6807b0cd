// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The lock under which tables of places are changed, and what nobody needs is given up.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use peerfs_format::DataFile;
use rustix::fs::{flock, FlockOperation};

use crate::directory::{StoreDirectory, PRIVATE};
use crate::lock::lock;
use crate::{layout, Result};

/// The right to change tables of places, one at a time of all threads and processes.
pub(crate) struct Changes {
    directory: Arc<StoreDirectory>,
    /// The lock file, once it was needed.
    file: Mutex<Option<File>>,
    /// Collections of this process.
    own_collections: AtomicU64,
    /// What was entered since a collection of this process began to read what is needed; None if none does.
    entered: Mutex<Option<Ranges>>,
}

/// Ranges of bytes of data files, in no order: where each begins and ends.
pub(crate) type Ranges = HashMap<DataFile, Vec<(u64, u64)>>;

/// Has all that is entered noted, as long as it lives.
pub(crate) struct Noting<'a>(&'a Changes);

/// Held while a table is changed: for moments, or while a collection decides what is given up.
pub(crate) struct ChangeLock<'a> {
    file: MutexGuard<'a, Option<File>>,
    changes: &'a Changes,
}

impl ChangeLock<'_> {
    /// Says that bytes are needed from now on.
    pub(crate) fn note(&self, name: &DataFile, offset: u64, length: u32) {
        if let Some(entered) = &mut *lock(&self.changes.entered) {
            let end = offset.saturating_add(length.into());
            entered.entry(*name).or_default().push((offset, end));
        }
    }

    /// What was entered since the last time; 16 bytes for each chunk.
    pub(crate) fn noted(&self) -> Ranges {
        let mut entered = lock(&self.changes.entered);
        entered.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// A number that is another one after each collection: what was found before one may be gone.
    pub(crate) fn collections(&self) -> u64 {
        let mut count = [0; 8];
        let file = self.file.as_ref();
        let read = file.map(|file| file.read_exact_at(&mut count, 0));
        // The file is empty before the first one.
        match read {
            Some(Ok(())) => u64::from_le_bytes(count),
            _ => 0,
        }
    }

    /// Says that a collection begins.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub(crate) fn count_collection(&self, directory: &StoreDirectory) -> Result<()> {
        self.changes.own_collections.fetch_add(1, Ordering::Relaxed);
        let count = self.collections().wrapping_add(1).to_le_bytes();
        let file = self.file.as_ref();
        let written = file.map(|file| file.write_all_at(&count, 0));
        written
            .unwrap_or(Ok(()))
            .map_err(directory.failed("write to", layout::CHANGES))
    }
}

impl Changes {
    pub(crate) fn new(directory: &Arc<StoreDirectory>) -> Self {
        Changes {
            directory: directory.clone(),
            file: Mutex::new(None),
            own_collections: AtomicU64::new(0),
            entered: Mutex::new(None),
        }
    }

    /// Begins to note what is entered.
    pub(crate) fn note_entries(&self) -> Noting<'_> {
        *lock(&self.entered) = Some(Ranges::new());
        Noting(self)
    }

    /// A number that is another one after each collection of this process, which is the only one that can give up what
    /// this process fills: told without the lock, and compared with it.
    pub(crate) fn own_collections(&self) -> u64 {
        self.own_collections.load(Ordering::Relaxed)
    }

    /// Waits for the right.
    ///
    /// # Errors
    /// [`Error::Locked`](crate::Error::Locked) if another process does not give it up,
    /// [`Error::NotARegularFile`](crate::Error::NotARegularFile), [`Error::Io`](crate::Error::Io).
    pub(crate) fn lock(&self) -> Result<ChangeLock<'_>> {
        let mut guard = lock(&self.file);
        let file = match guard.take() {
            Some(file) => file,
            // Whoever may read a file may lock it.
            None => match self.directory.write_or_create(layout::CHANGES, PRIVATE) {
                // There is nothing to be locked of a store that can only be read: no change of it succeeds.
                Err(error) if error.is_read_only() => {
                    return Ok(ChangeLock {
                        file: guard,
                        changes: self,
                    })
                }
                file => file?,
            },
        };
        self.directory.lock(layout::CHANGES, guard.insert(file))?;
        Ok(ChangeLock {
            file: guard,
            changes: self,
        })
    }
}

impl Drop for Noting<'_> {
    fn drop(&mut self) {
        *lock(&self.0.entered) = None;
    }
}

impl Drop for ChangeLock<'_> {
    fn drop(&mut self) {
        if let Some(file) = &*self.file {
            // It cannot fail for a lock that is held; closing the file would give it up as well.
            let _ = flock(file, FlockOperation::Unlock);
        }
    }
}
