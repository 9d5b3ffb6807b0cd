// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The memory that is left in use when whole trees were read.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::{ensure, Error, Result};

/// The time between two looks at memory.
const INTERVAL: Duration = Duration::from_millis(20);

/// The figures of /proc/meminfo, in bytes.
#[derive(Clone, Copy)]
pub(super) struct Use {
    /// Pages of files and of block devices.
    pub(super) page_cache: u64,
    /// Everything that is not free: the page cache, inodes, and a filesystem's own buffers.
    pub(super) all: u64,
}

impl Use {
    fn now() -> Result<Self> {
        let path = Path::new("/proc/meminfo");
        let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
        let field = |name: &str| {
            text.lines()
                .find_map(|line| {
                    line.strip_prefix(name)?
                        .strip_prefix(':')?
                        .trim()
                        .split(' ')
                        .next()
                })
                .and_then(|kibibytes| kibibytes.parse::<u64>().ok())
                .map(|kibibytes| kibibytes * 1024)
                .ok_or_else(|| Error::Finding(format!("no {name} in {}", path.display())))
        };
        Ok(Self {
            page_cache: field("Cached")? + field("Buffers")?,
            all: field("MemTotal")? - field("MemFree")?,
        })
    }

    fn max(self, other: Self) -> Self {
        Self {
            page_cache: self.page_cache.max(other.page_cache),
            all: self.all.max(other.all),
        }
    }
}

/// Reads every file below `directories`, which stay mounted, one directory after the other.
/// Returns how far memory in use went beyond what it was before.
pub(super) fn peak(directories: &[PathBuf]) -> Result<Use> {
    let done = AtomicBool::new(false);
    let before = Use::now()?;
    let highest = thread::scope(|scope| {
        let watcher = scope.spawn(|| -> Result<Use> {
            let mut highest = before;
            while !done.load(Ordering::Acquire) {
                highest = highest.max(Use::now()?);
                thread::sleep(INTERVAL);
            }
            Ok(highest.max(Use::now()?))
        });
        let mut buffer = vec![0; 1 << 17];
        let mut bytes = 0;
        let read = directories
            .iter()
            .try_for_each(|directory| read_tree(directory, &mut buffer, &mut bytes));
        done.store(true, Ordering::Release);
        let highest = watcher
            .join()
            .map_err(|_| Error::Finding("the watcher panicked".into()))?;
        read?;
        ensure(bytes > 0, || "there is nothing to read".into())?;
        highest
    })?;
    Ok(Use {
        page_cache: highest.page_cache.saturating_sub(before.page_cache),
        all: highest.all.saturating_sub(before.all),
    })
}

fn read_tree(directory: &Path, buffer: &mut [u8], bytes: &mut u64) -> Result<()> {
    for entry in fs::read_dir(directory).map_err(Error::io("list", directory))? {
        let entry = entry.map_err(Error::io("list", directory))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(Error::io("stat", &path))?;
        if kind.is_dir() {
            read_tree(&path, buffer, bytes)?;
        } else if kind.is_file() {
            let mut file = File::open(&path).map_err(Error::io("open", &path))?;
            *bytes += super::drain(&mut file, buffer).map_err(Error::io("read", &path))?;
        }
    }
    Ok(())
}
