// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Where snapshots lie: `snapshots/ID` with `record.json`, `fs` and `work`, as overlayfs wants them. A folder has its last name
//! only when all of it is there, and loses it before anything of it is removed.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{chown, DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{flock, FlockOperation};

use crate::error::{Error, Result};
use crate::record::{Kind, Record};

/// The most snapshots that there may be.
const SNAPSHOTS_MAX: usize = 1_000_000;
/// The file with what is known of a snapshot.
const RECORD: &str = "record.json";
/// What a folder is called that is not whole yet; after the hyphen its number follows.
const NEW: &str = "new-";
/// What a folder is called that is to be removed.
const REMOVED: &str = "removed-";

/// The folder of a snapshot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    folder: PathBuf,
}

impl Place {
    pub(crate) fn new(root: &Path, id: u64) -> Self {
        Place {
            folder: root.join("snapshots").join(id.to_string()),
        }
    }

    /// Its own files, or where its image is mounted.
    pub(crate) fn files(&self) -> PathBuf {
        self.folder.join("fs")
    }

    /// What overlayfs needs beside them.
    pub(crate) fn work(&self) -> PathBuf {
        self.folder.join("work")
    }
}

/// A snapshot and its number.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The number, which is never given again while there are later ones.
    pub id: u64,
    /// What is known of it.
    pub record: Record,
}

/// All snapshots. What is here is on the disk as well.
pub struct Snapshots {
    root: PathBuf,
    by_key: BTreeMap<String, Snapshot>,
    next_id: u64,
    _lock: File,
}

impl Snapshots {
    /// Opens or makes a folder of snapshots, which is this process's alone from then on.
    ///
    /// # Errors
    /// [`Error::InUse`] if it is another one's, [`Error::Folder`] if it can't be read or written. A record that can't be read
    /// is told of and passed over.
    pub fn open(root: &Path) -> Result<Self> {
        let snapshots = root.join("snapshots");
        // What images hold is for containers to show, not for the machine's users.
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&snapshots);
        made.map_err(Error::folder("make", &snapshots))?;
        let path = root.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let lock = lock.map_err(Error::folder("open", &path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| Error::InUse(root.to_owned()))?;
        let mut found = Snapshots {
            root: root.to_owned(),
            by_key: BTreeMap::new(),
            next_id: 1,
            _lock: lock,
        };
        let entries = fs::read_dir(&snapshots).map_err(Error::folder("read", &snapshots))?;
        for entry in entries {
            let entry = entry.map_err(Error::folder("read", &snapshots))?;
            found.take(&entry.file_name().to_string_lossy());
        }
        Ok(found)
    }

    /// Takes what lies there by this name.
    fn take(&mut self, name: &str) {
        let number = name.trim_start_matches(NEW).trim_start_matches(REMOVED);
        let Ok(id) = number.parse::<u64>() else {
            return;
        };
        self.next_id = self.next_id.max(id.saturating_add(1));
        if number.len() < name.len() {
            return;
        }
        let path = Place::new(&self.root, id).folder.join(RECORD);
        let read = fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice::<Record>(&bytes)?));
        match read {
            Ok(record) => {
                let key = record.key.clone();
                self.by_key.insert(key, Snapshot { id, record });
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "a snapshot is passed over, for its record cannot be read");
            }
        }
    }

    /// A snapshot by its name.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn get(&self, key: &str) -> Result<&Snapshot> {
        let found = self.by_key.get(key);
        found.ok_or_else(|| Error::NotFound(key.to_owned()))
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Snapshot> {
        self.by_key.values()
    }

    /// Where a snapshot lies.
    pub fn place(&self, snapshot: &Snapshot) -> Place {
        Place::new(&self.root, snapshot.id)
    }

    /// A snapshot and all below it, itself first.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none of that name, or one below it is lost.
    pub fn chain(&self, key: &str) -> Result<Vec<&Snapshot>> {
        let mut chain = vec![self.get(key)?];
        while let Some(parent) = chain.last().and_then(|last| last.record.parent.as_deref()) {
            // A record that somebody has changed might lead in a circle.
            if chain.len() > self.by_key.len() {
                return Err(Error::NotFound(parent.to_owned()));
            }
            chain.push(self.get(parent)?);
        }
        Ok(chain)
    }

    /// Adds a snapshot with an empty folder. Its root directory is like `like`, if there is something below it.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`]; [`Error::NotFound`] or [`Error::WrongKind`] of the one below it; [`Error::Folder`].
    pub fn add(&mut self, record: Record, like: Option<&fs::Metadata>) -> Result<Snapshot> {
        if self.by_key.contains_key(&record.key) {
            return Err(Error::AlreadyExists(record.key));
        }
        if self.by_key.len() >= SNAPSHOTS_MAX {
            return Err(Error::Invalid(format!(
                "there are {SNAPSHOTS_MAX} snapshots already"
            )));
        }
        if let Some(parent) = &record.parent {
            self.get(parent)?.must_be(Kind::Committed)?;
        }
        let id = self.next_id;
        let new = self.root.join("snapshots").join(format!("{NEW}{id}"));
        let place = Place {
            folder: new.clone(),
        };
        let make = || -> io::Result<()> {
            fs::create_dir(&new)?;
            fs::create_dir(place.files())?;
            // Not what the umask makes of it: it is the root directory of a container.
            let mode = like.map_or(0o755, |like| like.mode() & 0o7777);
            if let Some(like) = like {
                chown(place.files(), Some(like.uid()), Some(like.gid()))?;
            }
            fs::set_permissions(place.files(), Permissions::from_mode(mode))?;
            if record.kind == Kind::Active {
                DirBuilder::new().mode(0o711).create(place.work())?;
            }
            write_record(&new, &record)?;
            fs::rename(&new, Place::new(&self.root, id).folder)?;
            sync(&self.root.join("snapshots"))
        };
        if let Err(error) = make() {
            // It is removed later if not now.
            let _ = fs::remove_dir_all(&new);
            return Err(Error::folder("make", new)(error));
        }
        self.next_id += 1;
        let snapshot = Snapshot { id, record };
        let key = snapshot.record.key.clone();
        self.by_key.insert(key, snapshot.clone());
        Ok(snapshot)
    }

    /// Puts another record in the place of that of `key`; its name may be another one.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::AlreadyExists`] for the new name, [`Error::Folder`].
    pub fn replace(&mut self, key: &str, record: Record) -> Result<()> {
        let id = self.get(key)?.id;
        if record.key != key && self.by_key.contains_key(&record.key) {
            return Err(Error::AlreadyExists(record.key));
        }
        let folder = Place::new(&self.root, id).folder;
        write_record(&folder, &record).map_err(Error::folder("write the record of", folder))?;
        self.by_key.remove(key);
        let key = record.key.clone();
        self.by_key.insert(key, Snapshot { id, record });
        Ok(())
    }

    /// Takes a snapshot away; its folder is among [`Snapshots::leftovers`] from then on.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::HasChildren`], [`Error::Folder`].
    pub fn remove(&mut self, key: &str) -> Result<Snapshot> {
        let id = self.get(key)?.id;
        if self
            .iter()
            .any(|other| other.record.parent.as_deref() == Some(key))
        {
            return Err(Error::HasChildren(key.to_owned()));
        }
        let folder = Place::new(&self.root, id).folder;
        let removed = self.root.join("snapshots").join(format!("{REMOVED}{id}"));
        fs::rename(&folder, removed).map_err(Error::folder("rename", folder))?;
        let gone = self.by_key.remove(key);
        gone.ok_or_else(|| Error::NotFound(key.to_owned()))
    }

    /// Folders that nobody needs. Who removes them unmounts first what is mounted on their `fs`.
    ///
    /// # Errors
    /// [`Error::Folder`].
    pub fn leftovers(&self) -> Result<Vec<Place>> {
        let snapshots = self.root.join("snapshots");
        let failed = |error| Error::folder("read", &snapshots)(error);
        let mut leftovers = Vec::new();
        for entry in fs::read_dir(&snapshots).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(NEW) || name.starts_with(REMOVED) {
                leftovers.push(Place {
                    folder: entry.path(),
                });
            }
        }
        Ok(leftovers)
    }
}

impl Snapshot {
    /// Fails if it is of another kind.
    pub(crate) fn must_be(&self, wanted: Kind) -> Result<()> {
        if self.record.kind == wanted {
            return Ok(());
        }
        Err(Error::WrongKind {
            key: self.record.key.clone(),
            is: self.record.kind.name(),
            wanted: wanted.name(),
        })
    }
}

impl Place {
    /// Removes the folder, on which nothing may be mounted.
    pub(crate) fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(Error::folder("remove", &self.folder)),
        }
    }
}

fn write_record(folder: &Path, record: &Record) -> io::Result<()> {
    let new = folder.join("record.new");
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    file.sync_all()?;
    fs::rename(&new, folder.join(RECORD))?;
    sync(folder)
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn record(kind: Kind, key: &str, parent: Option<&str>) -> Record {
        Record::new(kind, key, parent, BTreeMap::new(), SystemTime::now())
    }

    fn keys(snapshots: &Snapshots) -> Vec<&str> {
        snapshots
            .iter()
            .map(|one| one.record.key.as_str())
            .collect()
    }

    #[test]
    fn what_is_there_is_there_again() {
        let root = tempfile::tempdir().unwrap();
        let mut snapshots = Snapshots::open(root.path()).unwrap();
        assert!(matches!(Snapshots::open(root.path()), Err(Error::InUse(_))));
        snapshots
            .add(record(Kind::Active, "a", None), None)
            .unwrap();
        let mut committed = snapshots.get("a").unwrap().record.clone();
        (committed.key, committed.kind) = ("layer".to_owned(), Kind::Committed);
        snapshots.replace("a", committed).unwrap();
        let like = fs::metadata("/tmp").unwrap();
        let over = record(Kind::Active, "b", Some("layer"));
        let b = snapshots.add(over, Some(&like)).unwrap();
        let made = fs::metadata(snapshots.place(&b).files()).unwrap();
        assert_eq!(made.mode() & 0o7777, like.mode() & 0o7777);
        assert!(matches!(
            snapshots.remove("layer"),
            Err(Error::HasChildren(_))
        ));
        let under_it = snapshots.add(record(Kind::View, "c", Some("b")), None);
        assert!(matches!(under_it, Err(Error::WrongKind { .. })));
        // Killed while it made or removed one, and a record is spoiled.
        fs::create_dir(root.path().join("snapshots/new-9")).unwrap();
        snapshots
            .add(record(Kind::Active, "d", None), None)
            .unwrap();
        let spoiled = snapshots
            .add(record(Kind::Active, "e", None), None)
            .unwrap();
        fs::write(snapshots.place(&spoiled).folder.join(RECORD), "{").unwrap();
        snapshots.remove("d").unwrap();
        drop(snapshots);
        let mut snapshots = Snapshots::open(root.path()).unwrap();
        assert_eq!(keys(&snapshots), ["b", "layer"]);
        let chain: Vec<u64> = snapshots
            .chain("b")
            .unwrap()
            .iter()
            .map(|one| one.id)
            .collect();
        assert_eq!(chain, [2, 1]);
        let leftovers = snapshots.leftovers().unwrap();
        assert_eq!(leftovers.len(), 2);
        for place in leftovers {
            place.remove().unwrap();
        }
        let new = snapshots
            .add(record(Kind::Active, "f", None), None)
            .unwrap();
        assert!(new.id > 9);
    }
}
