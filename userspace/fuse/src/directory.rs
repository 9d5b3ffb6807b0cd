// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Directories that are being read.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use peerfs_store::{Entry, Error, Image};

use crate::reader::FilledStore;

/// Directories of which all entries are kept. One is read in many pieces, each of which goes on where the one before
/// ended; the kernel keeps what it has read.
const KEPT: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// All of a directory.
pub(crate) struct Listing {
    /// The directory.
    pub(crate) number: u64,
    /// Its parent.
    pub(crate) parent: u64,
    pub(crate) entries: Vec<Entry>,
}

/// The directories that were read last.
pub(crate) struct Listings(Mutex<LruCache<u64, Arc<Listing>>>);

impl Listings {
    pub(crate) fn new() -> Self {
        Listings(Mutex::new(LruCache::new(KEPT)))
    }

    /// All of a directory.
    ///
    /// # Errors
    /// Those of reading metadata.
    pub(crate) fn get(
        &self,
        image: &Image<FilledStore>,
        number: u64,
    ) -> Result<Arc<Listing>, Error> {
        // A cache is valid after every step.
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listing) = lock().get(&number) {
            return Ok(Arc::clone(listing));
        }
        let directory = image.inode(number)?;
        let mut entries = Vec::new();
        image.for_each_entry(&directory, |entry| {
            entries.push(entry);
            Ok::<_, Error>(())
        })?;
        let listing = Arc::new(Listing {
            number,
            parent: directory.record().link,
            entries,
        });
        lock().put(number, Arc::clone(&listing));
        Ok(listing)
    }
}
