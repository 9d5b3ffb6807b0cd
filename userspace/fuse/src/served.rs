// SPDX-License-Identifier: GPL-2.0 OR MIT

//! An image of which what is missing is fetched before it is read again.

use std::collections::HashMap;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use lru::LruCache;
use peerfs_control::FetchLine;
use peerfs_format::upcall::FETCH_CHUNKS_MAX;
use peerfs_format::{pieces, Digest, Manifest, PackRecord, Source};
use peerfs_store::{Error, Image, Inode, PackReader, RealmKey, Store};
use peerfs_text::Causes;
use rustix::io::Errno;
use tracing::warn;

use crate::daemon::Daemon;
use crate::reader::FilledStore;
use crate::uses::{self, Uses};

/// How often something may be fetched for one request and be missing or damaged again, with nothing else fetched in
/// between: a store that loses what it gets.
const REPEATS_MAX: u32 = 3;
/// The most chunks that one request asks for, as the kernel's.
const RUN_MAX: u32 = FETCH_CHUNKS_MAX;
/// Bytes behind a read that was missing and that goes on where the last one of the file ended, which are asked for, too.
const READAHEAD: u64 = 4 * 1024 * 1024;
/// Parts of files that are asked for ahead at a time; of more nobody asks before they are read.
const AHEAD_MAX: usize = 16;
/// Files whose last read is remembered.
const FILES_KEPT: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// What an operation finds to be missing, or damaged.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Missing {
    Blob(Digest),
    Chunk {
        pack: Digest,
        chunk: u32,
        is_damaged: bool,
    },
}

/// An image that is served.
pub(crate) struct Served {
    image: Image<FilledStore>,
    daemon: Daemon,
    /// The packs by their digests. One pack may have several indexes, if a publisher says so.
    packs: HashMap<Digest, Vec<PackRecord>>,
    /// By inode, where the last read ended.
    ends: Mutex<LruCache<u64, u64>>,
    ahead: AtomicUsize,
    uses: Uses,
}

impl Served {
    /// Opens an image; what that takes is fetched.
    ///
    /// # Errors
    /// What a reader would be told.
    pub(crate) fn open(
        store: Arc<Store>,
        manifest: Digest,
        keys: &[RealmKey],
        daemon: Daemon,
    ) -> Result<Self, Errno> {
        let uses = Uses::default();
        let reader = Arc::new(FilledStore::new(store, uses.clone()));
        let open = || Image::open_with(Arc::clone(&reader), &manifest, keys);
        let image = get(&open, |missing| fetch(&daemon, &manifest, missing, &[]))?;
        let mut packs: HashMap<Digest, Vec<PackRecord>> = HashMap::new();
        for record in image.blob_table().packs.iter() {
            packs.entry(record.digest).or_default().push(record);
        }
        Ok(Served {
            image,
            daemon,
            packs,
            ends: Mutex::new(LruCache::new(FILES_KEPT)),
            ahead: AtomicUsize::new(0),
            uses,
        })
    }

    /// Whether it can be read with the keys that were given.
    ///
    /// # Errors
    /// [`Error::KeyNeeded`].
    pub(crate) fn check_key(&self) -> Result<(), Error> {
        self.image.root_record().map(drop)
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        self.image.manifest()
    }

    /// Does something with the image that needs nothing but what is here.
    ///
    /// # Errors
    /// `Err(Ok(_))`, what is missing; `Err(Err(_))`, what the reader is told.
    pub(crate) fn attempt<T>(
        &self,
        operation: &impl Fn(&Image<FilledStore>) -> Result<T, Error>,
    ) -> Result<T, Result<Missing, Errno>> {
        operation(&self.image).map_err(missing)
    }

    /// Does something with the image, however long it takes to fetch what it needs.
    ///
    /// # Errors
    /// What the reader is told.
    pub(crate) fn get<T>(
        &self,
        operation: &impl Fn(&Image<FilledStore>) -> Result<T, Error>,
    ) -> Result<T, Errno> {
        let operation = || operation(&self.image);
        get(&operation, |missing| self.fetch(missing, None))
    }

    /// Bytes of a regular file, fewer only at its end.
    ///
    /// # Errors
    /// As for [`Served::attempt`].
    pub(crate) fn attempt_read(
        &self,
        inode: u64,
        range: &Range<u64>,
    ) -> Result<Vec<u8>, Result<Missing, Errno>> {
        self.attempt(&|image| read(image, inode, range))
    }

    /// The same, however long it takes.
    ///
    /// # Errors
    /// What the reader is told.
    pub(crate) fn read(self: &Arc<Self>, inode: u64, range: &Range<u64>) -> Result<Vec<u8>, Errno> {
        let operation = || read(&self.image, inode, range);
        get(&operation, |missing| {
            self.read_ahead(inode, range);
            self.fetch(missing, Some((inode, range)))
        })
    }

    /// Tells the daemon what was read, now and then, as long as the image is served. Where there is no thread to be had it is not
    /// told.
    pub(crate) fn tell_uses(self: &Arc<Self>) {
        let served = Arc::downgrade(self);
        let tell = move || loop {
            thread::sleep(uses::INTERVAL);
            let Some(served) = served.upgrade() else {
                return;
            };
            served.daemon.tell(&served.uses.take());
        };
        let thread = thread::Builder::new().name("uses".to_owned()).spawn(tell);
        if let Err(error) = thread {
            warn!(%error, "peerfsd is not told what is read");
        }
    }

    /// Notes where a read ended.
    pub(crate) fn note_end(&self, inode: u64, end: u64) {
        self.lock_ends().put(inode, end);
    }

    /// Has what lies behind a read fetched, too, if the file is read from one end to the other. Nobody waits for it.
    fn read_ahead(self: &Arc<Self>, inode: u64, range: &Range<u64>) {
        let goes_on = range.start > 0 && self.lock_ends().peek(&inode) == Some(&range.start);
        if !goes_on {
            return;
        }
        if self.ahead.fetch_add(1, Ordering::Relaxed) >= AHEAD_MAX {
            self.ahead.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let ahead = range.end..range.end.saturating_add(READAHEAD);
        let served = Arc::clone(self);
        let work = move || {
            for (record, run) in served.runs(inode, &ahead).unwrap_or_default() {
                let line = |id| chunks(id, served.image.digest(), &record, &run, (false, true));
                if served.daemon.fetch(line).is_err() {
                    break;
                }
            }
            served.ahead.fetch_sub(1, Ordering::Relaxed);
        };
        // If there is no thread to be had, the next read waits.
        let thread = thread::Builder::new().name("ahead".to_owned()).spawn(work);
        if thread.is_err() {
            self.ahead.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn fetch(&self, missing: &Missing, reading: Option<(u64, &Range<u64>)>) -> Result<(), Errno> {
        let manifest = self.image.digest();
        let (pack, chunk) = match missing {
            Missing::Chunk {
                pack,
                chunk,
                is_damaged: false,
            } => (pack, *chunk),
            Missing::Chunk { pack, .. } => {
                let records = self.packs.get(pack).map_or(&[][..], Vec::as_slice);
                return fetch(&self.daemon, manifest, missing, records);
            }
            Missing::Blob(_) => return fetch(&self.daemon, manifest, missing, &[]),
        };
        // All that the read needs of this pack is one request.
        let runs = reading.and_then(|(inode, range)| self.runs(inode, range).ok());
        let run = runs
            .into_iter()
            .flatten()
            .find(|(record, run)| record.digest == *pack && run.contains(&chunk));
        match run {
            Some((record, run)) => {
                let run = chunk..run.end.min(chunk.saturating_add(RUN_MAX));
                ask(&self.daemon, |id| {
                    chunks(id, manifest, &record, &run, (false, false))
                })
            }
            None => {
                let records = self.packs.get(pack).map_or(&[][..], Vec::as_slice);
                fetch(&self.daemon, manifest, missing, records)
            }
        }
    }

    /// The chunks that a part of a file lies in, by their packs, as far as the packs' indexes are here.
    fn runs(&self, inode: u64, range: &Range<u64>) -> Result<Vec<(PackRecord, Range<u32>)>, Error> {
        let inode = self.image.inode(inode)?;
        let end = range.end.min(inode.record().size);
        let mut runs = Vec::new();
        for piece in pieces(&inode.extents()?, range.start.min(end)..end) {
            let Source::Pack { pack, offset } = piece.source else {
                continue;
            };
            let pack = self.image.pack(pack)?;
            let last = u64::from(offset) + piece.length.saturating_sub(1);
            let (first, _) = pack.chunk_at(offset)?;
            let (last, _) = pack.chunk_at(u32::try_from(last).unwrap_or(u32::MAX))?;
            let run = first..last.saturating_add(1).min(first.saturating_add(RUN_MAX));
            runs.push((*pack.record(), run));
        }
        Ok(runs)
    }

    fn lock_ends(&self) -> std::sync::MutexGuard<'_, LruCache<u64, u64>> {
        // A cache is valid after every step.
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does something until it needs nothing more that has to be fetched.
fn get<T>(
    operation: &impl Fn() -> Result<T, Error>,
    fetch: impl Fn(&Missing) -> Result<(), Errno>,
) -> Result<T, Errno> {
    let (mut last, mut repeats) = (None, 0);
    loop {
        let missing = match operation().map_err(missing) {
            Ok(done) => return Ok(done),
            Err(Err(errno)) => return Err(errno),
            Err(Ok(missing)) => missing,
        };
        repeats = if last.as_ref() == Some(&missing) {
            repeats + 1
        } else {
            0
        };
        if repeats >= REPEATS_MAX {
            warn!(
                ?missing,
                "was fetched and is not in the store; is it the store that peerfsd fills?"
            );
            return Err(Errno::IO);
        }
        fetch(&missing)?;
        last = Some(missing);
    }
}

/// Has the daemon fetch a blob, or one chunk of the packs with these records.
fn fetch(
    daemon: &Daemon,
    manifest: &Digest,
    missing: &Missing,
    records: &[PackRecord],
) -> Result<(), Errno> {
    match *missing {
        Missing::Blob(blob) => ask(daemon, |id| FetchLine::Blob {
            id,
            image: manifest.to_string(),
            blob: blob.to_string(),
            readahead: false,
        }),
        Missing::Chunk {
            chunk, is_damaged, ..
        } => {
            let has_it = |record: &&PackRecord| chunk < record.chunk_count;
            for record in records.iter().filter(has_it) {
                let run = chunk..chunk.saturating_add(1);
                ask(daemon, |id| {
                    chunks(id, manifest, record, &run, (is_damaged, false))
                })?;
            }
            Ok(())
        }
    }
}

fn ask(daemon: &Daemon, line: impl Fn(u64) -> FetchLine) -> Result<(), Errno> {
    daemon.fetch(&line).map_err(|error| {
        warn!(request = ?line(0), error = %Causes(&error), "a reader gets an error");
        error.errno()
    })
}

/// The request for a run of chunks.
fn chunks(
    id: u64,
    manifest: &Digest,
    record: &PackRecord,
    run: &Range<u32>,
    (again, readahead): (bool, bool),
) -> FetchLine {
    FetchLine::Chunks {
        id,
        image: manifest.to_string(),
        pack: record.digest.to_string(),
        index: record.index_digest.to_string(),
        first: run.start,
        count: run.end.saturating_sub(run.start),
        again,
        readahead,
    }
}

fn read(image: &Image<FilledStore>, inode: u64, range: &Range<u64>) -> Result<Vec<u8>, Error> {
    let inode: Inode = image.inode(inode)?;
    let length = range.end.saturating_sub(range.start);
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    image.read(&inode, range.start, length, |part| {
        bytes.extend_from_slice(part);
        Ok::<_, Error>(())
    })?;
    Ok(bytes)
}

/// What is missing by an error, or what a reader is told of it.
fn missing(error: Error) -> Result<Missing, Errno> {
    let chunk = |pack, chunk, is_damaged| {
        Ok(Missing::Chunk {
            pack,
            chunk,
            is_damaged,
        })
    };
    match error {
        Error::BlobMissing(blob) | Error::BlobDamaged(blob) => Ok(Missing::Blob(blob)),
        Error::ChunkMissing {
            pack,
            chunk: number,
        } => chunk(pack, number, false),
        Error::ChunkDamaged {
            pack,
            chunk: number,
        } => chunk(pack, number, true),
        Error::NoSuchFile(_) => Err(Errno::NOENT),
        Error::NotADirectory(_) => Err(Errno::NOTDIR),
        Error::NotAFile(_) => Err(Errno::ISDIR),
        other => {
            warn!(error = %Causes(&other), "a reader gets an error");
            Err(match &other {
                Error::Io { source, .. } => match source.kind() {
                    io::ErrorKind::PermissionDenied => Errno::ACCESS,
                    io::ErrorKind::OutOfMemory => Errno::NOMEM,
                    _ => Errno::IO,
                },
                _ => Errno::IO,
            })
        }
    }
}
