// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The reading stage: regular files' content, once.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use flume::{Receiver, Sender};
use peerfs_store::sha256;
use rustix::fs::{fstat, openat, seek, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use crate::chunker::{SparseChunker, BLOCK_SIZE};
use crate::pipeline::{
    FileJob, ReadContext, ReadJob, ReadPiece, ReadRequest, SmallFile, WholeFile,
};
use crate::xattrs::{self, XattrSets};
use crate::{Error, Result};

/// Bytes read at once from a large file: a multiple of BLOCK_SIZE.
const READ_SIZE: usize = 256 * 1024;

/// Reads files until there are no more, or nobody wants them.
pub(crate) fn run(requests: &Receiver<ReadRequest>, context: ReadContext<'_>) {
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

impl FileJob {
    fn path(&self) -> PathBuf {
        self.directory.path.join(OsStr::from_bytes(&self.name))
    }

    /// Opens the file, if it is as the walk found it.
    fn open(&self) -> Result<File> {
        // Should it be a FIFO by now, opening must not wait, nor what is in it be read.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        openat(
            &self.directory.descriptor,
            self.name.as_slice(),
            flags,
            Mode::empty(),
        )
        .map_err(|errno| Error::tree("open", &self.path())(errno))
        .map(File::from)
        .and_then(|file| self.check(&file).map(|()| file))
    }

    /// Fails if the file is not as the walk found it.
    fn check(&self, file: &File) -> Result<()> {
        let stat = fstat(file).map_err(|errno| Error::tree("read", &self.path())(errno))?;
        if self.expected.matches(&stat) {
            Ok(())
        } else {
            Err(Error::Changed(self.path()))
        }
    }
}

fn read_small(files: Vec<FileJob>, context: ReadContext<'_>) -> Result<ReadPiece> {
    let total: u64 = files.iter().map(|file| file.expected.size).sum();
    let mut content = Vec::with_capacity(total as usize + 1);
    let mut read = Vec::with_capacity(files.len());
    for job in files {
        context.options.check_cancelled()?;
        let file = context.unreadable.note(job.open())?;
        if let Some(file) = file.filter(|_| context.unreadable.is_empty()) {
            let outcome = read_small_file(&job, &file, &mut content, context.xattrs);
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
    job: &FileJob,
    file: &File,
    content: &mut Vec<u8>,
    xattrs: &XattrSets,
) -> Result<SmallFile> {
    let start = content.len();
    // One byte more shows whether it has grown.
    let length = file
        .take(job.expected.size + 1)
        .read_to_end(content)
        .map_err(|error| Error::io("read", &job.path())(error))?;
    if length as u64 != job.expected.size {
        return Err(Error::Changed(job.path()));
    }
    let set = xattrs::of_descriptor(file.as_fd(), &job.path())?;
    job.check(file)?;
    Ok(SmallFile {
        length,
        whole: WholeFile {
            digest: sha256(content.get(start..).unwrap_or_default()),
            xattrs: xattrs.add(set),
        },
    })
}

/// Reads a large file; false if nobody wants it any more.
fn read_large(
    job: FileJob,
    pieces: &Sender<Result<ReadPiece>>,
    context: ReadContext<'_>,
) -> Result<bool> {
    let file = context.unreadable.note(job.open())?;
    let Some(file) = file.filter(|_| context.unreadable.is_empty()) else {
        return Ok(true);
    };
    let reader = LargeReader {
        job,
        file,
        pieces,
        context,
        chunker: SparseChunker::new(context.options.layout.chunks),
    };
    Ok(context.unreadable.note(reader.read())?.unwrap_or(true))
}

struct LargeReader<'a> {
    job: FileJob,
    file: File,
    pieces: &'a Sender<Result<ReadPiece>>,
    context: ReadContext<'a>,
    chunker: SparseChunker,
}

impl LargeReader<'_> {
    fn read(mut self) -> Result<bool> {
        let progress = self.context.progress;
        let mut buffer = vec![0; READ_SIZE];
        let size = self.job.expected.size;
        let mut offset = 0;
        while offset < size {
            let (data, data_end) = self.next_data(offset)?;
            self.chunker.push_hole(data - offset);
            progress.add_done(0, data - offset);
            offset = data;
            while offset < data_end {
                self.context.options.check_cancelled()?;
                let length = (data_end - offset).min(READ_SIZE as u64) as usize;
                let part = buffer.get_mut(..length).unwrap_or_default();
                self.read_exact(part, offset)?;
                self.chunker.push(part);
                offset += length as u64;
                progress.add_done(0, length as u64);
                let chunks = self.chunker.chunks();
                if !chunks.is_empty() && self.pieces.send(Ok(ReadPiece::Chunks(chunks))).is_err() {
                    return Ok(false);
                }
            }
        }
        let set = xattrs::of_descriptor(self.file.as_fd(), &self.job.path())?;
        self.job.check(&self.file)?;
        progress.add_done(1, 0);
        let (chunks, digest) = self.chunker.finish();
        let end = WholeFile {
            digest,
            xattrs: self.context.xattrs.add(set),
        };
        Ok(self.pieces.send(Ok(ReadPiece::Chunks(chunks))).is_ok()
            && self.pieces.send(Ok(ReadPiece::End(end))).is_ok())
    }

    /// The file's next run of data as the file system knows it, at or behind `offset`: whole blocks,
    /// but at the end of the file.
    fn next_data(&self, offset: u64) -> Result<(u64, u64)> {
        let size = self.job.expected.size;
        if !self.job.expected.is_sparse {
            return Ok((offset, size));
        }
        let data = match seek(&self.file, SeekFrom::Data(offset)) {
            Ok(data) => data.clamp(offset, size),
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => return Ok((size, size)),
            // The file system does not know.
            Err(Errno::INVAL) => offset,
            Err(errno) => return Err(Error::tree("read", &self.job.path())(errno)),
        };
        let end = match seek(&self.file, SeekFrom::Hole(data)) {
            // At least some progress, should the file change meanwhile.
            Ok(end) => end.clamp(data.saturating_add(1).min(size), size),
            Err(Errno::NXIO | Errno::INVAL) => size,
            Err(errno) => return Err(Error::tree("read", &self.job.path())(errno)),
        };
        let start = data - data % BLOCK_SIZE as u64;
        Ok((start, end.next_multiple_of(BLOCK_SIZE as u64).min(size)))
    }

    fn read_exact(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => Error::Changed(self.job.path()),
                _ => Error::io("read", &self.job.path())(error),
            })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustix::fs::mkfifoat;

    use super::*;
    use crate::expected::Expected;
    use crate::pipeline::OpenDirectory;

    #[test]
    fn a_fifo_in_the_place_of_a_file_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "content").unwrap();
        let expected = Expected::from(&rustix::fs::stat(&path).unwrap());
        let directory = Arc::new(OpenDirectory {
            descriptor: File::open(folder.path()).unwrap().into(),
            path: folder.path().to_owned(),
        });
        std::fs::remove_file(&path).unwrap();
        mkfifoat(&directory.descriptor, "file", Mode::RUSR | Mode::WUSR).unwrap();
        let job = FileJob {
            directory,
            name: b"file".to_vec(),
            expected,
        };
        // With nobody who writes, and with somebody who does not write yet.
        assert!(matches!(job.open(), Err(Error::Changed(changed)) if changed == path));
        let _writer = File::options().read(true).write(true).open(&path).unwrap();
        assert!(matches!(job.open(), Err(Error::Changed(changed)) if changed == path));
    }
}
