// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The file of a key: who may read it, and how it is made.

use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use peerfs_sys::secret_file::{self, SecretError};
use peerfs_text::printable;
use zeroize::Zeroizing;

use crate::{InvalidRealmKey, RealmKey};

/// The most bytes of a file: a key has 84.
const LENGTH_MAX: u64 = 4096;
/// What nobody but the owner may do with it, besides reading by its group.
const FORBIDDEN: u32 = 0o037;

/// Why the file of a key can't be used or made.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// There is none.
    #[error(
        "there is no realm key {}: whoever makes the realm's images has a copy; `peerfs key realm` makes the key of a \
         new realm",
        printable(.0)
    )]
    Missing(PathBuf),
    /// Others may know it.
    #[error(
        "the realm key {} may be read or written by others than its owner and group: `chmod 600` it, and make the \
         images anew with another key if somebody may have read this one",
        printable(.0)
    )]
    Exposed(PathBuf),
    /// It has another text.
    #[error("{} is no realm key", printable(path))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: InvalidRealmKey,
    },
    /// It is no file, or too long for one.
    #[error("{} is no file of a realm key", printable(.0))]
    NoKey(PathBuf),
    /// There is something in its place.
    #[error("{} exists, and a key is never written over", printable(.0))]
    Exists(PathBuf),
    /// The system refused something.
    #[error("can't {action} the realm key {}", printable(path))]
    Io {
        /// The action that failed, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no key to be written.
    #[error("can't make a realm key")]
    Generate(#[source] InvalidRealmKey),
}

/// The key in a file that its owner alone may write, and its group read.
///
/// # Errors
/// If it is missing, may be read by others, or is no key.
pub fn read(path: &Path) -> Result<RealmKey, KeyFileError> {
    let is_private = |metadata: &std::fs::Metadata| metadata.mode() & FORBIDDEN == 0;
    let text = secret_file::read(path, LENGTH_MAX, is_private).map_err(|error| {
        let path = path.to_owned();
        match error {
            SecretError::Missing => KeyFileError::Missing(path),
            SecretError::NoFile => KeyFileError::NoKey(path),
            SecretError::Exposed => KeyFileError::Exposed(path),
            SecretError::Io(source) => KeyFileError::Io {
                action: "read",
                path,
                source,
            },
        }
    })?;
    RealmKey::parse(&text).map_err(|source| KeyFileError::Invalid {
        path: path.to_owned(),
        source,
    })
}

/// The key in what somebody else has read or decrypted, and gives: of files no more is known than that.
///
/// # Errors
/// If it is no key.
pub fn read_stream(stream: impl Read) -> Result<RealmKey, KeyFileError> {
    let path = PathBuf::from("-");
    // With room for all of it, so that no part is left where it was smaller.
    let mut text = Zeroizing::new(String::with_capacity(LENGTH_MAX as usize));
    let read = stream.take(LENGTH_MAX).read_to_string(&mut text);
    match read.map(|_| RealmKey::parse(&text)) {
        Ok(Ok(key)) => Ok(key),
        Ok(Err(source)) => Err(KeyFileError::Invalid { path, source }),
        Err(source) => Err(KeyFileError::Io {
            action: "read",
            path,
            source,
        }),
    }
}

/// Makes a file with a new key that its owner alone may read: whole or not at all, and never over another one.
///
/// # Errors
/// If there is something in its place, or it can't be written.
pub fn create(path: &Path) -> Result<RealmKey, KeyFileError> {
    let key = RealmKey::generate().map_err(KeyFileError::Generate)?;
    write(path, &key)?;
    Ok(key)
}

/// Makes a file with a key that its owner alone may read: whole or not at all, and never over another one.
///
/// # Errors
/// If there is something in its place, or it can't be written.
pub fn write(path: &Path, key: &RealmKey) -> Result<(), KeyFileError> {
    secret_file::create(path, key.to_text().as_bytes()).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => KeyFileError::Exists(path.to_owned()),
        _ => KeyFileError::Io {
            action: "write",
            path: path.to_owned(),
            source,
        },
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_read_only_where_it_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("realm.key");
        assert!(matches!(read(&path), Err(KeyFileError::Missing(_))));
        let key = create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(matches!(create(&path), Err(KeyFileError::Exists(_))));
        for (mode, is_private) in [(0o600, true), (0o640, true), (0o660, false), (0o604, false)] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let found = read(&path).map(|found| found.id());
            assert_eq!(found.ok(), is_private.then(|| key.id()), "{mode:o}");
        }
        assert!(matches!(read(folder.path()), Err(KeyFileError::NoKey(_))));
        let other = folder.path().join("other");
        secret_file::create(&other, b"a word").unwrap();
        assert!(matches!(read(&other), Err(KeyFileError::Invalid { .. })));
        let text = fs::read(&path).unwrap();
        assert_eq!(read_stream(&*text).unwrap().id(), key.id());
        let endless = io::repeat(b'0');
        assert!(matches!(
            read_stream(endless),
            Err(KeyFileError::Invalid { .. })
        ));
    }
}
