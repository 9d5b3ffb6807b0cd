// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Files that are read as a whole, and written so that they are there as a whole or not at all.

use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::NamedTempFile;

/// A file's content, of at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let file = File::open(path)?;
    file.take(limit.saturating_add(1))
        .read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        let message = format!("more than {limit} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(content)
}

/// A new file in `tmp`, which everybody may read.
pub(crate) fn create(tmp: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(tmp)
}

/// Writes `content` to `path`, by way of a file in `tmp`, and replaces what is there.
pub(crate) fn replace(tmp: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = create(tmp)?;
    file.write_all(content)?;
    file.as_file().sync_data()?;
    file.persist(path)?;
    Ok(())
}

/// Brings the names in a directory to the disk.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
