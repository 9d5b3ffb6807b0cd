// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Loose files: chunks one behind the other, as they come.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use peerfs_format::{DataFile, LOOSE_MAX};
use rustix::fs::{flock, FlockOperation};

use crate::directory::StoreDirectory;
use crate::lock::lock;
use crate::{layout, Result};

/// Files of processes before this one that are looked at for one that can be gone on with.
const LOOKED_AT: usize = 16;

/// Appends to loose files. The one that is being written is this process's alone while its flock is held.
pub(super) struct LooseWriter {
    directory: Arc<StoreDirectory>,
    current: Mutex<Option<Loose>>,
}

/// The loose file that is being written.
struct Loose {
    number: u64,
    file: Arc<File>,
    /// Where the next chunk goes.
    end: u64,
}

impl LooseWriter {
    pub(super) fn new(directory: &Arc<StoreDirectory>) -> Self {
        LooseWriter {
            directory: directory.clone(),
            current: Mutex::new(None),
        }
    }

    /// Appends a chunk, and returns in which file and where.
    pub(super) fn append(&self, stored: &[u8]) -> Result<(DataFile, u64)> {
        let length = stored.len() as u64;
        // Room is taken under the lock; the bytes are written beside those of others.
        let (number, file, offset) = {
            let mut current = lock(&self.current);
            let full = |loose: &Loose| loose.end + length > LOOSE_MAX;
            let is_usable = |loose: &Loose| !full(loose) && has_name(&loose.file);
            let loose = match current.take().filter(is_usable) {
                Some(loose) => current.insert(loose),
                None => current.insert(self.begin(length)?),
            };
            let offset = loose.end;
            loose.end += length;
            (loose.number, loose.file.clone(), offset)
        };
        file.write_all_at(stored, offset)
            .map_err(self.directory.failed("write to", &layout::loose(number)))?;
        Ok((DataFile::Loose(number), offset))
    }

    /// A file with room for so much: one that an ended process has left, else a new one.
    fn begin(&self, length: u64) -> Result<Loose> {
        let names = self.directory.names(layout::LOOSE)?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| name.parse().ok()).collect();
        numbers.sort_unstable();
        for number in numbers.iter().rev().take(LOOKED_AT) {
            if let Some(loose) = self.go_on_with(*number, length) {
                return Ok(loose);
            }
        }
        self.create(numbers.last().copied())
    }

    /// A file that is in nobody's use and has room. What can't be told of it is no reason to fail: there are others.
    fn go_on_with(&self, number: u64, length: u64) -> Option<Loose> {
        let file = self.directory.write(&layout::loose(number)).ok()??;
        flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
        let metadata = file.metadata().ok()?;
        let has_room = metadata.nlink() > 0 && metadata.size().saturating_add(length) <= LOOSE_MAX;
        has_room.then(|| Loose {
            number,
            file: Arc::new(file),
            end: metadata.size(),
        })
    }

    /// A new file. Its number is the time in microseconds, so that it is not that of one that was there before: tables may
    /// still name that.
    fn create(&self, last: Option<u64>) -> Result<Loose> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = since.map_or(0, |since| since.as_micros() as u64);
        let mut number = now.max(last.map_or(1, |last| last.saturating_add(1)));
        loop {
            let name = layout::loose(number);
            match self.directory.create_new(&name) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    number = number
                        .checked_add(1)
                        .ok_or(error)
                        .map_err(self.directory.failed("create", &name))?;
                }
                created => {
                    let file = created.map_err(self.directory.failed("create", &name))?;
                    // Nobody else has it: who looks for one to go on with may have been faster, then there is another.
                    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                        return Ok(Loose {
                            number,
                            file: Arc::new(file),
                            end: 0,
                        });
                    }
                }
            }
        }
    }
}

/// Whether a file can still be found: one that was removed is of no use to others.
fn has_name(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.nlink() > 0)
}
