// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Files that the user may not read: all are found before the build fails, not one a run.

use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{Error, Result};

/// The most files that a message lists.
const LISTED: usize = 50;

/// The files of the tree that could not be read. Once there is one, nothing is built any more: the others are
/// only looked for.
#[derive(Default)]
pub(crate) struct Unreadable {
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    paths: Vec<PathBuf>,
    more: u64,
}

impl Unreadable {
    /// Notes the file of an error that says that its reader lacks the permission, and returns None then.
    ///
    /// # Errors
    /// All other errors.
    pub(crate) fn note<T>(&self, outcome: Result<T>) -> Result<Option<T>> {
        match outcome {
            Err(Error::Io { path, source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                let mut found = self.lock();
                if found.paths.len() < LISTED {
                    found.paths.push(path);
                } else {
                    found.more += 1;
                }
                Ok(None)
            }
            outcome => outcome.map(Some),
        }
    }

    /// Whether all files could be read so far.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().paths.is_empty()
    }

    /// Fails if there are any.
    pub(crate) fn check(self) -> Result<()> {
        let Found { mut paths, more } = self
            .found
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        if paths.is_empty() {
            return Ok(());
        }
        // Found by many threads.
        paths.sort_unstable();
        Err(Error::Unreadable { paths, more })
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
