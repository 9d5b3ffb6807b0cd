// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A folder of blobs with a bound: those that were not asked for the longest time go.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use lru::LruCache;
use peerfs_format::Digest;
use sha2::{Digest as _, Sha256};

use crate::swarm::CHUNK;

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
    /// Bytes that those will take which are being written.
    promised: u64,
    /// Of the last file that was begun.
    number: u64,
}

#[derive(Clone)]
struct Entry {
    length: u64,
    /// What its bytes were when this process saw that they are right, if it did.
    proof: Option<Arc<Proof>>,
}

/// What the bytes of a blob were when they were proven.
#[derive(Debug)]
struct Proof {
    sums: Vec<u64>,
    /// Whether somebody has found them changed since.
    is_broken: AtomicBool,
}

/// Sums of what is as long as a chunk, by which it is seen that a disk has changed it: not those of somebody who wants to.
#[derive(Default)]
struct Sums {
    done: Vec<u64>,
    begun: DefaultHasher,
    /// Bytes of what has begun.
    count: usize,
}

impl Sums {
    fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK as usize - self.count));
            self.begun.write(now);
            self.count += now.len();
            if self.count == CHUNK as usize {
                self.end_chunk();
            }
            bytes = later;
        }
    }

    fn end_chunk(&mut self) {
        self.done.push(std::mem::take(&mut self.begun).finish());
        self.count = 0;
    }

    fn finish(mut self) -> Proof {
        if self.count > 0 {
            self.end_chunk();
        }
        Proof {
            sums: self.done,
            is_broken: AtomicBool::new(false),
        }
    }
}

/// A blob that is here, its bytes proven since the process started.
#[derive(Clone, Debug)]
pub struct Blob {
    file: Arc<File>,
    proof: Arc<Proof>,
    /// Bytes of it.
    pub length: u64,
}

impl Blob {
    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// At most `count` of its bytes, from `offset` on, as they were when they were proven.
    ///
    /// # Errors
    /// What the system says; of the kind `InvalidData` if the disk has changed them.
    pub fn read(&self, offset: u64, count: usize) -> io::Result<Vec<u8>> {
        let end = offset.saturating_add(count as u64).min(self.length);
        let start = offset.min(end);
        let mut bytes = Vec::with_capacity((end - start) as usize);
        let mut chunk_start = start - start % CHUNK;
        while chunk_start < end {
            let chunk = read(&self.file, chunk_start, self.length, CHUNK as usize)?;
            let mut sums = Sums::default();
            sums.add(&chunk);
            let number = usize::try_from(chunk_start / CHUNK).unwrap_or(usize::MAX);
            if sums.finish().sums.first() != self.proof.sums.get(number) {
                self.proof.is_broken.store(true, Ordering::Relaxed);
                return Err(io::ErrorKind::InvalidData.into());
            }
            let from = start.saturating_sub(chunk_start) as usize;
            let to = (end - chunk_start).min(CHUNK) as usize;
            bytes.extend_from_slice(chunk.get(from..to).unwrap_or_default());
            chunk_start += CHUNK;
        }
        Ok(bytes)
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
                promised: 0,
                number: 0,
            }),
            proving: Mutex::default(),
        };
        let mut state = blobs.lock();
        for (_, digest, length) in found {
            let proof = None;
            state.entries.put(digest, Entry { length, proof });
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
        let state = self.lock();
        let entry = state.entries.peek(digest)?;
        Some(if entry.proof.is_some() {
            0
        } else {
            entry.length
        })
    }

    /// A blob that is here. One that was damaged is not, and is removed.
    ///
    /// # Errors
    /// What the system says to who would open it, such as that too many files are open; it stays then.
    pub fn find(&self, digest: &Digest) -> io::Result<Option<Blob>> {
        let Some(is_proven) = self
            .lock()
            .entries
            .get(digest)
            .map(|entry| entry.proof.is_some())
        else {
            return Ok(None);
        };
        // Of many who ask for it one reads all of it.
        let _proving = (!is_proven).then(|| {
            let proving = self.proving.lock();
            proving.unwrap_or_else(PoisonError::into_inner)
        });
        let Some(Entry { length, proof }) = self.lock().entries.peek(digest).cloned() else {
            return Ok(None);
        };
        let file = match File::open(self.path(digest)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            opened => Some(opened?),
        };
        // Who can't read it to its end could give nobody the rest of it.
        let proven = |file: File| {
            if file.metadata().ok()?.len() != length {
                return None;
            }
            let proof = match proof {
                Some(proof) if proof.is_broken.load(Ordering::Relaxed) => return None,
                Some(proof) => proof,
                None => {
                    let (found, proof) = hash(&file).ok()?;
                    (found == *digest).then_some(Arc::new(proof))?
                }
            };
            Some((file, proof))
        };
        let Some((file, proof)) = file.and_then(proven) else {
            tracing::warn!(blob = %digest, "is damaged in the mirror, and fetched again");
            self.remove(&mut self.lock(), digest);
            return Ok(None);
        };
        // Who comes after this process knows by it what was asked for last.
        if let Err(error) = file.set_modified(SystemTime::now()) {
            tracing::debug!(blob = %digest, %error, "cannot note that it was asked for");
        }
        if let Some(entry) = self.lock().entries.peek_mut(digest) {
            entry.proof = Some(Arc::clone(&proof));
        }
        let file = Arc::new(file);
        Ok(Some(Blob {
            file,
            proof,
            length,
        }))
    }

    /// Begins to write a blob of at most `length` bytes.
    ///
    /// # Errors
    /// [`CannotBegin`].
    pub(crate) fn begin(self: &Arc<Self>, length: u64) -> Result<Growing, CannotBegin> {
        let limit = self.limit;
        let (number, promise) = {
            let mut state = self.lock();
            let promised = state.promised.saturating_add(on_disk(length));
            if promised > limit {
                return Err(match on_disk(length) > limit {
                    true => CannotBegin::TooLarge { length, limit },
                    false => CannotBegin::Full,
                });
            }
            state.promised = promised;
            state.number += 1;
            let blobs = Arc::clone(self);
            let bytes = on_disk(length);
            (state.number, Promise { blobs, bytes })
        };
        let path = self.folder.join(number.to_string()).with_extension(GROWING);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        Ok(Growing {
            promise,
            file: Arc::new(file),
            path,
            used: 0,
            length: 0,
            sums: Sums::default(),
        })
    }

    /// Removes blobs until `more` bytes have room, which was promised to what is being written.
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

fn hash(mut file: &File) -> io::Result<(Digest, Proof)> {
    let (mut hash, mut sums) = (Sha256::new(), Sums::default());
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok((Digest(hash.finalize().into()), sums.finish())),
            count => {
                hash.update(&piece[..count]);
                sums.add(&piece[..count]);
            }
        }
    }
}

/// Why no blob can be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CannotBegin {
    /// It would be larger than all that may be here.
    #[error("the blob has {length} bytes, more than the {limit} of mirror.cache_bytes")]
    TooLarge {
        /// Bytes of it.
        length: u64,
        /// Bytes that may be used.
        limit: u64,
    },
    /// With what is being written it would be more than may be here.
    #[error("what is being fetched leaves no room for it")]
    Full,
    /// The system says why.
    #[error(transparent)]
    Disk(#[from] io::Error),
}

/// Bytes that may be written. Others may write them when this is dropped.
struct Promise {
    blobs: Arc<Blobs>,
    bytes: u64,
}

impl Drop for Promise {
    fn drop(&mut self) {
        let mut state = self.blobs.lock();
        state.promised = state.promised.saturating_sub(self.bytes);
    }
}

/// A blob that is being written. It goes if it is not finished.
pub(crate) struct Growing {
    promise: Promise,
    file: Arc<File>,
    path: PathBuf,
    /// Bytes of it that count as used.
    used: u64,
    /// Bytes that were written.
    length: u64,
    sums: Sums,
}

impl Growing {
    /// The file, for those who read what is there already.
    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Writes what comes next, for which others make room.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = self.length.saturating_add(bytes.len() as u64);
        let end = on_disk(length);
        if end > self.promise.bytes {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if let Some(more) = end.checked_sub(self.used) {
            let blobs = &self.promise.blobs;
            let mut state = blobs.lock();
            blobs.make_room(&mut state, more);
            state.used += more;
            self.used = end;
        }
        self.file.write_all_at(bytes, self.length)?;
        self.length = length;
        self.sums.add(bytes);
        Ok(())
    }

    /// Keeps it as the blob that it was found to be.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn finish(mut self, digest: &Digest) -> io::Result<Blob> {
        let proof = Arc::new(std::mem::take(&mut self.sums).finish());
        let length = self.length;
        let blob = Blob {
            file: self.file(),
            proof: Arc::clone(&proof),
            length,
        };
        let blobs = &self.promise.blobs;
        let mut state = blobs.lock();
        blobs.remove(&mut state, digest);
        fs::rename(&self.path, blobs.path(digest))?;
        let proof = Some(proof);
        state.entries.put(*digest, Entry { length, proof });
        state.used += on_disk(length);
        Ok(blob)
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        let mut state = self.promise.blobs.lock();
        state.used = state.used.saturating_sub(self.used);
        // It is called otherwise if it was finished.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
#[path = "blobs_tests.rs"]
mod tests;
