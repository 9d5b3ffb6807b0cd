// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A file that gets its name when it is complete.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use rustix::fs::{flock, FlockOperation};

use crate::directory::StoreDirectory;
use crate::layout;

/// Names that are tried for a file: others are in use by processes of the same number, in another
/// container or before a restart.
const ATTEMPTS: u32 = 1000;

/// A file in `tmp/` that is being written. Where the file system can do that it has no name, so that
/// nothing is left of it whatever ends the process; elsewhere dropping it removes it, and what a
/// process that was killed has left is removed when the store is opened for writing the next time.
pub struct TemporaryFile {
    directory: Arc<StoreDirectory>,
    file: File,
    name: Option<String>,
}

impl TemporaryFile {
    pub(crate) fn create(directory: &Arc<StoreDirectory>) -> io::Result<Self> {
        match directory.create_nameless(layout::TMP)? {
            Some(file) => Self::new(directory, file, None),
            None => Self::create_named(directory),
        }
    }

    fn create_named(directory: &Arc<StoreDirectory>) -> io::Result<Self> {
        let (file, name) = with_new_name(|name| directory.create_new(name))?;
        Self::new(directory, file, Some(name))
    }

    fn new(directory: &Arc<StoreDirectory>, file: File, name: Option<String>) -> io::Result<Self> {
        let created = TemporaryFile {
            directory: directory.clone(),
            file,
            name,
        };
        // Says to other processes that the file is in use: see Store::remove_abandoned.
        flock(&created.file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(created)
    }

    /// The file, to be written to and read.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Brings the content to the disk and gives the file its name, which what had it before loses.
    pub(crate) fn persist(mut self, name: &str) -> io::Result<()> {
        self.file.sync_data()?;
        let from = match self.name.take() {
            Some(name) => name,
            None => with_new_name(|name| self.directory.link(&self.file, name))?.1,
        };
        // Until it has its final name it is removed if anything fails.
        let from = self.name.insert(from);
        self.directory.rename(from, name)?;
        self.name = None;
        Ok(())
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // Otherwise it is removed as abandoned.
            let _ = self.directory.remove(name);
        }
    }
}

fn with_new_name<T>(act: impl Fn(&str) -> io::Result<T>) -> io::Result<(T, String)> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let mut failed = io::Error::from(io::ErrorKind::AlreadyExists);
    for _ in 0..ATTEMPTS {
        let name = layout::temporary(NUMBER.fetch_add(1, Ordering::Relaxed));
        match act(&name) {
            Ok(done) => return Ok((done, name)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => failed = error,
            Err(error) => return Err(error),
        }
    }
    Err(failed)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_that_had_to_have_a_name_leaves_nothing_either() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Arc::new(StoreDirectory::open(folder.path()).unwrap());
        let created = TemporaryFile::create_named(&directory).unwrap();
        assert_eq!(directory.names(layout::TMP).unwrap().len(), 1);
        drop(created);
        for content in [b"first", b"again"] {
            let file = TemporaryFile::create_named(&directory).unwrap();
            file.file().write_all(content).unwrap();
            file.persist(layout::INDEX).unwrap();
            let written = std::fs::read(folder.path().join(layout::INDEX)).unwrap();
            assert_eq!(written, content);
        }
        assert!(directory.names(layout::TMP).unwrap().is_empty());
    }
}
