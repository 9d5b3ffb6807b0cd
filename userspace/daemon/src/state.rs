// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The directory of what is this node's own and nobody else's: its key, whom it has banned, and what its users have
//! pinned. Not in the store, which is there to be copied and served: two nodes with one key are one node to all others.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::unistd::geteuid;

/// Why the directory, or the key in it, can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The system refused something.
    #[error("cannot use the state directory {}; name another with --state-dir or state_dir", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another daemon uses it: they would be one node to their peers.
    #[error(
        "another peerfsd uses the state directory {}; give each its own with --state-dir or state_dir",
        .0.display()
    )]
    InUse(PathBuf),
    /// Others may put another key there.
    #[error(
        "others than its owner may change the state directory {}: `chmod go-w` it, or name another with \
         --state-dir or state_dir",
        .0.display()
    )]
    Exposed(PathBuf),
    /// The key can't be looked at.
    #[error("cannot use the node's key {}", path.display())]
    Key {
        /// The key's file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The key is no secret of this node's.
    #[error(
        "the node's key {} is not a file that only the user of this daemon may read: make it so with `chown` and \
         `chmod 600`, or remove it for a new key if somebody else may have read it",
        .0.display()
    )]
    KeyExposed(PathBuf),
}

/// The directory, in the use of this process alone as long as this lives.
pub struct StateDirectory {
    path: PathBuf,
    _lock: Flock<File>,
}

impl StateDirectory {
    /// Takes the directory, and makes it if it does not exist.
    ///
    /// # Errors
    /// If another daemon has it, or if others may change it.
    pub fn take(path: &Path) -> Result<Self, StateError> {
        let failed = |source| StateError::Directory {
            path: path.to_owned(),
            source,
        };
        let make = DirBuilder::new().recursive(true).mode(0o700).create(path);
        make.map_err(failed)?;
        if path.metadata().map_err(failed)?.mode() & 0o022 != 0 {
            return Err(StateError::Exposed(path.to_owned()));
        }
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
            .open(path.join("lock"))
            .map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(StateDirectory {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err((_, Errno::EWOULDBLOCK)) => Err(StateError::InUse(path.to_owned())),
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }

    /// Where banned peers are remembered.
    pub fn ban_list(&self) -> PathBuf {
        self.path.join("banned-peers")
    }

    /// The folder with what is known of names.
    pub fn names(&self) -> PathBuf {
        self.path.join("names")
    }

    /// The folder with what is remembered of images that are kept for others.
    pub fn replicas(&self) -> PathBuf {
        self.path.join("replicas")
    }

    /// Where the images are remembered that users have pinned.
    pub fn pins(&self) -> PathBuf {
        self.path.join("pins.json")
    }
}

/// Refuses a key that others may know. One that does not exist yet is made as it should be.
///
/// # Errors
/// If it is no file, belongs to another user, or may be read by others.
pub fn check_key(path: &Path) -> Result<(), StateError> {
    let metadata = match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(|source| StateError::Key {
            path: path.to_owned(),
            source,
        })?,
    };
    let is_ours = metadata.uid() == geteuid().as_raw();
    if metadata.is_file() && is_ours && metadata.mode() & 0o077 == 0 {
        Ok(())
    } else {
        Err(StateError::KeyExposed(path.to_owned()))
    }
}

/// A key of this name that the service manager has unsealed for this process, or got from elsewhere (systemd.exec(5),
/// "Credentials"): whoever may read it is decided there.
pub fn credential(name: &str) -> Option<PathBuf> {
    let directory = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?);
    let key = directory.join(name);
    (key.is_absolute() && key.exists()).then_some(key)
}

/// Where the state is unless the user says otherwise.
pub fn default_path() -> PathBuf {
    const OF_THE_SYSTEM: &str = "/var/lib/peerfsd";
    // systemd has made it for the user of this daemon, which need not be root.
    let made = std::env::var_os("STATE_DIRECTORY").is_some_and(|directories| {
        std::env::split_paths(&directories).any(|path| path == Path::new(OF_THE_SYSTEM))
    });
    if made {
        return OF_THE_SYSTEM.into();
    }
    if geteuid().is_root() {
        return OF_THE_SYSTEM.into();
    }
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let of_user = variable("XDG_STATE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| Some(variable("HOME")?.join(".local/state")));
    of_user.map_or_else(|| OF_THE_SYSTEM.into(), |state| state.join("peerfsd"))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn one_daemon_has_it_and_nobody_else_may_change_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/state");
        let state = StateDirectory::take(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        let second = StateDirectory::take(&path).map(|_| ());
        assert!(matches!(second, Err(StateError::InUse(_))));
        drop(state);
        fs::set_permissions(&path, Permissions::from_mode(0o770)).unwrap();
        let exposed = StateDirectory::take(&path).map(|_| ());
        assert!(matches!(exposed, Err(StateError::Exposed(_))));
    }

    #[test]
    fn a_key_that_others_may_know_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        check_key(&key).unwrap();
        fs::write(&key, b"secret").unwrap();
        for (mode, is_private) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            fs::set_permissions(&key, Permissions::from_mode(mode)).unwrap();
            assert_eq!(check_key(&key).is_ok(), is_private, "{mode:o}");
        }
        assert!(check_key(folder.path()).is_err());
    }
}
