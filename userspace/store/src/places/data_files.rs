// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The data files of a store, opened by kind and name.

use std::fs::File;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use lru::LruCache;
use peerfs_format::DataFile;

use super::changes::{ChangeLock, Changes, Noting};
use super::loose::LooseWriter;
use crate::directory::StoreDirectory;
use crate::lock::lock;
use crate::{layout, Error, Result};

/// Data files that are kept open.
const OPEN_FILES: NonZeroUsize = NonZeroUsize::new(128).expect("128 is not 0");

/// The data files of a store. Opens each once for all who read chunks in it.
pub(crate) struct DataFiles {
    directory: Arc<StoreDirectory>,
    open: Mutex<LruCache<DataFile, Arc<File>>>,
    loose: LooseWriter,
    changes: Changes,
}

impl DataFiles {
    pub(crate) fn new(directory: &Arc<StoreDirectory>) -> Self {
        DataFiles {
            directory: directory.clone(),
            open: Mutex::new(LruCache::new(OPEN_FILES)),
            loose: LooseWriter::new(directory),
            changes: Changes::new(directory),
        }
    }

    pub(crate) fn directory(&self) -> &Arc<StoreDirectory> {
        &self.directory
    }

    /// A data file, to be read; None if it is not there, or if something else has its name.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn open(&self, name: &DataFile) -> Result<Option<Arc<File>>> {
        if let Some(file) = lock(&self.open).get(name) {
            return Ok(Some(file.clone()));
        }
        for path in paths(name) {
            match self.directory.read(&path) {
                Ok(None) | Err(Error::NotARegularFile(_)) => (),
                Ok(Some(file)) => {
                    let file = Arc::new(file);
                    lock(&self.open).put(*name, file.clone());
                    return Ok(Some(file));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Forgets an open file: another one may have its name by now.
    pub(crate) fn forget(&self, name: &DataFile) {
        lock(&self.open).pop(name);
    }

    /// Forgets all open files: some may have been removed.
    pub(crate) fn forget_all(&self) {
        lock(&self.open).clear();
    }

    /// Whether there is a file of this name.
    pub(crate) fn exists(&self, name: &DataFile) -> bool {
        paths(name).any(|path| self.directory.has_file(&path))
    }

    /// Appends a chunk's stored bytes to a loose file, and returns which one and where it is in it.
    ///
    /// # Errors
    /// [`Error::Io`] if the disk is full or fails.
    pub(crate) fn append(&self, stored: &[u8]) -> Result<(DataFile, u64)> {
        self.loose.append(stored)
    }

    /// A number that is another one after each collection of this process: what was written before one, and not entered, may
    /// be gone.
    pub(crate) fn own_collections(&self) -> u64 {
        self.changes.own_collections()
    }

    /// Has all that is entered noted: see [`ChangeLock::noted`].
    pub(crate) fn note_entries(&self) -> Noting<'_> {
        self.changes.note_entries()
    }

    /// Waits for the right to change tables of places.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process does not give it up, [`Error::NotARegularFile`], [`Error::Io`].
    pub(crate) fn lock_changes(&self) -> Result<ChangeLock<'_>> {
        self.changes.lock()
    }
}

/// The paths at which a data file may be: the first one that is there is it.
fn paths(name: &DataFile) -> impl Iterator<Item = String> {
    let paths = match name {
        DataFile::Pack(pack, index) => {
            [Some(layout::partial(pack, index)), Some(layout::blob(pack))]
        }
        DataFile::Loose(number) => [Some(layout::loose(*number)), None],
    };
    paths.into_iter().flatten()
}
