// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Looking at a mount in every way, within bounds: what a mutated image has may have no end.

use std::fs::{self, File};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastrand::Rng;
use peerfs_sys::mapping::SharedMapping;
use rustix::fs::{fadvise, lgetxattr, llistxattr, seek, statvfs, Advice, RawDir, SeekFrom};
use rustix::io::{pread, Errno};

use crate::{ensure, Result};

/// The most that is looked at.
const PATHS_MAX: usize = 150;
const ENTRIES_MAX: usize = 3000;
const DEPTH_MAX: usize = 10;
const TIME_MAX: Duration = Duration::from_millis(1500);

/// The numbers of paths that were looked at, and of answers that were errors.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Visited {
    pub(super) paths: u64,
    pub(super) errors: u64,
}

/// Looks at what can be reached; the answers may be anything but names that lead elsewhere.
pub(super) fn visit(mount: &Path, rng: &mut Rng) -> Result<Visited> {
    let mut visit = Visit {
        visited: Visited::default(),
        deadline: Instant::now() + TIME_MAX,
        buffer: vec![0; 70_000],
    };
    visit.count(statvfs(mount).map(drop));
    let mut open = vec![(mount.to_owned(), 0)];
    while let Some((path, depth)) = open.pop() {
        if visit.visited.paths as usize >= PATHS_MAX || Instant::now() > visit.deadline {
            break;
        }
        visit.visited.paths += 1;
        if let Some(names) = visit.path(&path, rng)? {
            if depth < DEPTH_MAX {
                open.extend(names.into_iter().map(|name| (path.join(name), depth + 1)));
            }
        }
    }
    Ok(visit.visited)
}

struct Visit {
    visited: Visited,
    deadline: Instant,
    buffer: Vec<u8>,
}

impl Visit {
    /// Counts errors; what there is if it is none.
    fn count<T>(&mut self, answer: Result<T, impl Into<io::Error>>) -> Option<T> {
        match answer {
            Ok(answer) => Some(answer),
            Err(_) => {
                self.visited.errors += 1;
                None
            }
        }
    }

    /// Looks at one path; the names in it if it is a directory.
    fn path(&mut self, path: &Path, rng: &mut Rng) -> Result<Option<Vec<PathBuf>>> {
        let Some(metadata) = self.count(fs::symlink_metadata(path)) else {
            return Ok(None);
        };
        self.xattrs(path);
        let kind = metadata.file_type();
        if kind.is_symlink() {
            self.count(fs::read_link(path));
            // Where it leads is not looked at: that may be outside, as everywhere.
        } else if kind.is_file() {
            if let Some(file) = self.count(File::open(path)) {
                self.file(&file, metadata.size(), rng);
            }
        } else if kind.is_dir() {
            if let Some(directory) = self.count(File::open(path)) {
                let absent = fs::symlink_metadata(path.join("no such name"));
                if !is(&absent, Errno::NOENT) {
                    self.count(absent);
                }
                return self.directory(path, &directory, rng).map(Some);
            }
        } else if kind.is_block_device() || kind.is_char_device() {
            // Opening it would open the device.
        }
        Ok(None)
    }

    fn xattrs(&mut self, path: &Path) {
        let listed = llistxattr(path, &mut self.buffer[..]);
        let Some(length) = self.count(listed) else {
            return;
        };
        let names = self.buffer[..length].to_vec();
        let names = names.split(|&byte| byte == 0);
        for name in names.filter(|name| !name.is_empty()).take(8) {
            let read = lgetxattr(path, name, &mut self.buffer[..]);
            self.count(read);
        }
    }

    fn file(&mut self, file: &File, size: u64, rng: &mut Rng) {
        let length = self.buffer.len();
        let middle = rng.u64(..=size);
        // What is read first is read by itself, be it in the middle of a chunk.
        let mut reads = [
            (0, length),
            (middle, 1),
            (middle, length),
            (size.saturating_sub(5000), length),
        ];
        rng.shuffle(&mut reads);
        for (offset, length) in reads {
            let read = pread(file, &mut self.buffer[..length], offset);
            self.count(read);
        }
        // Pages that cannot be read end a program that touches them: asked for instead.
        let start = middle / 4096 * 4096;
        let mapped = SharedMapping::new(
            file,
            start,
            NonZeroUsize::new(length.min(size.saturating_sub(start) as usize))
                .unwrap_or(NonZeroUsize::MIN),
        );
        // Beyond the file's end there are none.
        if let Some(mapping) = self.count(mapped).filter(|_| start < size) {
            let populated = mapping.populate();
            self.count(populated);
        }
        self.count(fadvise(file, 0, None, Advice::WillNeed));
        for place in [SeekFrom::Data(middle), SeekFrom::Hole(middle)] {
            let found = seek(file, place);
            // At the end, or with nothing but a hole to come.
            if found != Err(Errno::NXIO) {
                self.count(found);
            }
        }
    }

    fn directory(&mut self, path: &Path, directory: &File, rng: &mut Rng) -> Result<Vec<PathBuf>> {
        let mut names = Vec::new();
        let mut buffer = Vec::with_capacity(8192);
        let mut error = None;
        {
            let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
            while let Some(entry) = entries.next() {
                match entry {
                    Ok(entry) => names.push(entry.file_name().to_bytes().to_vec()),
                    Err(errno) => {
                        error = Some(errno);
                        break;
                    }
                }
                if names.len() >= ENTRIES_MAX || Instant::now() > self.deadline {
                    break;
                }
            }
        }
        self.count(error.map_or(Ok(()), Err::<(), Errno>));
        let dots = |name: &[u8]| name == b"." || name == b"..";
        for name in &names {
            ensure(!name.is_empty() && !name.contains(&b'/'), || {
                format!("{}: has the name {name:02x?}", path.display())
            })?;
        }
        let found_dots = names.iter().filter(|name| dots(name)).count();
        ensure(found_dots <= 2, || {
            format!("{}: . or .. is there {found_dots} times", path.display())
        })?;
        names.retain(|name| !dots(name));
        // From somewhere on, perhaps far behind the end.
        let places = [
            rng.u64(..names.len() as u64 + 3),
            rng.u64(..i64::MAX as u64),
        ];
        for place in places {
            if self
                .count(seek(directory, SeekFrom::Start(place)))
                .is_some()
            {
                let first = RawDir::new(directory, buffer.spare_capacity_mut())
                    .next()
                    .map_or(Ok(()), |entry| entry.map(drop));
                self.count(first);
            }
        }
        names.sort_unstable();
        names.dedup();
        let path = |name: &Vec<u8>| PathBuf::from(std::ffi::OsStr::from_bytes(name));
        Ok(names.iter().map(path).collect())
    }
}

fn is<T>(answer: &io::Result<T>, errno: Errno) -> bool {
    let error = answer.as_ref().err().and_then(Errno::from_io_error);
    error == Some(errno)
}
