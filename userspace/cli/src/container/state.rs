// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The containers that there are: a folder each, which is locked while somebody works with it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use peerfs_format::Digest;
use peerfs_store::{sha256, Store, Tag};
use rustix::fs::{flock, FlockOperation};
use serde::{Deserialize, Serialize};

use super::runtime::Runtime;
use crate::error::{Error, Result};
use crate::rootless::data_folder;

/// The name of the folder with containers, unless another one is said.
const FOLDER: &str = "peerfs-containers";
/// The longest name.
const NAME_MAX: usize = 63;
const RECORD: &str = "container.json";
/// Digits that tell folders other than the usual one apart.
const FOLDER_DIGITS: usize = 12;
/// Bytes of chance in a name that nobody has chosen.
const RANDOM_BYTES: usize = 6;

/// What is known of a container.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Record {
    /// What its image was called.
    pub(super) image: String,
    /// The digest of its manifest.
    pub(super) manifest: String,
    /// The store that has it.
    pub(super) root_dir: PathBuf,
    /// The control socket of the daemon that fills it.
    pub(super) socket: PathBuf,
    /// The program that runs it.
    #[serde(default)]
    pub(super) runtime: PathBuf,
}

/// A folder with containers.
pub(super) struct Containers {
    folder: PathBuf,
}

/// A container that nobody else works with.
pub(super) struct Container {
    folder: PathBuf,
    name: String,
    _lock: File,
}

impl Containers {
    /// Opens or makes it; without a folder the usual one.
    pub(super) fn open(folder: Option<&Path>) -> Result<Self> {
        let folder = match folder {
            Some(folder) => super::absolute(folder)?,
            None => data_folder(FOLDER),
        };
        // What they hold is not for the machine's users.
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder);
        made.map_err(|source| write_error(&folder, source))?;
        // overlayfs is told of folders below it.
        let is_fit = folder
            .to_str()
            .is_some_and(|text| !text.contains([':', ',', '\\']));
        if !is_fit {
            let problem = "containers cannot be kept in a folder whose name has a colon, a comma or a backslash";
            return Err(Error::Run(problem.to_owned()));
        }
        Ok(Containers { folder })
    }

    /// Makes a container.
    pub(super) fn add(&self, name: Option<&str>, record: &Record) -> Result<Container> {
        let name = match name {
            Some(name) => name.to_owned(),
            None => random_name()?,
        };
        check_name(&name)?;
        let folder = self.folder.join(&name);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::Run(format!(
                    "there is a container {name} already; `peerfs containers rm {name}` removes it"
                )));
            }
            made => made.map_err(|source| write_error(&folder, source))?,
        }
        let container = self.take(&name)?;
        let path = folder.join(RECORD);
        let text = serde_json::to_vec(record).map_err(io::Error::from);
        if let Err(source) = text.and_then(|text| fs::write(&path, text)) {
            // On a full disk: it is none yet.
            let _ = fs::remove_dir_all(&folder);
            return Err(write_error(&path, source));
        }
        Ok(container)
    }

    /// A container that is not running.
    pub(super) fn take(&self, name: &str) -> Result<Container> {
        check_name(name)?;
        let folder = self.folder.join(name);
        let lock = match File::open(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::Run(format!("there is no container {name}")));
            }
            opened => opened.map_err(|source| Error::Read {
                path: folder.clone(),
                source,
            })?,
        };
        let is_alone = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
        // Its program may have outlived the `peerfs run` that had the lock.
        let still_runs = |record: Record| {
            record.runtime != Path::new("")
                && Runtime::of(&record.runtime)
                    .still_runs(&folder, name)
                    .unwrap_or(true)
        };
        if !is_alone || read_record(&folder).is_ok_and(still_runs) {
            return Err(Error::Run(format!(
                "the container {name} is in use; end it first"
            )));
        }
        Ok(Container {
            folder,
            name: name.to_owned(),
            _lock: lock,
        })
    }

    /// All containers, by name, with whether they are in use.
    pub(super) fn list(&self) -> Result<Vec<(String, Record, bool)>> {
        let failed = |source| Error::Read {
            path: self.folder.clone(),
            source,
        };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let name = entry
                .map_err(failed)?
                .file_name()
                .to_string_lossy()
                .into_owned();
            let Ok(record) = read_record(&self.folder.join(&name)) else {
                // It is just being made, or removed.
                continue;
            };
            let is_in_use = self.take(&name).is_err();
            found.push((name, record, is_in_use));
        }
        found.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(found)
    }
}

impl Container {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The folder with what the runtime is told.
    pub(super) fn bundle(&self) -> &Path {
        &self.folder
    }

    /// A folder of its own, made if it does not exist.
    pub(super) fn part(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        match DirBuilder::new().mode(0o755).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(path),
            made => made
                .map(|()| path.clone())
                .map_err(|source| write_error(&path, source)),
        }
    }

    pub(super) fn record(&self) -> Result<Record> {
        read_record(&self.folder)
    }

    /// The tag by which the store keeps the image. Containers of one name in two folders have two.
    fn tag(&self) -> Tag {
        let (folder, usual) = (self.folder.parent(), data_folder(FOLDER));
        let mut text = format!("peerfs-containers/{}", self.name);
        if let Some(folder) = folder.filter(|folder| *folder != usual) {
            let digest = sha256(folder.as_os_str().as_bytes()).to_string();
            text.extend(['-'].into_iter().chain(digest.chars().take(FOLDER_DIGITS)));
        }
        text.parse().expect("a container's name is fit for a tag")
    }

    /// Has the store keep the image as long as there is the container.
    pub(super) fn keep_image(&self, store: &Store, manifest: &Digest) -> Result<()> {
        Ok(store.tag(manifest, &self.tag())?)
    }

    /// Writes what the runtime is told.
    pub(super) fn write_spec(&self, spec: &serde_json::Value) -> Result<()> {
        let path = self.folder.join("config.json");
        fs::write(&path, spec.to_string()).map_err(|source| write_error(&path, source))
    }

    /// Removes all of it. Nothing is mounted in it then.
    pub(super) fn remove(&self, store: Option<&Store>) -> Result<()> {
        super::files::unmount_rest(&self.folder);
        // First, since nobody knows of it when the record is gone.
        match store.map(|store| store.untag(&self.tag().to_string())) {
            // It was taken away by somebody, or this was interrupted before.
            None | Some(Ok(()) | Err(peerfs_store::Error::UnknownImage { .. })) => (),
            Some(Err(error)) => return Err(error.into()),
        }
        fs::remove_dir_all(&self.folder).map_err(|source| write_error(&self.folder, source))
    }
}

fn read_record(folder: &Path) -> Result<Record> {
    let path = folder.join(RECORD);
    let read = fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
    read.map_err(|source| Error::Read { path, source })
}

fn write_error(path: &Path, source: io::Error) -> Error {
    Error::Write {
        path: path.to_owned(),
        source,
    }
}

/// Fails if a container can't be called so.
fn check_name(name: &str) -> Result<()> {
    let is_fit = name.len() <= NAME_MAX
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if is_fit {
        return Ok(());
    }
    Err(Error::Run(format!(
        "a container's name has 1 to {NAME_MAX} letters, digits, `_`, `.` and `-`, a letter or digit first"
    )))
}

fn random_name() -> Result<String> {
    let mut bytes = [0; RANDOM_BYTES];
    let path = Path::new("/dev/urandom");
    let read = File::open(path).and_then(|mut file| io::Read::read_exact(&mut file, &mut bytes));
    read.map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_nowhere_else() {
        for name in ["", ".", "..", "a/b", "-a", "a b", &"a".repeat(64)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert!(check_name("web-1.2_x").is_ok());
        assert_eq!(random_name().unwrap().len(), 2 * RANDOM_BYTES);
    }

    #[test]
    fn a_container_is_worked_with_by_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let containers = Containers::open(Some(folder.path())).unwrap();
        let record = Record {
            image: "debian".to_owned(),
            manifest: "0a".repeat(32),
            root_dir: "/store".into(),
            socket: "/socket".into(),
            runtime: "/runc".into(),
        };
        let first = containers.add(Some("a"), &record).unwrap();
        assert!(containers.add(Some("a"), &record).is_err());
        assert!(containers.take("a").is_err());
        let running = |containers: &Containers| -> Vec<bool> {
            containers
                .list()
                .unwrap()
                .iter()
                .map(|(_, _, running)| *running)
                .collect()
        };
        assert_eq!(running(&containers), [true]);
        drop(first);
        assert_eq!(running(&containers), [false]);
        // Killed while it was made.
        fs::create_dir(folder.path().join("half")).unwrap();
        assert_eq!(running(&containers), [false]);
        containers.take("half").unwrap().remove(None).unwrap();
        assert!(containers.add(Some("half"), &record).is_ok());
        assert_eq!(
            containers.take("a").unwrap().record().unwrap().image,
            "debian"
        );
    }
}
