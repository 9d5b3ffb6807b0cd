// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The ways to read what is open.

use std::fs::File;
use std::io::{IoSliceMut, Read, Seek as _};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use peerfs_sys::mapping::{PrivateMapping, SharedMapping};
use rustix::fs::{self, FileType, RawDir, SeekFrom};
use rustix::io::{self, Errno};
use rustix::pipe::{pipe, splice, SpliceFlags};

use super::answer::Answer;
use super::operation::MapWay;
use super::side::Outcome;

/// The bytes that fit into a pipe that nobody reads meanwhile.
const PIPE: usize = 16 * 4096;
/// The most bytes of a hole that only one tree has that are looked at.
const HOLE_CHECKED: u64 = 1024 * 1024;

/// Reads until the buffer is full or the file ends: a short read is no difference.
pub(super) fn fill(
    length: usize,
    mut read: impl FnMut(&mut [u8], u64) -> Result<usize, Errno>,
) -> Outcome {
    let mut bytes = vec![0; length];
    let mut done = 0;
    loop {
        match read(&mut bytes[done..], done as u64)? {
            0 => break,
            count => done += count,
        }
        if done == length {
            break;
        }
    }
    bytes.truncate(done);
    Ok(Answer::Bytes(bytes))
}

pub(super) fn vectors(
    lengths: [usize; 3],
    read: impl FnOnce(&mut [IoSliceMut<'_>]) -> Result<usize, Errno>,
) -> Outcome {
    let mut parts = lengths.map(|length| vec![0; length]);
    let [one, two, three] = &mut parts;
    let mut buffers = [one, two, three].map(|part| IoSliceMut::new(part));
    let count = read(&mut buffers)?;
    let mut bytes = parts.concat();
    bytes.truncate(count);
    Ok(Answer::Bytes(bytes))
}

/// With an aligned buffer: in the middle of one that is a page too long.
pub(super) fn direct(file: &File, offset: u64, length: usize) -> Outcome {
    let mut bytes = vec![0; length + 4096];
    let skipped = bytes.as_ptr().align_offset(4096);
    let count = io::pread(file, &mut bytes[skipped..skipped + length], offset)?;
    Ok(Answer::Bytes(bytes[skipped..skipped + count].to_vec()))
}

pub(super) fn spliced(file: &File, offset: Option<u64>, length: usize) -> Outcome {
    let (reader, writer) = pipe()?;
    let mut position = offset;
    let length = length.min(PIPE);
    let count = splice(
        file,
        position.as_mut(),
        &writer,
        None,
        length,
        SpliceFlags::empty(),
    )?;
    drop(writer);
    let mut bytes = Vec::new();
    File::from(reader)
        .read_to_end(&mut bytes)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    if bytes.len() != count {
        let finding = format!("splice said {count} and gave {} bytes", bytes.len());
        return Ok(Answer::Inconsistent(finding));
    }
    Ok(Answer::Bytes(bytes))
}

/// All that was written to a file in memory.
pub(super) fn contents(memory: OwnedFd, written: usize) -> Outcome {
    let mut memory = File::from(memory);
    let mut bytes = Vec::new();
    memory
        .rewind()
        .and_then(|()| memory.read_to_end(&mut bytes))
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    if bytes.len() != written {
        let finding = format!("{written} bytes were copied, and there are {}", bytes.len());
        return Ok(Answer::Inconsistent(finding));
    }
    Ok(Answer::Bytes(bytes))
}

pub(super) fn mapped(file: &File, offset: u64, length: usize, way: MapWay) -> Outcome {
    let length = NonZeroUsize::new(length).ok_or(Errno::INVAL)?;
    let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let mut bytes = vec![0; length.get()];
    match way {
        MapWay::Private => {
            let mapping = PrivateMapping::new(file, offset, length).map_err(failed)?;
            mapping.read(0, &mut bytes);
        }
        MapWay::Advised(advice) => {
            let mapping = SharedMapping::new(file, offset, length).map_err(failed)?;
            mapping.advise(advice).map_err(failed)?;
            mapping.read(0, &mut bytes);
        }
        MapWay::Populated => {
            let mapping = SharedMapping::new(file, offset, length).map_err(failed)?;
            mapping.populate().map_err(failed)?;
            mapping.read(0, &mut bytes);
        }
        MapWay::Locked => {
            let mapping = SharedMapping::new(file, offset, length).map_err(failed)?;
            mapping.lock_and_unlock().map_err(failed)?;
            mapping.read(0, &mut bytes);
        }
    }
    Ok(Answer::Bytes(bytes))
}

pub(super) fn list(directory: &File, buffer: usize, resume: usize) -> Outcome {
    type Listed = (Vec<u8>, FileType, u64);
    let mut buffer = Vec::with_capacity(buffer);
    let mut from = |position: u64| -> Result<Vec<Listed>, Errno> {
        fs::seek(directory, SeekFrom::Start(position))?;
        let mut found = Vec::new();
        let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes().to_vec();
            found.push((name, entry.file_type(), entry.next_entry_cookie()));
        }
        Ok(found)
    };
    let all = from(0)?;
    let behind = all.len() * resume / 1000;
    if let Some(entry) = all.get(behind) {
        let rest = from(entry.2)?;
        if rest != all[behind + 1..] {
            let finding = format!("the list goes on differently behind entry {behind}");
            return Ok(Answer::Inconsistent(finding));
        }
    }
    let mut entries: Vec<_> = all
        .into_iter()
        .map(|(name, kind, _)| (name, kind))
        .collect();
    entries.sort_by(|one, other| one.0.cmp(&other.0));
    // Where a directory ends is its own business.
    fs::seek(directory, SeekFrom::Start(0))?;
    Ok(Answer::Entries(entries))
}

/// Whether a range reads as zeros, as far as it is looked at.
pub(super) fn zeros(file: &File, start: u64, end: u64) -> bool {
    let length = end.saturating_sub(start).min(HOLE_CHECKED) as usize;
    let zeros = |answer: Outcome| matches!(answer, Ok(Answer::Bytes(bytes)) if bytes.len() == length && bytes.iter().all(|&byte| byte == 0));
    let file: BorrowedFd<'_> = file.as_fd();
    zeros(fill(length, |rest, done| {
        io::pread(file, rest, start + done)
    }))
}
