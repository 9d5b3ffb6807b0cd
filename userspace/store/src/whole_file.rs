// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Files that are read as a whole, and written so that they are there as a whole or not at all.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::directory::StoreDirectory;
use crate::temporary_file::TemporaryFile;
use crate::{Error, Result};

/// A file's content, of at most `limit` bytes; None if there is no such file.
///
/// # Errors
/// [`Error::NotARegularFile`] or [`Error::Io`], for a longer file of the kind `FileTooLarge`.
pub(crate) fn read(directory: &StoreDirectory, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
    match directory.read(name)? {
        Some(file) => read_all(&file, limit)
            .map(Some)
            .map_err(Error::io("read", &directory.path(name))),
        None => Ok(None),
    }
}

/// The content of an open file, of at most `limit` bytes, however long it says that it is.
pub(crate) fn read_all(file: &File, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(limit.saturating_add(1))
        .read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        let message = format!("more than {limit} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(content)
}

/// Reads at `offset` until the buffer is full or the file ends, and returns how much that was.
pub(crate) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes `content` to a file, by way of another one, and replaces what is there.
///
/// # Errors
/// [`Error::Io`]; nothing has changed then.
pub(crate) fn replace(directory: &Arc<StoreDirectory>, name: &str, content: &[u8]) -> Result<()> {
    let write = || {
        let file = TemporaryFile::create(directory)?;
        file.file().write_all(content)?;
        file.persist(name)
    };
    write().map_err(Error::io("create", &directory.path(name)))
}
