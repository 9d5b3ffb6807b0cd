// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The places of the regular files' content.
//!
//! While chunks are still being packed, a place is an offset in one address space over all packs:
//! the chunks' uncompressed bytes one after another, in the order in which they were sequenced.

use peerfs_format::{Digest, ExtentRecord, PackRecord};

use crate::known_files::KnownFile;
use crate::pipeline::WholeFile;
use crate::xattrs::XattrSetId;

/// The content of all regular files, in the order of their inodes.
#[derive(Default)]
pub(crate) struct Contents {
    files: Vec<FileContent>,
    /// Those of the large files.
    runs: Vec<Run>,
    /// Those of the stream that the small files make.
    small_runs: Vec<Run>,
}

/// The content of a regular file.
pub(crate) struct FileContent {
    pub(crate) digest: Digest,
    pub(crate) xattrs: Option<XattrSetId>,
    /// Bytes that are not in holes.
    pub(crate) allocated: u64,
    place: Place,
}

#[derive(Clone, Copy)]
enum Place {
    /// The offset at which it begins in the stream of small files.
    Small(u64),
    /// Its runs.
    Large { first: usize, count: usize },
}

/// Consecutive bytes of a file or of the stream of small files, over all packs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Run {
    /// The offset at which it begins in the file or stream.
    offset: u64,
    /// The offset at which it begins over all packs.
    place: u64,
    length: u64,
}

impl Contents {
    /// The number of the runs so far, for [`Contents::add_large`].
    pub(crate) fn run_count(&self) -> usize {
        self.runs.len()
    }

    /// Adds a run of the large file whose first run has the number `first`.
    pub(crate) fn add_run(&mut self, first: usize, offset: u64, place: u64, length: u64) {
        let is_first = self.runs.len() == first;
        append_run(&mut self.runs, is_first, offset, place, length);
    }

    /// Adds a large file whose runs are all there, from number `first` on.
    pub(crate) fn add_large(&mut self, whole: WholeFile, first: usize) {
        let runs = self.runs.get(first..).unwrap_or_default();
        self.files.push(FileContent {
            digest: whole.digest,
            xattrs: whole.xattrs,
            allocated: runs.iter().map(|run| run.length).sum(),
            place: Place::Large {
                first,
                count: runs.len(),
            },
        });
    }

    /// Adds a file whose runs are known.
    pub(crate) fn add_known(&mut self, file: KnownFile) {
        let first = self.run_count();
        for run in &file.runs {
            self.add_run(first, run.file_offset, run.place, run.length);
        }
        let whole = WholeFile {
            digest: file.digest,
            xattrs: file.xattrs,
        };
        self.add_large(whole, first);
    }

    /// Adds a run of the stream of small files.
    pub(crate) fn add_small_run(&mut self, offset: u64, place: u64, length: u64) {
        let is_first = self.small_runs.is_empty();
        append_run(&mut self.small_runs, is_first, offset, place, length);
    }

    /// Adds a small file that begins at `offset` of the stream.
    pub(crate) fn add_small(&mut self, whole: WholeFile, offset: u64, length: u64) {
        self.files.push(FileContent {
            digest: whole.digest,
            xattrs: whole.xattrs,
            allocated: length,
            place: Place::Small(offset),
        });
    }

    /// The content of a regular file, by its number among them.
    pub(crate) fn file(&self, index: u32) -> Option<&FileContent> {
        self.files.get(index as usize)
    }

    /// A regular file's extents.
    pub(crate) fn extents(&self, file: &FileContent, packs: &PackPlaces) -> Vec<ExtentRecord> {
        let mut extents = Vec::new();
        match file.place {
            Place::Large { first, count } => {
                for run in self.runs.get(first..first + count).unwrap_or_default() {
                    packs.split(run.offset, run.place, run.length, &mut extents);
                }
            }
            Place::Small(start) => {
                let end = start + file.allocated;
                let after = self.small_runs.partition_point(|run| run.offset <= start);
                let first = after.saturating_sub(1);
                for run in self.small_runs.get(first..).unwrap_or_default() {
                    let from = run.offset.max(start);
                    let to = (run.offset + run.length).min(end);
                    if from >= to {
                        break;
                    }
                    let place = run.place + (from - run.offset);
                    packs.split(from - start, place, to - from, &mut extents);
                }
            }
        }
        extents
    }
}

/// Appends a run, to the last one if it continues that.
fn append_run(runs: &mut Vec<Run>, is_first: bool, offset: u64, place: u64, length: u64) {
    match runs.last_mut() {
        Some(last)
            if !is_first
                && last.offset + last.length == offset
                && last.place + last.length == place =>
        {
            last.length += length;
        }
        _ => runs.push(Run {
            offset,
            place,
            length,
        }),
    }
}

/// The offsets at which packs begin, over all packs, and those of them that the image needs.
pub(crate) struct PackPlaces {
    starts: Vec<u64>,
    /// The number of each pack in the manifest; of those that are not needed, any.
    numbers: Vec<u32>,
}

impl PackPlaces {
    /// The places of packs, and those of the packs that `contents` needs, for the manifest: of the
    /// packs of other images some may not be.
    pub(crate) fn new(packs: &[PackRecord], contents: &Contents) -> (Self, Vec<PackRecord>) {
        let starts = packs.iter().scan(0, |next, pack| {
            let start = *next;
            *next += pack.logical_length;
            Some(start)
        });
        let mut places = PackPlaces {
            starts: starts.collect(),
            numbers: Vec::new(),
        };
        let mut is_needed = vec![false; packs.len()];
        for run in contents.runs.iter().chain(&contents.small_runs) {
            let first = places.pack_at(run.place);
            let last = places.pack_at(run.place + run.length - 1);
            if let Some(needed) = is_needed.get_mut(first..=last) {
                needed.fill(true);
            }
        }
        let mut needed = Vec::new();
        for (pack, is_needed) in packs.iter().zip(is_needed) {
            // There are fewer than 2^32 packs.
            places.numbers.push(needed.len() as u32);
            if is_needed {
                needed.push(*pack);
            }
        }
        (places, needed)
    }

    fn pack_at(&self, place: u64) -> usize {
        let after = self.starts.partition_point(|&start| start <= place);
        after.saturating_sub(1)
    }

    /// Adds the extents of a run: one for each pack that it is in.
    fn split(&self, mut offset: u64, mut place: u64, length: u64, extents: &mut Vec<ExtentRecord>) {
        let mut rest = length;
        let mut pack = self.pack_at(place);
        while rest > 0 {
            let start = self.starts.get(pack).copied().unwrap_or_default();
            let end = self.starts.get(pack + 1).copied().unwrap_or(u64::MAX);
            let part = rest.min(end - place);
            extents.push(ExtentRecord {
                file_offset: offset,
                pack: self.numbers.get(pack).copied().unwrap_or_default(),
                // Packs have at most PACK_MAX bytes.
                pack_offset: (place - start) as u32,
                length: part as u32,
            });
            offset += part;
            place += part;
            rest -= part;
            pack += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(logical_length: u64) -> PackRecord {
        PackRecord {
            digest: Digest::default(),
            index_digest: Digest::default(),
            contents_digest: Digest::default(),
            stored_length: 0,
            logical_length,
            index_length: 0,
            chunk_count: 0,
        }
    }

    fn whole() -> WholeFile {
        WholeFile {
            digest: Digest::default(),
            xattrs: None,
        }
    }

    fn tuples(contents: &Contents, index: u32, packs: &PackPlaces) -> Vec<(u64, u32, u32, u32)> {
        let file = contents.file(index).unwrap();
        let extents = contents.extents(file, packs);
        let tuple = |extent: &ExtentRecord| {
            (
                extent.file_offset,
                extent.pack,
                extent.pack_offset,
                extent.length,
            )
        };
        extents.iter().map(tuple).collect()
    }

    #[test]
    fn runs_are_merged_and_split_at_packs() {
        let packs = [pack(100), pack(50), pack(200)];
        let mut contents = Contents::default();
        let first = contents.run_count();
        contents.add_run(first, 0, 90, 5);
        contents.add_run(first, 5, 95, 80);
        contents.add_run(first, 1000, 0, 10);
        contents.add_large(whole(), first);
        let (packs, needed) = PackPlaces::new(&packs, &contents);
        assert_eq!(needed.len(), 3);
        assert_eq!(
            tuples(&contents, 0, &packs),
            [
                (0, 0, 90, 10),
                (10, 1, 0, 50),
                (60, 2, 0, 25),
                (1000, 0, 0, 10)
            ]
        );
        // Does not continue the other file's last run.
        let first = contents.run_count();
        contents.add_run(first, 1010, 10, 10);
        contents.add_large(whole(), first);
        assert_eq!(tuples(&contents, 1, &packs), [(1010, 0, 10, 10)]);
        assert_eq!(contents.file(0).unwrap().allocated, 95);
    }

    #[test]
    fn packs_that_nothing_needs_are_left_out() {
        let packs = [pack(100), pack(50), pack(70), pack(200)];
        let mut contents = Contents::default();
        contents.add_run(0, 0, 149, 1);
        contents.add_run(0, 1, 220, 1);
        contents.add_large(whole(), 0);
        let (places, needed) = PackPlaces::new(&packs, &contents);
        assert_eq!(needed, [pack(50), pack(200)]);
        assert_eq!(tuples(&contents, 0, &places), [(0, 0, 49, 1), (1, 1, 0, 1)]);
    }

    #[test]
    fn small_files_lie_in_the_stream() {
        let mut contents = Contents::default();
        contents.add_small_run(0, 300, 100);
        contents.add_small_run(100, 600, 100);
        let (packs, _) = PackPlaces::new(&[pack(1000)], &contents);
        contents.add_small(whole(), 20, 30);
        contents.add_small(whole(), 80, 40);
        contents.add_small(whole(), 0, 0);
        assert_eq!(tuples(&contents, 0, &packs), [(0, 0, 320, 30)]);
        assert_eq!(
            tuples(&contents, 1, &packs),
            [(0, 0, 380, 20), (20, 0, 600, 20)]
        );
        assert_eq!(tuples(&contents, 2, &packs), []);
    }
}
