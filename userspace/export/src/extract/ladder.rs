// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Directories that stay open, so that the next one need not be looked for from the top: a tree of any depth is gone
//! through down and up in about as many steps as it has directories.

use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The most directories that stay open.
const RUNGS_MAX: usize = 64;

/// Some of the directories on the way to the one that was opened last.
#[derive(Default)]
pub(super) struct Ladder {
    /// The path of that one, without slashes at the ends.
    path: Vec<u8>,
    /// Those higher up first.
    rungs: Vec<Rung>,
}

struct Rung {
    /// The length of its path, with which that of the ladder begins.
    length: usize,
    descriptor: Arc<OwnedFd>,
}

impl Ladder {
    /// Opens the directory at a path that is not empty, or one of those that are open already. `open` opens what is on a
    /// path below a directory, or below the root if there is none.
    pub(super) fn open<E>(
        &mut self,
        path: &[u8],
        open: impl Fn(Option<&OwnedFd>, &[u8]) -> Result<OwnedFd, E>,
    ) -> Result<Option<Arc<OwnedFd>>, E> {
        let common = common_length(&self.path, path);
        let is_on_the_way = |rung: &Rung| {
            rung.length <= common && matches!(path.get(rung.length), None | Some(b'/'))
        };
        let way = self.rungs.iter().take_while(|rung| is_on_the_way(rung));
        let count = way.count();
        self.rungs.truncate(count);
        self.path.truncate(common);
        self.path
            .extend_from_slice(path.get(common..).unwrap_or_default());
        loop {
            let last = self.rungs.last();
            let length = last.map_or(0, |rung| rung.length);
            let rest = path.get(length..).unwrap_or_default();
            let (rest, length) = match rest.strip_prefix(b"/") {
                Some(rest) => (rest, length + 1),
                None => (rest, length),
            };
            if rest.is_empty() {
                return Ok(last.map(|rung| rung.descriptor.clone()));
            }
            let part = half(rest);
            let descriptor = open(last.map(|rung| &*rung.descriptor), part)?;
            self.rungs.push(Rung {
                length: length + part.len(),
                descriptor: Arc::new(descriptor),
            });
            self.thin();
        }
    }

    /// Closes every second of those that are far up, if there are too many.
    fn thin(&mut self) {
        if self.rungs.len() > RUNGS_MAX {
            let mut number = 0;
            self.rungs.retain(|_| {
                number += 1;
                number > RUNGS_MAX / 2 || number % 2 == 0
            });
        }
    }
}

/// The half of a path that is opened next: whoever comes back up finds something open half-way, and again on the half of
/// what is left.
fn half(path: &[u8]) -> &[u8] {
    let middle = path.len() / 2;
    let behind = path.get(middle..).unwrap_or_default();
    match behind.iter().position(|byte| *byte == b'/') {
        Some(slash) => path.get(..middle + slash).unwrap_or(path),
        None => path,
    }
}

/// The number of bytes with which both begin.
fn common_length(one: &[u8], other: &[u8]) -> usize {
    // As a rule one is the way to the other.
    if other.starts_with(one) || one.starts_with(other) {
        return one.len().min(other.len());
    }
    let pairs = one.iter().zip(other);
    pairs.take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use rustix::fs::{openat, Mode, OFlags, CWD};

    use super::*;

    #[test]
    fn every_way_leads_to_the_directory_and_deep_ones_take_few_steps() {
        const DEPTH: usize = 600;
        let folder = tempfile::tempdir().unwrap();
        let deep = vec!["d"; DEPTH].join("/");
        for path in [deep.as_str(), "d/d/other", "d/dd/d"] {
            fs::create_dir_all(folder.path().join(path)).unwrap();
        }
        let (calls, steps) = (Cell::new(0), Cell::new(0));
        let mut ladder = Ladder::default();
        let mut go = |path: &str| {
            let opened = ladder.open(path.as_bytes(), |at, part| {
                let place = match at {
                    None => folder
                        .path()
                        .join(Path::new(std::str::from_utf8(part).unwrap())),
                    Some(_) => std::str::from_utf8(part).unwrap().into(),
                };
                calls.set(calls.get() + 1);
                steps.set(steps.get() + part.split(|byte| *byte == b'/').count());
                let flags = OFlags::DIRECTORY | OFlags::PATH;
                match at {
                    None => openat(CWD, place, flags, Mode::empty()),
                    Some(at) => openat(at, place, flags, Mode::empty()),
                }
            });
            let found = rustix::fs::fstat(opened.unwrap().unwrap()).unwrap();
            let expected = fs::metadata(folder.path().join(path)).unwrap();
            assert_eq!(found.st_ino, expected.ino(), "{path}");
            assert!(ladder.rungs.len() <= RUNGS_MAX);
        };
        let level = |depth: usize| &deep[..2 * depth - 1];
        for depth in (1..=DEPTH).chain((1..DEPTH).rev()) {
            go(level(depth));
        }
        assert!(steps.get() < 12 * DEPTH, "{} steps", steps.get());
        for path in [
            "d/d/other",
            "d/dd/d",
            "d/d",
            "d/dd",
            "d",
            level(DEPTH),
            "d/d/other",
        ] {
            go(path);
        }
    }
}
