// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The file of a key: who may read it, and how it is made.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use peerfs_sys::secret_file::{self, SecretError};
use peerfs_text::printable;
use rustix::process::geteuid;

use crate::{InvalidSwarmKey, SwarmKey};

/// The most bytes of a file: a key has 96.
const LENGTH_MAX: u64 = 4096;
/// What nobody but the owner may do with it, besides reading by its group.
const FORBIDDEN: u32 = 0o037;

/// Why the file of a key can't be used or made.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// There is none.
    #[error(
        "there is no swarm key {}: copy the one of the swarm's other nodes there, or make a new one with \
         `peerfs key swarm`",
        printable(.0)
    )]
    Missing(PathBuf),
    /// Others may know it.
    #[error(
        "the swarm key {} may be read by others than its owner and group, or belongs to another user: `chown` and \
         `chmod 600` it, and give the swarm a new key if somebody may have read this one",
        printable(.0)
    )]
    Exposed(PathBuf),
    /// It has another text.
    #[error("{} is no swarm key", printable(path))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: InvalidSwarmKey,
    },
    /// It is no file, or too long for one.
    #[error("{} is no file of a swarm key", printable(.0))]
    NoKey(PathBuf),
    /// There is something in its place.
    #[error("{} exists, and a key is never written over", printable(.0))]
    Exists(PathBuf),
    /// The system refused something.
    #[error("can't read the swarm key {}", printable(path))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system refused something.
    #[error("can't write the swarm key {}", printable(path))]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no key to be written.
    #[error("can't make a swarm key")]
    Generate(#[source] InvalidSwarmKey),
}

/// The key in a file that its owner alone may write, and its group read; the owner is the user of this process, or root.
///
/// # Errors
/// If it is missing, may be read by others, or is no key.
pub fn read(path: &Path) -> Result<SwarmKey, KeyFileError> {
    read_if(path, |metadata| {
        let owner = metadata.uid();
        is_closed(metadata) && (owner == geteuid().as_raw() || owner == 0)
    })
}

/// The same, whoever owns it: to look at the key.
///
/// # Errors
/// If it is missing, may be read by others, or is no key.
pub fn read_of_anybody(path: &Path) -> Result<SwarmKey, KeyFileError> {
    read_if(path, is_closed)
}

/// The key in a file that the service manager has made for this process: who may read it is decided there.
///
/// # Errors
/// If it is missing, or is no key.
pub fn read_credential(path: &Path) -> Result<SwarmKey, KeyFileError> {
    read_if(path, |_| true)
}

/// Makes a file with a new key that its owner alone may read: whole or not at all, and never over another one.
///
/// # Errors
/// If there is something in its place, or it can't be written.
pub fn create(path: &Path) -> Result<SwarmKey, KeyFileError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => KeyFileError::Exists(path.to_owned()),
        _ => KeyFileError::Write {
            path: path.to_owned(),
            source,
        },
    };
    let key = SwarmKey::generate().map_err(KeyFileError::Generate)?;
    secret_file::create(path, key.to_text().as_bytes()).map_err(failed)?;
    Ok(key)
}

fn is_closed(metadata: &Metadata) -> bool {
    metadata.mode() & FORBIDDEN == 0
}

fn read_if(path: &Path, is_private: impl Fn(&Metadata) -> bool) -> Result<SwarmKey, KeyFileError> {
    let text = secret_file::read(path, LENGTH_MAX, is_private).map_err(|error| {
        let path = path.to_owned();
        match error {
            SecretError::Missing => KeyFileError::Missing(path),
            SecretError::NoFile => KeyFileError::NoKey(path),
            SecretError::Exposed => KeyFileError::Exposed(path),
            SecretError::Io(source) => KeyFileError::Read { path, source },
        }
    })?;
    SwarmKey::parse(&text).map_err(|source| KeyFileError::Invalid {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::io::Write;
    use std::os::unix::fs::{symlink, PermissionsExt};

    use super::*;

    #[test]
    fn a_key_is_made_once_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("swarm.key");
        let key = create(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(read(&path).unwrap().fingerprint() == key.fingerprint());
        assert!(matches!(create(&path), Err(KeyFileError::Exists(_))));
        assert!(read(&path).unwrap().fingerprint() == key.fingerprint());
        // Not through a link, either, and in no folder that is not there.
        let link = folder.path().join("link");
        symlink(folder.path().join("elsewhere"), &link).unwrap();
        assert!(matches!(create(&link), Err(KeyFileError::Exists(_))));
        let nowhere = create(&folder.path().join("new/swarm.key"));
        assert!(matches!(nowhere, Err(KeyFileError::Write { .. })));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_key_that_others_may_know_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("swarm.key");
        assert!(matches!(read(&path), Err(KeyFileError::Missing(_))));
        create(&path).unwrap();
        for (mode, is_private) in [
            (0o600, true),
            (0o400, true),
            (0o640, true),
            (0o660, false),
            (0o604, false),
            (0o644, false),
        ] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&path).is_ok(), is_private, "{mode:o}");
            assert_eq!(read_of_anybody(&path).is_ok(), is_private);
            assert!(read_credential(&path).is_ok());
        }
    }

    #[test]
    fn what_is_no_file_of_a_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("swarm.key");
        assert!(matches!(read(folder.path()), Err(KeyFileError::NoKey(_))));
        let mut file = tempfile::NamedTempFile::new_in(folder.path()).unwrap();
        file.write_all(&[0xff; 96]).unwrap();
        assert!(matches!(read(file.path()), Err(KeyFileError::Read { .. })));
        file.as_file().set_len(LENGTH_MAX + 1).unwrap();
        assert!(matches!(read(file.path()), Err(KeyFileError::NoKey(_))));
        // A FIFO without a writer.
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
        assert!(matches!(read(&path), Err(KeyFileError::NoKey(_))));
    }
}
