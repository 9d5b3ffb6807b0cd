// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Removes what is not marked.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::{Duration, Instant};

use peerfs_format::{DataFile, Digest, PACK_MAX};
use rustix::fs::{fallocate, seek, FallocateFlags, SeekFrom};

use super::marks::Marks;
use super::{Collect, Collected, Keep};
use crate::digest::sha256_file;
use crate::places::ChangeLock;
use crate::{layout, Error, Result, Store};

/// Bytes of a block of a filesystem: less is not worth a hole.
pub(super) const BLOCK: u64 = 4096;

/// How long those who fill packs wait.
const TURN: Duration = Duration::from_millis(20);
/// And how long they are let in for.
const PAUSE: Duration = Duration::from_millis(1);

/// A sweep over a store, under the lock for changes, which it gives up again and again: nobody enters a place, or moves a
/// chunk, while it looks at a file.
pub(super) struct Sweep<'a> {
    store: &'a Store,
    marks: Marks,
    keep: &'a Keep,
    collect: Collect,
    /// Packs with their indexes whose bytes are given back even if somebody has them open, and finds them wrong then.
    given_back: HashSet<(Digest, Digest)>,
    done: Collected,
    changes: Option<ChangeLock<'a>>,
    since: Instant,
}

impl<'a> Sweep<'a> {
    /// Reads what is needed, and waits for the lock. What is entered meanwhile has to be noted.
    pub(super) fn begin(store: &'a Store, keep: &'a Keep, collect: Collect) -> Result<Self> {
        let mut sweep = Sweep {
            store,
            marks: Marks::default(),
            keep,
            collect,
            given_back: HashSet::new(),
            done: Collected::default(),
            changes: None,
            since: Instant::now(),
        };
        sweep.marks.add_traces(store, &keep.traces);
        sweep.take_turn()?;
        Ok(sweep)
    }

    /// Gives the bytes of these packs back at once, though they are needed, and also of what is open: who reads them fetches
    /// them again.
    pub(super) fn giving_back(self, given_back: HashSet<(Digest, Digest)>) -> Self {
        Sweep { given_back, ..self }
    }

    /// Takes the lock, and takes in what has changed since it was held last.
    fn take_turn(&mut self) -> Result<()> {
        let kept = self.store.kept(self.keep)?;
        // As a rule there is nothing left to read when the lock is held.
        self.marks.add(self.store, &kept)?;
        let changes = self.store.shared().data_files.lock_changes()?;
        self.since = Instant::now();
        self.marks.add_ranges(changes.noted());
        self.marks.add(self.store, &kept)?;
        if self.collect == Collect::Really {
            changes.count_collection(self.store.directory())?;
        }
        self.changes = Some(changes);
        Ok(())
    }

    /// Lets others in who wait for the lock, if they have waited for long.
    fn pause(&mut self) -> Result<()> {
        if self.since.elapsed() < TURN {
            return Ok(());
        }
        self.end_turn();
        thread::sleep(PAUSE);
        self.take_turn()
    }

    fn end_turn(&mut self) {
        // What is open may not be there any more.
        self.store.forget_open();
        self.changes = None;
    }

    pub(super) fn run(mut self) -> Result<Collected> {
        let swept = self.sweep();
        self.end_turn();
        swept?;
        Ok(self.done)
    }

    fn sweep(&mut self) -> Result<()> {
        self.sweep_tables()?;
        self.sweep_blobs()?;
        self.sweep_partial()?;
        self.sweep_loose()?;
        self.sweep_beside()?;
        self.sweep_envelopes()
    }

    /// Removes the envelopes of realms of which no image is needed.
    fn sweep_envelopes(&mut self) -> Result<()> {
        for key in self.store.enveloped_keys()? {
            self.pause()?;
            if !self.marks.keys.contains(&key) {
                self.remove(&layout::envelope(&key))?;
            }
        }
        Ok(())
    }

    /// Removes what lies beside images that are not needed: their traces, and signatures.
    fn sweep_beside(&mut self) -> Result<()> {
        let traces = self.store.traces()?.into_iter();
        let traces = traces.map(|(image, workload)| (image, layout::trace(&image, workload)));
        let signed = self.store.signed_images()?.into_iter();
        let signed = signed.map(|image| (image, layout::signed(&image)));
        for (image, file) in traces.chain(signed) {
            self.pause()?;
            if !self.marks.blobs.contains(&image) {
                self.remove(&file)?;
            }
        }
        Ok(())
    }

    fn sweep_tables(&mut self) -> Result<()> {
        for pair in self.store.placed_packs()? {
            self.pause()?;
            if !self.marks.packs.contains(&pair) || self.is_left_over(&pair.0)? {
                self.done.tables += 1;
                self.remove(&layout::places(&pair.0, &pair.1))?;
            }
        }
        Ok(())
    }

    /// Removes blobs. A whole pack that others need a part of goes on as a partial one: what is in `blobs` is whole.
    fn sweep_blobs(&mut self) -> Result<()> {
        let given_back: HashSet<Digest> = self.given_back.iter().map(|(pack, _)| *pack).collect();
        for blob in self.store.blobs()? {
            self.pause()?;
            let is_given_back = given_back.contains(&blob);
            if self.marks.blobs.contains(&blob) && !is_given_back {
                continue;
            }
            self.done.blobs += 1;
            let name = layout::blob(&blob);
            let Some(index) = self.marks.index_of(&blob) else {
                self.remove_data(&name, is_given_back)?;
                continue;
            };
            let partial = layout::partial(&blob, &index);
            let directory = self.store.directory();
            if directory.has_file(&partial) && !self.is_intact(&blob)? {
                // Their places are in the partial one, which is being mended.
                self.remove(&name)?;
            } else if self.collect == Collect::DryRun {
                self.thin(&name, &DataFile::Pack(blob, index))?;
            } else {
                directory
                    .rename(&name, &partial)
                    .map_err(directory.failed("rename", &name))?;
            }
        }
        Ok(())
    }

    fn sweep_partial(&mut self) -> Result<()> {
        let names = self.store.directory().names(layout::PARTIALS)?;
        for (pack, index) in names.iter().filter_map(|name| layout::parse_pair(name)) {
            self.pause()?;
            let (path, name) = (layout::partial(&pack, &index), DataFile::Pack(pack, index));
            if self.marks.ranges.contains_key(&name) && !self.is_left_over(&pack)? {
                self.thin(&path, &name)?;
            } else {
                // Who fills the pack makes another one.
                self.remove_data(&path, self.given_back.contains(&(pack, index)))?;
            }
        }
        Ok(())
    }

    /// Whether what is beside a whole pack was only not removed in time: it is right, and has all.
    fn is_left_over(&self, pack: &Digest) -> Result<bool> {
        Ok(self.store.has_blob(pack) && self.is_intact(pack)?)
    }

    fn is_intact(&self, blob: &Digest) -> Result<bool> {
        let file = match self.store.open_blob(blob) {
            Err(Error::NotARegularFile(_)) | Ok(None) => return Ok(false),
            Ok(Some(file)) => file,
            Err(error) => return Err(error),
        };
        // One that can't be read is damaged.
        Ok(matches!(sha256_file(&file, PACK_MAX, |_| ()), Ok(Some(digest)) if digest == *blob))
    }

    fn sweep_loose(&mut self) -> Result<()> {
        let names = self.store.directory().names(layout::LOOSE)?;
        for number in names.iter().filter_map(|name| name.parse().ok()) {
            self.pause()?;
            let (path, name) = (layout::loose(number), DataFile::Loose(number));
            if self.marks.ranges.contains_key(&name) {
                self.thin(&path, &name)?;
            } else {
                // Who appends to it begins another one.
                self.remove(&path)?;
            }
        }
        Ok(())
    }

    /// Removes a data file, and gives back the bytes of one that may be open elsewhere.
    fn remove_data(&mut self, path: &str, is_given_back: bool) -> Result<()> {
        let directory = self.store.directory();
        let file = match is_given_back {
            true => directory.write(path).ok().flatten(),
            false => None,
        };
        self.remove(path)?;
        // One that has a name elsewhere, in a copy of the store by hard links, is theirs.
        let found = file.as_ref().and_then(|file| file.metadata().ok());
        if let (Some(file), Some(found)) = (file, found.filter(|found| found.nlink() == 0)) {
            punch(&file, 0, found.size().next_multiple_of(BLOCK))
                .map_err(directory.failed("thin", path))?;
        }
        Ok(())
    }

    fn remove(&mut self, path: &str) -> Result<()> {
        let directory = self.store.directory();
        let metadata = directory.metadata(path).ok().flatten();
        self.done.bytes += metadata
            .filter(Metadata::is_file)
            .map_or(0, |found| occupied(&found));
        if self.collect == Collect::DryRun {
            return Ok(());
        }
        directory
            .remove(path)
            .map_err(directory.failed("remove", path))
    }

    /// Makes holes of what nobody needs of a data file.
    fn thin(&mut self, path: &str, name: &DataFile) -> Result<()> {
        let directory = self.store.directory();
        let opened = match self.collect {
            Collect::DryRun => directory.read(path),
            Collect::Really => directory.write(path),
        };
        let file = match opened {
            Ok(Some(file)) => file,
            Ok(None) | Err(Error::NotARegularFile(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let failed = || directory.failed("thin", path);
        let before = file.metadata().map_err(failed())?;
        // It is theirs, too, who have it by another name.
        if before.nlink() > 1 {
            return Ok(());
        }
        let holes = holes(self.marks.ranges.get(name), before.size());
        let freed = match self.collect {
            Collect::DryRun => holes
                .iter()
                .map(|(start, length)| data_bytes(&file, *start, start + length))
                .sum::<io::Result<u64>>()
                .map_err(failed())?,
            Collect::Really => {
                for (start, length) in holes {
                    punch(&file, start, length).map_err(failed())?;
                }
                let after = file.metadata().map_err(failed())?;
                occupied(&before).saturating_sub(occupied(&after))
            }
        };
        self.done.thinned += u64::from(freed > 0);
        self.done.bytes += freed;
        Ok(())
    }
}

/// Bytes on the disk.
pub(super) fn occupied(metadata: &Metadata) -> u64 {
    metadata.blocks() * 512
}

/// What is between needed ranges, as whole blocks: where each begins, and its length.
fn holes(needed: Option<&Vec<(u64, u64)>>, end: u64) -> Vec<(u64, u64)> {
    let mut needed: Vec<(u64, u64)> = needed.cloned().unwrap_or_default();
    needed.sort_unstable();
    // The last block ends with the file.
    let end = end.next_multiple_of(BLOCK);
    needed.push((end, end));
    let (mut holes, mut at) = (Vec::new(), 0_u64);
    for (start, stop) in needed {
        let (from, until) = (
            at.min(end).next_multiple_of(BLOCK),
            start.min(end) / BLOCK * BLOCK,
        );
        if from < until {
            holes.push((from, until - from));
        }
        at = at.max(stop);
    }
    holes
}

/// Bytes of a range that are in no hole.
fn data_bytes(file: &File, start: u64, end: u64) -> io::Result<u64> {
    let (mut bytes, mut at) = (0, start);
    while at < end {
        let data = match seek(file, SeekFrom::Data(at)) {
            // There is none behind.
            Err(rustix::io::Errno::NXIO) => break,
            data => data?.min(end),
        };
        // The end of the file is a hole.
        let hole = seek(file, SeekFrom::Hole(data))?.min(end);
        // The last block of a file takes room as a whole.
        bytes += hole.next_multiple_of(BLOCK).saturating_sub(data);
        at = hole.max(at + 1);
    }
    Ok(bytes)
}

fn punch(file: &File, start: u64, length: u64) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(file, flags, start, length) {
        // A filesystem that can't gives nothing back.
        Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        punched => Ok(punched?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_whole_blocks_between_what_is_needed() {
        let needed = vec![(20_000, 30_000), (5_000, 6_000), (5_500, 9_000)];
        let found = holes(Some(&needed), 50_000);
        assert_eq!(found, [(0, 4096), (12_288, 4096), (32_768, 20_480)]);
        assert_eq!(holes(None, 8192), [(0, 8192)]);
        assert!(holes(Some(&vec![(0, 50_000)]), 50_000).is_empty());
        assert!(holes(Some(&vec![(0, u64::MAX)]), 50_000).is_empty());
    }
}
