// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A folder of blobs with a bound: those that were not asked for the longest time go.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use lru::LruCache;
use peerfs_format::Digest;
use sha2::{Digest as _, Sha256};

/// What a file takes on a disk is a multiple of that.
const BLOCK: u64 = 4096;
/// The end of the names of files that are being written.
const GROWING: &str = "new";
/// Bytes that are hashed at a time.
const PIECE: usize = 1 << 20;

/// The blobs that are here. One process has the folder. All methods block on the disk.
pub struct Blobs {
    folder: PathBuf,
    limit: u64,
    state: Mutex<State>,
    /// Held while a blob is proven; taken before the state.
    proving: Mutex<()>,
}

struct State {
    /// The one that was asked for last is first.
    entries: LruCache<Digest, Entry>,
    /// Bytes on the disk, of those that are being written too.
    used: u64,
    /// Of the last file that was begun.
    number: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    length: u64,
    /// Whether this process has seen that its bytes are right.
    is_proven: bool,
}

/// A blob that is here, its bytes proven since the process started.
#[derive(Clone, Debug)]
pub struct Blob {
    file: Arc<File>,
    /// Bytes of it.
    pub length: u64,
}

impl Blob {
    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// At most `count` of its bytes, from `offset` on.
    ///
    /// # Errors
    /// What the system says.
    pub fn read(&self, offset: u64, count: usize) -> io::Result<Vec<u8>> {
        read(&self.file, offset, self.length, count)
    }
}

/// At most `count` bytes of a file from `offset` on, of those before `end`.
pub(crate) fn read(file: &File, offset: u64, end: u64, count: usize) -> io::Result<Vec<u8>> {
    let left = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut bytes = vec![0; left.min(count)];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// Whether two files have the same bytes in a part of them.
pub(crate) fn are_same(one: &File, other: &File, part: &Range<u64>) -> io::Result<bool> {
    let mut offset = part.start;
    while offset < part.end {
        let bytes = read(one, offset, part.end, PIECE)?;
        if bytes != read(other, offset, part.end, PIECE)? {
            return Ok(false);
        }
        offset += bytes.len() as u64;
    }
    Ok(true)
}

impl Blobs {
    /// Those of a folder, which is made if it is not there, and of which `limit` bytes may be used.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(folder: &Path, limit: u64) -> io::Result<Self> {
        fs::DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(folder)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            let name = entry.file_name();
            let metadata = entry.metadata()?;
            match name.to_str().and_then(|name| name.parse::<Digest>().ok()) {
                Some(digest) if metadata.is_file() => {
                    found.push((metadata.modified()?, digest, metadata.len()));
                }
                // What a process before this one has not finished.
                _ if path.extension().is_some_and(|end| end == GROWING) => fs::remove_file(path)?,
                _ => (),
            }
        }
        found.sort_unstable_by_key(|(asked_at, digest, _)| (*asked_at, *digest));
        let blobs = Blobs {
            folder: folder.to_owned(),
            limit,
            state: Mutex::new(State {
                entries: LruCache::unbounded(),
                used: 0,
                number: 0,
            }),
            proving: Mutex::default(),
        };
        let mut state = blobs.lock();
        for (_, digest, length) in found {
            let is_proven = false;
            state.entries.put(digest, Entry { length, is_proven });
            state.used += on_disk(length);
        }
        blobs.make_room(&mut state, 0);
        drop(state);
        Ok(blobs)
    }

    /// Bytes that may be used.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes of a blob that is here, though not proven.
    pub fn length(&self, digest: &Digest) -> Option<u64> {
        self.lock().entries.peek(digest).map(|entry| entry.length)
    }

    /// Bytes that must be read before a blob can be given out; None if it is not here.
    pub fn cost(&self, digest: &Digest) -> Option<u64> {
        let entry = *self.lock().entries.peek(digest)?;
        Some(if entry.is_proven { 0 } else { entry.length })
    }

    /// A blob that is here. One that was damaged is not, and is removed.
    ///
    /// # Errors
    /// What the system says to who would open it, such as that too many files are open; it stays then.
    pub fn find(&self, digest: &Digest) -> io::Result<Option<Blob>> {
        let Some(Entry { is_proven, .. }) = self.lock().entries.get(digest).copied() else {
            return Ok(None);
        };
        // Of many who ask for it one reads all of it.
        let _proving = (!is_proven).then(|| {
            let proving = self.proving.lock();
            proving.unwrap_or_else(PoisonError::into_inner)
        });
        let Some(entry) = self.lock().entries.peek(digest).copied() else {
            return Ok(None);
        };
        let file = match File::open(self.path(digest)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            opened => Some(opened?),
        };
        // Who can't read it to its end could give nobody the rest of it.
        let is_right = |file: &File| -> io::Result<bool> {
            let is_whole = file.metadata()?.len() == entry.length;
            Ok(is_whole && (entry.is_proven || hash(file)? == *digest))
        };
        let Some(file) = file.filter(|file| is_right(file).unwrap_or(false)) else {
            tracing::warn!(blob = %digest, "is damaged in the mirror, and fetched again");
            self.remove(&mut self.lock(), digest);
            return Ok(None);
        };
        // Who comes after this process knows by it what was asked for last.
        if let Err(error) = file.set_modified(SystemTime::now()) {
            tracing::debug!(blob = %digest, %error, "cannot note that it was asked for");
        }
        if let Some(entry) = self.lock().entries.peek_mut(digest) {
            entry.is_proven = true;
        }
        Ok(Some(Blob {
            file: Arc::new(file),
            length: entry.length,
        }))
    }

    /// Begins to write a blob.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn begin(self: &Arc<Self>) -> io::Result<Growing> {
        let number = {
            let mut state = self.lock();
            state.number += 1;
            state.number
        };
        let path = self.folder.join(number.to_string()).with_extension(GROWING);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        Ok(Growing {
            blobs: Arc::clone(self),
            file: Arc::new(file),
            path,
            used: 0,
        })
    }

    /// Removes blobs until `more` bytes have room; what is being written has it in any case.
    fn make_room(&self, state: &mut State, more: u64) {
        while state.used.saturating_add(more) > self.limit {
            let Some((&oldest, _)) = state.entries.peek_lru() else {
                return;
            };
            self.remove(state, &oldest);
        }
    }

    fn remove(&self, state: &mut State, digest: &Digest) {
        if let Some(entry) = state.entries.pop(digest) {
            state.used = state.used.saturating_sub(on_disk(entry.length));
            // Who reads it has it open.
            if let Err(error) = fs::remove_file(self.path(digest)) {
                tracing::warn!(blob = %digest, %error, "cannot remove from the mirror");
            }
        }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.to_string())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What is in it is valid after every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn on_disk(length: u64) -> u64 {
    length.div_ceil(BLOCK).max(1).saturating_mul(BLOCK)
}

fn hash(mut file: &File) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(Digest(hash.finalize().into())),
            count => hash.update(&piece[..count]),
        }
    }
}

/// A blob that is being written. It goes if it is not finished.
pub(crate) struct Growing {
    blobs: Arc<Blobs>,
    file: Arc<File>,
    path: PathBuf,
    /// Bytes of it that count as used.
    used: u64,
}

impl Growing {
    /// The file, for those who read what is there already.
    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Writes at a place, for which others make room.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = on_disk(offset.saturating_add(bytes.len() as u64));
        if let Some(more) = end.checked_sub(self.used) {
            let mut state = self.blobs.lock();
            self.blobs.make_room(&mut state, more);
            state.used += more;
            self.used = end;
        }
        self.file.write_all_at(bytes, offset)
    }

    /// Keeps it as the blob that it was found to be, if it is not larger than all that may be here.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn finish(self, digest: &Digest, length: u64) -> io::Result<Blob> {
        let blob = Blob {
            file: self.file(),
            length,
        };
        if on_disk(length) > self.blobs.limit {
            return Ok(blob);
        }
        let mut state = self.blobs.lock();
        self.blobs.remove(&mut state, digest);
        fs::rename(&self.path, self.blobs.path(digest))?;
        let is_proven = true;
        state.entries.put(*digest, Entry { length, is_proven });
        state.used += on_disk(length);
        Ok(blob)
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        let mut state = self.blobs.lock();
        state.used = state.used.saturating_sub(self.used);
        // It is called otherwise if it was finished.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(blobs: &Arc<Blobs>, bytes: &[u8]) -> Digest {
        let digest = Digest(Sha256::digest(bytes).into());
        let mut growing = blobs.begin().unwrap();
        growing.write(0, bytes).unwrap();
        growing.finish(&digest, bytes.len() as u64).unwrap();
        digest
    }

    #[test]
    fn what_was_not_asked_for_goes_first_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Arc::new(Blobs::open(folder.path(), 3 * BLOCK).unwrap());
        let [a, b, c] = [&b"a"[..], b"b", b"c"].map(|bytes| put(&blobs, bytes));
        assert_eq!(blobs.find(&a).unwrap().unwrap().read(0, 9).unwrap(), b"a");
        // Times on disks are not finer than some milliseconds.
        let old = SystemTime::now() - std::time::Duration::from_secs(9);
        let file = File::open(folder.path().join(c.to_string())).unwrap();
        file.set_modified(old).unwrap();
        let d = put(&blobs, b"d");
        assert!(blobs.find(&b).unwrap().is_none());
        drop(blobs);
        let blobs = Arc::new(Blobs::open(folder.path(), 3 * BLOCK).unwrap());
        let e = put(&blobs, b"e");
        assert!(blobs.find(&c).unwrap().is_none());
        for kept in [a, d, e] {
            assert!(blobs.find(&kept).unwrap().is_some());
        }
        // What is larger than all can be read, and is not kept, and what is not finished leaves nothing.
        let large = vec![7; 4 * BLOCK as usize];
        let large = put(&blobs, &large);
        drop(blobs.begin().unwrap());
        assert!(blobs.find(&large).unwrap().is_none());
        assert_eq!(blobs.lock().used, 0);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_has_changed_on_the_disk_is_not_given_out() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Arc::new(Blobs::open(folder.path(), 1 << 20).unwrap());
        let [a, b] = [&b"one"[..], b"two"].map(|bytes| put(&blobs, bytes));
        fs::write(folder.path().join(a.to_string()), "onf").unwrap();
        fs::write(folder.path().join("3.new"), "half of it").unwrap();
        let blobs = Arc::new(Blobs::open(folder.path(), 1 << 20).unwrap());
        assert_eq!(blobs.cost(&b), Some(3));
        assert!(blobs.find(&a).unwrap().is_none());
        assert!(blobs.find(&b).unwrap().is_some());
        assert_eq!((blobs.cost(&a), blobs.cost(&b)), (None, Some(0)));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        // What can't be opened just now stays, and what became shorter goes.
        let path = folder.path().join(b.to_string());
        fs::rename(&path, folder.path().join("aside")).unwrap();
        std::os::unix::fs::symlink(&path, &path).unwrap();
        assert!(blobs.find(&b).is_err());
        fs::rename(folder.path().join("aside"), &path).unwrap();
        assert!(blobs.find(&b).unwrap().is_some());
        fs::write(&path, "tw").unwrap();
        assert!(blobs.find(&b).unwrap().is_none());
        assert_eq!(blobs.length(&b), None);
    }
}
