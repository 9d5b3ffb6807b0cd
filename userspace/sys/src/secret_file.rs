// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Files of secrets: who may read them, and how they are made.

use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use zeroize::Zeroizing;

/// Why a secret is not read.
#[derive(Debug)]
pub enum SecretError {
    /// There is none.
    Missing,
    /// It is no file, or too long for one.
    NoFile,
    /// Others may know it.
    Exposed,
    /// The system says why.
    Io(io::Error),
}

impl From<io::Error> for SecretError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => SecretError::Missing,
            _ => SecretError::Io(error),
        }
    }
}

/// The text of a file of at most `length_max` bytes that is private, as its metadata say.
///
/// # Errors
/// [`SecretError`].
pub fn read(
    path: &Path,
    length_max: u64,
    is_private: impl Fn(&Metadata) -> bool,
) -> Result<Zeroizing<String>, SecretError> {
    // What was looked at is what is read; nobody who should write to it is waited for.
    let file = File::options()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > length_max {
        return Err(SecretError::NoFile);
    }
    if !is_private(&metadata) {
        return Err(SecretError::Exposed);
    }
    // With room for all of it, so that no part is left where it was smaller.
    let mut text = Zeroizing::new(String::with_capacity(length_max as usize));
    file.take(length_max).read_to_string(&mut text)?;
    Ok(text)
}

/// Makes a file that its owner alone may read: whole or not at all, and never over another one. Its directory exists.
///
/// # Errors
/// What the system says; [`io::ErrorKind::AlreadyExists`] if there is something in its place.
pub fn create(path: &Path, secret: &[u8]) -> io::Result<()> {
    let folder = directory_of(path);
    // Temporary files have mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(secret)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}

/// The directory that a file is in.
pub fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}
