// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The reading stage: regular files' content, once.

use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use flume::{bounded, Receiver, Sender};
use peerfs_format::CHUNK_MAX;
use peerfs_store::sha256;

use crate::chunker::{SparseChunker, BLOCK_SIZE};
use crate::known_files::{KnownFile, KnownFiles};
use crate::pipeline::{ReadPiece, ReadPieces, SmallFile, WholeFile};
use crate::seen::{FileIdentity, Seen};
use crate::source::{FileReader, SourceFile};
use crate::table::{Scratch, Table};
use crate::xattrs::{XattrSet, XattrSetId, XattrSets};
use crate::{Error, Options, Progress, Result};

/// Small files that are read as one job.
const BATCH_FILES: usize = 64;
/// Bytes of small files that are read as one job.
const BATCH_BYTES: u64 = 4 * CHUNK_MAX as u64;
/// Files that need not be read and are passed on as one job.
const KNOWN_FILES: usize = 1024;
/// Pieces of a large file that wait to be sequenced.
const PIECES_WAITING: usize = 8;
/// Bytes read at once from a large file: a multiple of BLOCK_SIZE.
const READ_SIZE: usize = 256 * 1024;
/// The most unreadable files that a message lists.
const LISTED: usize = 50;

/// The state that walking and reading share.
#[derive(Clone, Copy)]
pub(crate) struct ReadContext<'a> {
    pub(crate) options: &'a Options,
    pub(crate) xattrs: &'a XattrSets,
    pub(crate) progress: &'a Progress,
    pub(crate) unreadable: &'a Unreadable,
    /// Where what is too large for memory goes.
    pub(crate) scratch: &'a Scratch,
    /// The files of an earlier build.
    pub(crate) known: Option<&'a KnownFiles>,
}

/// The files that a reading thread reads at once.
enum ReadJob<F> {
    /// Files that share chunks.
    Small(Vec<F>),
    /// A longer one.
    Large(F),
}

/// A read job, and where its pieces go.
pub(crate) struct ReadRequest<F> {
    job: ReadJob<F>,
    pieces: Sender<Result<ReadPiece>>,
}

/// The queue to which a [`TreeSource`](crate::TreeSource) hands its regular files over, to be read.
pub struct ReadQueue<'a, F> {
    /// To the readers, and in the same order to the sequencer.
    requests: Sender<ReadRequest<F>>,
    results: Sender<ReadPieces>,
    /// Small files that wait for some more. Either there are some, or known ones.
    batch: Vec<F>,
    batch_bytes: u64,
    /// Files that need not be read, which wait for some more.
    known: Vec<KnownFile>,
    /// Files so far.
    count: u64,
    /// What the source can tell of them, if that is to be remembered.
    seen: Table<Seen>,
    context: ReadContext<'a>,
}

/// A file that was handed over to a [`ReadQueue`]: the content of one inode.
#[derive(Debug)]
pub struct QueuedFile {
    /// Counted in the order of handing over.
    pub(crate) number: u64,
    pub(crate) size: u64,
}

impl<'a, F: SourceFile> ReadQueue<'a, F> {
    pub(crate) fn new(
        requests: Sender<ReadRequest<F>>,
        results: Sender<ReadPieces>,
        context: ReadContext<'a>,
    ) -> Self {
        ReadQueue {
            requests,
            results,
            batch: Vec::new(),
            batch_bytes: 0,
            known: Vec::new(),
            count: 0,
            seen: Table::new(context.scratch),
            context,
        }
    }

    /// Where the tree goes that is too large for memory.
    pub(crate) fn scratch(&self) -> &'a Scratch {
        self.context.scratch
    }

    /// Hands a file over. Waits if the readers are behind.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if the build was given up, or if something else of it failed already.
    pub fn add(&mut self, file: F) -> Result<QueuedFile> {
        let size = file.size();
        let queued = self.count(size);
        self.flush_known()?;
        if size >= self.context.options.layout.large_file {
            self.flush()?;
            self.send(ReadJob::Large(file), PIECES_WAITING)?;
            return Ok(queued);
        }
        self.batch.push(file);
        self.batch_bytes += size;
        if self.batch.len() >= BATCH_FILES || self.batch_bytes >= BATCH_BYTES {
            self.flush()?;
        }
        Ok(queued)
    }

    /// Hands a file over that need not be read, if it is such a one.
    ///
    /// # Errors
    /// See [`add`](ReadQueue::add).
    pub(crate) fn add_known(&mut self, identity: &FileIdentity) -> Result<Option<QueuedFile>> {
        let context = self.context;
        let known = context
            .known
            .and_then(|known| known.find(identity, context.xattrs));
        let Some(file) = known else {
            return Ok(None);
        };
        let queued = self.count(file.size);
        if !self.batch.is_empty() {
            self.flush()?;
        }
        self.known.push(file);
        if self.known.len() >= KNOWN_FILES {
            self.flush_known()?;
        }
        Ok(Some(queued))
    }

    /// Notes what the source can tell of a file, for the next build.
    pub(crate) fn remember(&mut self, identity: FileIdentity, inode: u32) {
        if self.context.options.remember.is_some() {
            self.seen.push(&Seen(identity, inode));
        }
    }

    /// What was noted.
    pub(crate) fn into_seen(self) -> Table<Seen> {
        self.seen
    }

    /// Has the small files read that were handed over, which otherwise wait until there are some more. For sources
    /// whose files keep something open.
    ///
    /// # Errors
    /// See [`add`](ReadQueue::add).
    pub fn flush(&mut self) -> Result<()> {
        self.flush_known()?;
        self.batch_bytes = 0;
        match std::mem::take(&mut self.batch) {
            batch if batch.is_empty() => Ok(()),
            batch => self.send(ReadJob::Small(batch), 1),
        }
    }

    /// Fails if the build is to be given up: to be asked again and again.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub fn check_cancelled(&self) -> Result<()> {
        self.context.options.check_cancelled()
    }

    /// Returns None in place of an error that says that the permission to read a file is lacking. The build fails
    /// in the end, with all such files.
    ///
    /// # Errors
    /// All other errors.
    pub fn note_unreadable<T>(&self, outcome: Result<T>) -> Result<Option<T>> {
        self.context.unreadable.note(outcome)
    }

    /// Keeps a set of extended attributes; None for the empty one.
    pub(crate) fn keep_xattrs(&self, set: XattrSet) -> Option<XattrSetId> {
        self.context.xattrs.add(set)
    }

    fn count(&mut self, size: u64) -> QueuedFile {
        let number = self.count;
        self.count += 1;
        self.context.progress.add_found(size);
        QueuedFile { number, size }
    }

    /// Passes the known files on, by the readers.
    fn flush_known(&mut self) -> Result<()> {
        let files = std::mem::take(&mut self.known);
        if files.is_empty() {
            return Ok(());
        }
        let bytes = files.iter().map(|file| file.size).sum();
        self.context.progress.add_done(files.len() as u64, bytes);
        let (pieces, receiver) = bounded(1);
        let _ = pieces.send(Ok(ReadPiece::Known(files))); // It has room for one.
        self.results.send(receiver).map_err(|_| Error::Cancelled)
    }

    fn send(&self, job: ReadJob<F>, pieces_waiting: usize) -> Result<()> {
        let (pieces, receiver) = bounded(pieces_waiting);
        self.results.send(receiver).map_err(|_| Error::Cancelled)?;
        self.requests
            .send(ReadRequest { job, pieces })
            .map_err(|_| Error::Cancelled)
    }
}

/// Reads files until there are no more, or nobody wants them.
pub(crate) fn run<F: SourceFile>(requests: &Receiver<ReadRequest<F>>, context: ReadContext<'_>) {
    for request in requests {
        let pieces = &request.pieces;
        let outcome = match request.job {
            ReadJob::Small(files) => {
                read_small(files, context).map(|piece| pieces.send(Ok(piece)).is_ok())
            }
            ReadJob::Large(file) => read_large(file, pieces, context),
        };
        let is_wanted = match outcome {
            Ok(is_wanted) => is_wanted,
            Err(error) => pieces.send(Err(error)).is_ok(),
        };
        if !is_wanted {
            return;
        }
    }
}

fn read_small<F: SourceFile>(files: Vec<F>, context: ReadContext<'_>) -> Result<ReadPiece> {
    let total: u64 = files.iter().map(SourceFile::size).sum();
    let mut content = Vec::with_capacity(total as usize);
    let mut read = Vec::with_capacity(files.len());
    for file in files {
        context.options.check_cancelled()?;
        let size = file.size();
        let reader = context.unreadable.note(file.open())?;
        if let Some(reader) = reader.filter(|_| context.unreadable.is_empty()) {
            let outcome = read_small_file(reader, size, &mut content, context.xattrs);
            read.extend(context.unreadable.note(outcome)?);
        }
    }
    context.progress.add_done(read.len() as u64, total);
    Ok(ReadPiece::Small {
        files: read,
        content,
    })
}

/// Appends a small file's bytes to `content`.
fn read_small_file(
    mut reader: impl FileReader,
    size: u64,
    content: &mut Vec<u8>,
    xattrs: &XattrSets,
) -> Result<SmallFile> {
    let start = content.len();
    // Less than Layout::large_file.
    let length = size as usize;
    content.resize(start + length, 0);
    let bytes = content.get_mut(start..).unwrap_or_default();
    if !bytes.is_empty() {
        reader.read_at(bytes, 0)?;
    }
    Ok(SmallFile {
        length,
        whole: WholeFile {
            digest: sha256(bytes),
            xattrs: xattrs.add(reader.finish()?),
        },
    })
}

/// Reads a large file; false if nobody wants it any more.
fn read_large<F: SourceFile>(
    file: F,
    pieces: &Sender<Result<ReadPiece>>,
    context: ReadContext<'_>,
) -> Result<bool> {
    let size = file.size();
    let reader = context.unreadable.note(file.open())?;
    let Some(reader) = reader.filter(|_| context.unreadable.is_empty()) else {
        return Ok(true);
    };
    let large = LargeFile {
        reader,
        size,
        pieces,
        context,
        chunker: SparseChunker::new(context.options.layout.chunks),
    };
    Ok(context.unreadable.note(large.read())?.unwrap_or(true))
}

struct LargeFile<'a, R> {
    reader: R,
    size: u64,
    pieces: &'a Sender<Result<ReadPiece>>,
    context: ReadContext<'a>,
    chunker: SparseChunker,
}

impl<R: FileReader> LargeFile<'_, R> {
    fn read(mut self) -> Result<bool> {
        let progress = self.context.progress;
        let mut buffer = vec![0; READ_SIZE];
        let mut offset = 0;
        while offset < self.size {
            let (data, data_end) = self.next_data(offset)?;
            self.chunker.push_hole(data - offset);
            progress.add_done(0, data - offset);
            offset = data;
            while offset < data_end {
                self.context.options.check_cancelled()?;
                let length = (data_end - offset).min(READ_SIZE as u64) as usize;
                let part = buffer.get_mut(..length).unwrap_or_default();
                self.reader.read_at(part, offset)?;
                self.chunker.push(part);
                offset += length as u64;
                progress.add_done(0, length as u64);
                let chunks = self.chunker.chunks();
                if !chunks.is_empty() && self.pieces.send(Ok(ReadPiece::Chunks(chunks))).is_err() {
                    return Ok(false);
                }
            }
        }
        let set = self.reader.finish()?;
        progress.add_done(1, 0);
        let (chunks, digest) = self.chunker.finish();
        let end = WholeFile {
            digest,
            xattrs: self.context.xattrs.add(set),
        };
        Ok(self.pieces.send(Ok(ReadPiece::Chunks(chunks))).is_ok()
            && self.pieces.send(Ok(ReadPiece::End(end))).is_ok())
    }

    /// The file's next run of data as its source knows it, at or behind `offset`: whole blocks, but at the end of
    /// the file.
    fn next_data(&mut self, offset: u64) -> Result<(u64, u64)> {
        let data = self.reader.next_data(offset)?;
        let start = data.start.clamp(offset, self.size);
        if start == self.size {
            return Ok((start, start));
        }
        // At least some progress, whatever the source says.
        let end = data.end.clamp(start + 1, self.size);
        let block = BLOCK_SIZE as u64;
        let end = end.checked_next_multiple_of(block).unwrap_or(self.size);
        Ok((start - start % block, end.min(self.size)))
    }
}

/// The files of the tree that the user may not read: all are found before the build fails, not one a run. Once
/// there is one, nothing is built any more: the others are only looked for.
#[derive(Default)]
pub(crate) struct Unreadable {
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    paths: Vec<PathBuf>,
    more: u64,
}

impl Unreadable {
    /// Notes the file of an error that says that its reader lacks the permission, and returns None then.
    ///
    /// # Errors
    /// All other errors.
    pub(crate) fn note<T>(&self, outcome: Result<T>) -> Result<Option<T>> {
        match outcome {
            Err(Error::Io { path, source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                let mut found = self.lock();
                if found.paths.len() < LISTED {
                    found.paths.push(path);
                } else {
                    found.more += 1;
                }
                Ok(None)
            }
            outcome => outcome.map(Some),
        }
    }

    /// Whether all files could be read so far.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().paths.is_empty()
    }

    /// Fails if there are any.
    pub(crate) fn check(self) -> Result<()> {
        let Found { mut paths, more } = self
            .found
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        if paths.is_empty() {
            return Ok(());
        }
        // Found by many threads.
        paths.sort_unstable();
        Err(Error::Unreadable { paths, more })
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
