// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is known of names, on the disk: a file for each, called by the name's topic.

use std::collections::HashMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use peerfs_format::Digest;
use peerfs_names::{InvalidKnown, KnownName, LatestTime, KNOWN_MAX};
use peerfs_text::Causes;

use crate::state_file;

/// Why what is known of a name can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refused something.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is in the file is not understood.
    #[error("{} is not valid; mend it or, if the name may go back to an older record, remove it, and start peerfsd anew", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Why.
        source: InvalidKnown,
    },
    /// The file is called by another name's topic.
    #[error("{} has what is known of another name; remove it, and start peerfsd anew", .0.display())]
    Misplaced(PathBuf),
}

/// The file of the latest time. It is no topic.
const LATEST_TIME: &str = "latest-time";
/// The most bytes of it.
const LATEST_TIME_MAX: u64 = 1024;

/// What is in the folder, by topics; or why it is not known.
pub(super) type Loaded = HashMap<Digest, Result<KnownName, FileError>>;

/// The folder.
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Opens the folder, which is made if it does not exist, and reads what is in it.
    pub(super) fn load(path: &Path) -> Result<(Self, Loaded), FileError> {
        let failed = |source| FileError::Io {
            path: path.to_owned(),
            source,
        };
        let make = DirBuilder::new().recursive(true).mode(0o700).create(path);
        make.map_err(failed)?;
        let folder = Folder(path.to_owned());
        let mut loaded = HashMap::new();
        for entry in fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // What is called otherwise was being written when somebody died.
            let topic = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            if let Some(topic) = topic {
                loaded.insert(topic, folder.read(&topic));
            }
        }
        Ok((folder, loaded))
    }

    fn read(&self, topic: &Digest) -> Result<KnownName, FileError> {
        let path = self.path(topic);
        let text = match state_file::read(&path, KNOWN_MAX as u64) {
            Ok(text) => text,
            Err(source) => return Err(FileError::Io { path, source }),
        };
        match KnownName::parse(&text) {
            Ok(known) if known.name().topic() == *topic => Ok(known),
            Ok(_) => Err(FileError::Misplaced(path)),
            Err(source) => Err(FileError::Invalid { path, source }),
        }
    }

    /// Brings what is known of a name to the disk.
    pub(super) fn save(&self, known: &KnownName) -> Result<(), FileError> {
        let path = self.path(&known.name().topic());
        let saved = state_file::replace(&path, known.to_text().as_bytes());
        saved.map_err(|source| FileError::Io { path, source })
    }

    /// The latest time that was saved; none was seen if it can't be read, which is told.
    pub(super) fn latest_time(&self) -> LatestTime {
        let path = self.0.join(LATEST_TIME);
        let parsed = match state_file::read(&path, LATEST_TIME_MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return LatestTime::default(),
            read => read.and_then(|text| Ok(LatestTime::parse(&text)?)),
        };
        parsed.unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), error = %Causes(&error), "the latest time is not known");
            LatestTime::default()
        })
    }

    /// Brings the latest time to the disk.
    pub(super) fn save_latest_time(&self, latest: LatestTime) -> Result<(), FileError> {
        let path = self.0.join(LATEST_TIME);
        let saved = state_file::replace(&path, latest.to_text().as_bytes());
        saved.map_err(|source| FileError::Io { path, source })
    }

    fn path(&self, topic: &Digest) -> PathBuf {
        self.0.join(topic.to_string())
    }
}
