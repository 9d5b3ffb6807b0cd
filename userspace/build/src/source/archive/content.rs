// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Where the content of an archive's files is: in the archive itself, if that is a file that is not compressed, or in a
//! spool.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::result::Result as StdResult;
use std::sync::Arc;

use peerfs_store::{Store, TemporaryFile};
use rustix::fs::{fstat, tell};

use super::sparse::Run;
use crate::source::directory::file::Expected;
use crate::source::{FileReader, SourceFile};
use crate::xattrs::XattrSet;
use crate::{Error, Result};

/// Bytes that are written to a spool at once.
const SPOOL_WRITE: usize = 1024 * 1024;
/// The length of a run of zeros that a spool does not store.
const ZEROS: usize = 4096;

/// A file that content lies in.
pub(super) struct Container {
    file: Bytes,
    /// For messages.
    path: PathBuf,
}

enum Bytes {
    /// Somebody else's, which must stay as it is.
    Archive(File, Expected),
    Spool(TemporaryFile),
}

impl Container {
    /// An archive that is a regular file, with where it begins, which is where the file would be read next, and its bytes;
    /// the file itself if it is none.
    pub(super) fn archive(file: File, path: &Path) -> Result<StdResult<(Self, u64, u64), File>> {
        let stat = fstat(&file).map_err(Error::io("read", path))?;
        let is_regular = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file();
        if !is_regular {
            return Ok(Err(file));
        }
        let end = u64::try_from(stat.st_size).unwrap_or_default();
        let start = tell(&file).map_err(Error::io("read", path))?.min(end);
        let container = Container {
            file: Bytes::Archive(file, Expected::from(&stat)),
            path: path.to_owned(),
        };
        Ok(Ok((container, start, end - start)))
    }

    pub(super) fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let file = match &self.file {
            Bytes::Archive(file, _) => file,
            Bytes::Spool(file) => file.file(),
        };
        let outcome = file.read_exact_at(buffer, offset);
        outcome.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::Changed(self.path.clone()),
            _ => Error::io("read", &self.path)(error),
        })
    }

    /// Fails if an archive is not what it was.
    pub(super) fn check(&self) -> Result<()> {
        let Bytes::Archive(file, expected) = &self.file else {
            return Ok(());
        };
        let stat = fstat(file).map_err(Error::io("read", &self.path))?;
        if expected.matches(&stat) {
            Ok(())
        } else {
            Err(Error::Changed(self.path.clone()))
        }
    }
}

/// A run of a file's bytes in its container.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// In the file.
    pub(super) offset: u64,
    /// In the container.
    pub(super) place: u64,
    pub(super) length: u64,
}

/// A regular file of an archive.
#[derive(Clone)]
pub struct ArchiveFile {
    container: Arc<Container>,
    size: u64,
    /// In order; what is in none of them is zeros.
    segments: Arc<[Segment]>,
    xattrs: XattrSet,
}

impl ArchiveFile {
    pub(super) fn new(
        container: Arc<Container>,
        size: u64,
        segments: Vec<Segment>,
        xattrs: XattrSet,
    ) -> Self {
        ArchiveFile {
            container,
            size,
            segments: segments.into(),
            xattrs,
        }
    }

    /// The container and the place in it, if all of the file is there in one piece.
    pub(super) fn in_one_piece(&self) -> Option<(Arc<Container>, u64)> {
        let place = match &*self.segments {
            [] if self.size == 0 => 0,
            [segment] if segment.length == self.size => segment.place,
            _ => return None,
        };
        Some((self.container.clone(), place))
    }

    /// All bytes of a file of at most `limit`; None if it has more.
    ///
    /// # Errors
    /// It can't be read, or changed.
    pub fn read(&self, limit: u64) -> Result<Option<Vec<u8>>> {
        if self.size > limit {
            return Ok(None);
        }
        let mut content = vec![0; self.size as usize];
        self.read_segments(&mut content, 0)?;
        self.container.check()?;
        Ok(Some(content))
    }

    /// Fills a buffer that is all zeros.
    fn read_segments(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let end = offset + buffer.len() as u64;
        let first = self
            .segments
            .partition_point(|segment| segment.offset + segment.length <= offset);
        for segment in self.segments.iter().skip(first) {
            if segment.offset >= end {
                break;
            }
            let from = segment.offset.max(offset);
            let to = (segment.offset + segment.length).min(end);
            let part = buffer.get_mut((from - offset) as usize..(to - offset) as usize);
            let place = segment.place + (from - segment.offset);
            self.container
                .read_exact_at(part.unwrap_or_default(), place)?;
        }
        Ok(())
    }
}

impl SourceFile for ArchiveFile {
    type Reader = Self;

    fn size(&self) -> u64 {
        self.size
    }

    fn open(self) -> Result<Self> {
        Ok(self)
    }
}

impl FileReader for ArchiveFile {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<()> {
        if self.in_one_piece().is_none() {
            buffer.fill(0);
        }
        self.read_segments(buffer, offset)
    }

    fn next_data(&mut self, offset: u64) -> Result<Range<u64>> {
        let segments = self.segments.iter();
        let mut runs = segments.map(|segment| segment.offset..segment.offset + segment.length);
        let next = runs.find(|run| run.end > offset);
        Ok(next.unwrap_or(self.size..self.size))
    }

    fn finish(self) -> Result<XattrSet> {
        self.container.check()?;
        Ok(self.xattrs)
    }
}

/// A file of the store, without a name, that content is written to.
pub(super) struct Spool {
    container: Arc<Container>,
    /// Bytes before those that wait.
    written: u64,
    waiting: Vec<u8>,
    /// For messages.
    path: PathBuf,
}

impl Spool {
    pub(super) fn new(store: &Store) -> Result<Self> {
        let path = store.root_dir().join("tmp");
        Ok(Spool {
            container: Arc::new(Container {
                file: Bytes::Spool(store.temporary_file()?),
                path: path.clone(),
            }),
            written: 0,
            waiting: Vec::new(),
            path,
        })
    }

    pub(super) fn container(&self) -> Arc<Container> {
        self.container.clone()
    }

    /// Adds bytes of a file that begin at `offset` in it, those that are not zeros, and where they are to its segments.
    pub(super) fn add(
        &mut self,
        bytes: &[u8],
        mut offset: u64,
        segments: &mut Vec<Segment>,
    ) -> Result<()> {
        // A block a time, but what is no zeros at once.
        let mut start = 0;
        let mut end = 0;
        for block in bytes.chunks(ZEROS) {
            let is_hole = block.len() == ZEROS && block.iter().all(|&byte| byte == 0);
            if is_hole {
                self.store(bytes.get(start..end), offset, segments)?;
                offset += (end - start + ZEROS) as u64;
                start = end + ZEROS;
                end = start;
            } else {
                end += block.len();
            }
        }
        self.store(bytes.get(start..end), offset, segments)
    }

    fn store(
        &mut self,
        bytes: Option<&[u8]>,
        offset: u64,
        segments: &mut Vec<Segment>,
    ) -> Result<()> {
        let bytes = bytes.unwrap_or_default();
        if bytes.is_empty() {
            return Ok(());
        }
        let length = bytes.len() as u64;
        let place = self.written + self.waiting.len() as u64;
        match segments.last_mut() {
            Some(last)
                if (last.offset + last.length, last.place + last.length) == (offset, place) =>
            {
                last.length += length;
            }
            _ => segments.push(Segment {
                offset,
                place,
                length,
            }),
        }
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= SPOOL_WRITE {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes what waits, which nobody can read before.
    pub(super) fn flush(&mut self) -> Result<()> {
        if let Bytes::Spool(file) = &self.container.file {
            let outcome = file.file().write_all_at(&self.waiting, self.written);
            outcome.map_err(Error::io("write to a file in", &self.path))?;
        }
        self.written += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }
}

/// The segments of a file whose runs of data lie one behind the other in a container, from `place` on.
pub(super) fn segments_of(runs: &[Run], mut place: u64) -> Vec<Segment> {
    let mut segments = Vec::with_capacity(runs.len());
    for run in runs {
        segments.push(Segment {
            offset: run.offset,
            place,
            length: run.length,
        });
        place += run.length;
    }
    segments
}
