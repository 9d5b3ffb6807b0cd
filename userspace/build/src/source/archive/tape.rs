// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The bytes of an archive, unpacked, from its beginning to its end.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use flate2::bufread::MultiGzDecoder;
use flume::{bounded, Receiver, RecvTimeoutError};
use peerfs_format::Digest;
use peerfs_store::Sha256Writer;

use super::content::{ArchiveFile, Container};
use crate::source::{FileReader, SourceFile};
use crate::{Error, Result};

/// Bytes that are decompressed at once, ahead of those who read them.
const READ_AHEAD: usize = 256 * 1024;
/// Buffers of them that wait.
const BUFFERS_WAITING: usize = 8;
/// Bytes that are read at once from an archive that is not compressed.
const WINDOW: usize = 64 * 1024;
/// The time between two looks whether to give up, while nothing comes.
const TICK: Duration = Duration::from_millis(100);

/// The bytes of an archive, compressed or not.
pub enum Blob {
    /// An open file; of a regular one that is not compressed nothing is copied.
    File(File),
    /// A file of an archive that was read.
    Entry(ArchiveFile),
    /// Something that is opened when its turn comes, on the thread that reads, and read from its beginning to its end.
    Stream(Box<dyn FnOnce() -> io::Result<Box<dyn Read + Send>> + Send>),
}

/// What is known of an archive before it is read: all of it is verified.
#[derive(Clone, Copy, Debug, Default)]
pub struct Promise {
    /// The digest of its bytes as they come.
    pub digest: Option<Digest>,
    /// The number of its bytes as they come.
    pub size: Option<u64>,
    /// The digest of its bytes when they are decompressed.
    pub diff_id: Option<Digest>,
}

/// The progress of reading archives, for whoever watches it from another thread.
#[derive(Debug, Default)]
pub struct ReadProgress {
    bytes: AtomicU64,
}

impl ReadProgress {
    /// Bytes that were read so far, as they come.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The bytes of an archive, which are taken one after the other.
pub(super) struct Tape<'a> {
    /// For messages.
    path: PathBuf,
    source: Source,
    /// Bytes that were taken.
    position: u64,
    /// Bytes that may still be taken, of this archive and those after it.
    allowance: &'a mut u64,
    /// The whole of it, for a message.
    limit: u64,
    promise: Promise,
    hash: Option<Sha256Writer>,
    check: &'a dyn Fn() -> Result<()>,
}

enum Source {
    /// Bytes of a file that can be passed over.
    Window(Window),
    /// Bytes that another thread reads.
    Ahead(Ahead),
}

impl<'a> Tape<'a> {
    /// Begins to read an archive.
    ///
    /// # Errors
    /// It can't be opened, or is compressed by a method that is not supported.
    pub(super) fn new(
        blob: Blob,
        path: &Path,
        promise: Promise,
        progress: &Arc<ReadProgress>,
        (allowance, limit): (&'a mut u64, u64),
        check: &'a dyn Fn() -> Result<()>,
    ) -> Result<Self> {
        let opened = match blob {
            Blob::File(file) => match Container::archive(file, path)? {
                Ok((container, start, length)) => Opened::Range(Arc::new(container), start, length),
                Err(file) => Opened::Stream(Box::new(file)),
            },
            Blob::Entry(file) => match file.in_one_piece() {
                Some((container, place)) => Opened::Range(container, place, file.size()),
                None => Opened::Stream(Box::new(EntryReader { file, offset: 0 })),
            },
            Blob::Stream(open) => Opened::Stream(open().map_err(Error::io("open", path))?),
        };
        let source = match opened {
            Opened::Range(container, start, length) => {
                let mut window = Window::new(container, start, length, progress.clone());
                if coding(window.peek()?) == Coding::None {
                    Source::Window(window)
                } else {
                    let stream = Box::new(WindowReader(window));
                    Source::Ahead(Ahead::new(stream, path, promise, None)?)
                }
            }
            Opened::Stream(stream) => {
                Source::Ahead(Ahead::new(stream, path, promise, Some(progress.clone()))?)
            }
        };
        let is_hashed = match &source {
            // Both digests are of the same bytes.
            Source::Window(_) => promise.diff_id.or(promise.digest).is_some(),
            Source::Ahead(_) => promise.diff_id.is_some(),
        };
        Ok(Tape {
            path: path.to_owned(),
            source,
            position: 0,
            allowance,
            limit,
            promise,
            hash: is_hashed.then(Sha256Writer::default),
            check,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that were taken so far.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The container of the archive and the place in it that is next, if it is not compressed.
    pub(super) fn place(&self) -> Option<(Arc<Container>, u64)> {
        match &self.source {
            Source::Window(window) => Some((window.container.clone(), window.start + window.next)),
            Source::Ahead(_) => None,
        }
    }

    /// Fails if the build is to be given up.
    pub(super) fn check(&self) -> Result<()> {
        (self.check)()
    }

    /// The next bytes, at most `most` of them, and at least one unless the archive has ended.
    ///
    /// # Errors
    /// It can't be read, or is longer than it may be.
    pub(super) fn take(&mut self, most: u64) -> Result<&[u8]> {
        let bytes = match &mut self.source {
            Source::Window(window) => window.take(most)?,
            Source::Ahead(ahead) => ahead.take(most, &self.path, self.check)?,
        };
        let count = bytes.len() as u64;
        let left = self.allowance.checked_sub(count);
        *self.allowance = left.ok_or_else(|| Error::Limit {
            path: self.path.clone(),
            of: "disk once it is decompressed; if it is to be trusted, allow more (--max-size)",
            limit: self.limit,
        })?;
        self.position += count;
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        Ok(bytes)
    }

    /// Passes bytes over; false if there are not as many.
    pub(super) fn skip(&mut self, mut count: u64) -> Result<bool> {
        if let (Source::Window(window), None) = (&mut self.source, &self.hash) {
            let skipped = window.skip(count);
            self.position += skipped;
            return Ok(skipped == count);
        }
        while count > 0 {
            self.check()?;
            let taken = self.take(count)?.len() as u64;
            if taken == 0 {
                return Ok(false);
            }
            count -= taken;
        }
        Ok(true)
    }

    /// Reads up to the end, and verifies what was promised.
    pub(super) fn finish(mut self) -> Result<()> {
        self.skip(u64::MAX)?;
        let mismatch = |what, expected: String, actual: String| Error::Mismatch {
            path: self.path.clone(),
            what,
            expected,
            actual,
        };
        let (raw_size, raw_digest) = match self.source {
            Source::Window(window) => {
                window.container.check()?;
                (window.length, None)
            }
            Source::Ahead(ahead) => ahead.raw(),
        };
        if let Some(size) = self.promise.size.filter(|&size| size != raw_size) {
            return Err(wrong_size(&self.path, size, raw_size));
        }
        let digest = self.hash.map(Sha256Writer::finish);
        for (what, expected, actual) in [
            ("has the digest", self.promise.digest, raw_digest.or(digest)),
            (
                "has, once it is unpacked, the digest",
                self.promise.diff_id,
                digest,
            ),
        ] {
            if let (Some(expected), Some(actual)) = (expected, actual) {
                if expected != actual {
                    let (expected, actual) =
                        (format!("sha256:{expected}"), format!("sha256:{actual}"));
                    return Err(mismatch(what, expected, actual));
                }
            }
        }
        Ok(())
    }
}

/// The error of an archive that is too long or too short.
fn wrong_size(path: &Path, expected: u64, actual: u64) -> Error {
    Error::Mismatch {
        path: path.to_owned(),
        what: "does not have the right number of bytes: it has",
        expected: expected.to_string(),
        // Of what is too long no more is read.
        actual: match actual > expected {
            true => "more".to_owned(),
            false => actual.to_string(),
        },
    }
}

enum Opened {
    Range(Arc<Container>, u64, u64),
    Stream(Box<dyn Read + Send>),
}

/// Bytes of a container, read in order.
struct Window {
    container: Arc<Container>,
    start: u64,
    length: u64,
    /// The next byte, counted from the start.
    next: u64,
    buffer: Vec<u8>,
    /// Where the buffer's bytes are, counted from the start.
    buffered: u64,
    progress: Arc<ReadProgress>,
}

impl Window {
    fn new(
        container: Arc<Container>,
        start: u64,
        length: u64,
        progress: Arc<ReadProgress>,
    ) -> Self {
        Window {
            container,
            start,
            length,
            next: 0,
            buffer: Vec::new(),
            buffered: 0,
            progress,
        }
    }

    /// The bytes that are next, as far as they are in the buffer: some, unless the end is reached.
    fn peek(&mut self) -> Result<&[u8]> {
        let end = self.buffered + self.buffer.len() as u64;
        if !(self.buffered..end).contains(&self.next) {
            let count = self.length.saturating_sub(self.next).min(WINDOW as u64);
            self.buffer.resize(count as usize, 0);
            self.container
                .read_exact_at(&mut self.buffer, self.start + self.next)?;
            self.buffered = self.next;
        }
        let skipped = (self.next - self.buffered) as usize;
        Ok(self.buffer.get(skipped..).unwrap_or_default())
    }

    fn take(&mut self, most: u64) -> Result<&[u8]> {
        let available = self.peek()?.len() as u64;
        let skipped = (self.next - self.buffered) as usize;
        let count = available.min(most);
        self.next += count;
        self.progress.add(count);
        Ok(self
            .buffer
            .get(skipped..skipped + count as usize)
            .unwrap_or_default())
    }

    /// Passes bytes over, and returns how many there were.
    fn skip(&mut self, count: u64) -> u64 {
        let count = count.min(self.length - self.next);
        self.next += count;
        self.progress.add(count);
        count
    }
}

struct WindowReader(Window);

impl Read for WindowReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.0.take(buffer.len() as u64);
        let bytes = bytes.map_err(io::Error::other)?;
        let part = buffer.get_mut(..bytes.len()).unwrap_or_default();
        part.copy_from_slice(bytes);
        Ok(bytes.len())
    }
}

/// A file with holes as a stream.
struct EntryReader {
    file: ArchiveFile,
    offset: u64,
}

impl Read for EntryReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.file.size() - self.offset;
        let count = left.min(buffer.len() as u64) as usize;
        let part = buffer.get_mut(..count).unwrap_or_default();
        self.file
            .read_at(part, self.offset)
            .map_err(io::Error::other)?;
        self.offset += count as u64;
        Ok(count)
    }
}

/// The way in which an archive is compressed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Coding {
    None,
    Gzip,
    Zstd,
    Unsupported(&'static str),
}

/// Told by the first bytes.
fn coding(bytes: &[u8]) -> Coding {
    match bytes {
        [0x1f, 0x8b, ..] => Coding::Gzip,
        // Also what begins with a frame that is to be skipped.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Coding::Zstd,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Coding::Unsupported("xz"),
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, ..] => Coding::Unsupported("bzip2"),
        [0x04, 0x22, 0x4d, 0x18, ..] => Coding::Unsupported("lz4"),
        [0x1f, 0x9d, ..] => Coding::Unsupported("compress"),
        _ => Coding::None,
    }
}

/// Bytes that a thread of their own reads and decompresses. It ends when nobody takes them any more, and is not waited
/// for: a pipe may stay silent for long.
struct Ahead {
    buffers: Receiver<io::Result<Vec<u8>>>,
    current: Vec<u8>,
    /// Bytes of the current buffer that were taken.
    taken: usize,
    raw: Arc<Mutex<Raw>>,
    /// The number of bytes that there should be.
    promised: Option<u64>,
}

/// The bytes as they come.
struct Raw {
    size: u64,
    has_ended: bool,
    hash: Option<Sha256Writer>,
}

impl Ahead {
    fn new(
        stream: Box<dyn Read + Send>,
        path: &Path,
        promise: Promise,
        progress: Option<Arc<ReadProgress>>,
    ) -> Result<Self> {
        let raw = Arc::new(Mutex::new(Raw {
            size: 0,
            has_ended: false,
            hash: promise.digest.map(|_| Sha256Writer::default()),
        }));
        // Of what is longer than was promised no more is read than shows it.
        let most = promise.size.map_or(u64::MAX, |size| size.saturating_add(1));
        let reader = RawReader {
            stream: stream.take(most),
            raw: raw.clone(),
            progress,
        };
        let (sender, buffers) = bounded(BUFFERS_WAITING);
        let work = move || {
            let mut decoder = match decoder(reader) {
                Ok(decoder) => decoder,
                Err(error) => {
                    let _ = sender.send(Err(error));
                    return;
                }
            };
            loop {
                let buffer = fill(&mut decoder);
                let is_last = !matches!(&buffer, Ok(buffer) if !buffer.is_empty());
                if sender.send(buffer).is_err() || is_last {
                    return;
                }
            }
        };
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        let thread = thread::Builder::new().name(name.unwrap_or_default().replace('\0', ""));
        thread.spawn(work).map_err(Error::Thread)?;
        Ok(Ahead {
            buffers,
            current: Vec::new(),
            taken: 0,
            raw,
            promised: promise.size,
        })
    }

    fn take(&mut self, most: u64, path: &Path, check: &dyn Fn() -> Result<()>) -> Result<&[u8]> {
        if self.taken == self.current.len() {
            let buffer = loop {
                match self.buffers.recv_timeout(TICK) {
                    Ok(buffer) => break buffer,
                    Err(RecvTimeoutError::Timeout) => check()?,
                    // It sent an empty one before.
                    Err(RecvTimeoutError::Disconnected) => break Ok(Vec::new()),
                }
            };
            self.current = buffer.map_err(|source| self.failed(source, path))?;
            self.taken = 0;
        }
        let start = self.taken;
        let count = (self.current.len() - start).min(usize::try_from(most).unwrap_or(usize::MAX));
        self.taken += count;
        Ok(self.current.get(start..start + count).unwrap_or_default())
    }

    /// An error of the stream itself, or of what its bytes should be. If these came to their end too early, that says
    /// more than what a decompressor makes of it.
    fn failed(&self, source: io::Error, path: &Path) -> Error {
        let source = match source.downcast::<RawError>() {
            Ok(RawError(source)) => {
                return match source.downcast::<Error>() {
                    Ok(error) => error,
                    Err(source) => Error::io("read", path)(source),
                }
            }
            Err(source) => source,
        };
        let raw = self.raw.lock().unwrap_or_else(PoisonError::into_inner);
        match self.promised {
            Some(size) if raw.size > size || (raw.has_ended && raw.size < size) => {
                wrong_size(path, size, raw.size)
            }
            _ => Error::Decompress {
                path: path.to_owned(),
                source,
            },
        }
    }

    /// The number of bytes as they came, and their digest if it was asked for.
    fn raw(self) -> (u64, Option<Digest>) {
        let mut raw = self.raw.lock().unwrap_or_else(PoisonError::into_inner);
        (raw.size, raw.hash.take().map(Sha256Writer::finish))
    }
}

/// Reads as much as fits into a buffer; nothing at the end.
fn fill(decoder: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; READ_AHEAD];
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match decoder.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            // What came before is of no use without the rest.
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}

/// An error of the stream, to tell it from those of a decompressor.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct RawError(io::Error);

struct RawReader<R> {
    stream: R,
    raw: Arc<Mutex<Raw>>,
    progress: Option<Arc<ReadProgress>>,
}

impl<R: Read> Read for RawReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = loop {
            match self.stream.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                outcome => break outcome.map_err(|error| io::Error::other(RawError(error)))?,
            }
        };
        let mut raw = self.raw.lock().unwrap_or_else(PoisonError::into_inner);
        raw.size += count as u64;
        raw.has_ended |= count == 0 && !buffer.is_empty();
        if let Some(hash) = &mut raw.hash {
            hash.update(buffer.get(..count).unwrap_or_default());
        }
        if let Some(progress) = &self.progress {
            progress.add(count as u64);
        }
        Ok(count)
    }
}

/// The decompressed bytes of a stream, up to its very end.
fn decoder(reader: RawReader<io::Take<Box<dyn Read + Send>>>) -> io::Result<Box<dyn Read>> {
    let mut reader = BufReader::with_capacity(WINDOW, reader);
    // A pipe may give less than tells.
    let mut first = Vec::new();
    reader.by_ref().take(8).read_to_end(&mut first)?;
    let coding = coding(&first);
    let reader = BufReader::with_capacity(WINDOW, Cursor::new(first).chain(reader));
    Ok(match coding {
        Coding::None => Box::new(reader),
        Coding::Gzip => Box::new(MultiGzDecoder::new(reader)),
        Coding::Zstd => Box::new(zstd::Decoder::with_buffer(reader)?),
        Coding::Unsupported(method) => {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("it is compressed by {method}; decompress it first, and only gzip and zstd are read"),
            ))
        }
    })
}
