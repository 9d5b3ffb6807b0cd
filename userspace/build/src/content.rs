// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The places of the regular files' content.
//!
//! While chunks are still being packed, a place is an offset in one address space over all packs:
//! the chunks' uncompressed bytes one after another, in the order in which they were sequenced.

use bytes::{Buf, BufMut};
use peerfs_format::{Digest, ExtentRecord, PackRecord};

use crate::known_files::KnownFile;
use crate::pipeline::WholeFile;
use crate::table::{Row, RowIndex, Scratch, Table};
use crate::xattrs::XattrSetId;
use crate::Result;

/// The content of all regular files, in the order of their inodes.
pub(crate) struct Contents {
    files: Table<FileContent>,
    /// The small files, by their digests, each content once.
    small: RowIndex,
    /// Those of the large files.
    runs: Vec<Run>,
    /// Those of the stream that the small files make.
    small_runs: Vec<Run>,
}

/// The content of a regular file.
#[derive(Clone, Copy)]
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

impl Row for FileContent {
    const SIZE: usize = Digest::SIZE + 2 * 4 + 2 * 8;

    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.put_slice(&self.digest.0);
        bytes.put_u32_le(XattrSetId::encode(self.xattrs));
        let (count, place) = match self.place {
            Place::Small(offset) => (SMALL, offset),
            // As many as chunks, of which an image has fewer.
            Place::Large { first, count } => (count as u32, first as u64),
        };
        bytes.put_u32_le(count);
        bytes.put_u64_le(place);
        bytes.put_u64_le(self.allocated);
    }

    fn decode(mut bytes: &[u8]) -> Self {
        let mut digest = Digest::default();
        bytes.copy_to_slice(&mut digest.0);
        let xattrs = XattrSetId::decode(bytes.get_u32_le());
        let place = match (bytes.get_u32_le(), bytes.get_u64_le()) {
            (SMALL, offset) => Place::Small(offset),
            (count, first) => Place::Large {
                first: first as usize,
                count: count as usize,
            },
        };
        FileContent {
            digest,
            xattrs,
            allocated: bytes.get_u64_le(),
            place,
        }
    }
}

/// What stands for the count of runs of a small file.
const SMALL: u32 = u32::MAX;

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
    /// Of no files.
    pub(crate) fn new(scratch: &Scratch) -> Self {
        Contents {
            files: Table::new(scratch),
            small: RowIndex::default(),
            runs: Vec::new(),
            small_runs: Vec::new(),
        }
    }

    /// Fails if something of it could not be read back.
    ///
    /// # Errors
    /// [`Error::Scratch`](crate::Error::Scratch).
    pub(crate) fn check(&self) -> Result<()> {
        self.files.check()
    }

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
        self.files.push(&FileContent {
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

    /// Adds a small file that begins at `offset` of the stream, unless one with its content is there already, which it shares. Says
    /// whether it is new.
    pub(crate) fn add_small(&mut self, whole: WholeFile, offset: u64, length: u64) -> bool {
        let [a, b, c, d, ..] = whole.digest.0;
        let hash = u32::from_le_bytes([a, b, c, d]);
        let row = self.files.len() as u32;
        let has_digest = |row| {
            let file = self.file(row);
            file.is_some_and(|file| file.digest == whole.digest)
        };
        let known = self.small.find(hash, has_digest);
        let known = known.and_then(|row| self.file(row)).map(|file| file.place);
        if known.is_none() {
            self.small.insert(hash, row);
        }
        self.files.push(&FileContent {
            digest: whole.digest,
            xattrs: whole.xattrs,
            allocated: length,
            place: known.unwrap_or(Place::Small(offset)),
        });
        known.is_none()
    }

    /// The content of a regular file, by its number among them.
    pub(crate) fn file(&self, index: u32) -> Option<FileContent> {
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
        let extents = contents.extents(&file, packs);
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
        let mut contents = Contents::new(&Scratch::default());
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
        let mut contents = Contents::new(&Scratch::default());
        contents.add_run(0, 0, 149, 1);
        contents.add_run(0, 1, 220, 1);
        contents.add_large(whole(), 0);
        let (places, needed) = PackPlaces::new(&packs, &contents);
        assert_eq!(needed, [pack(50), pack(200)]);
        assert_eq!(tuples(&contents, 0, &places), [(0, 0, 49, 1), (1, 1, 0, 1)]);
    }

    #[test]
    fn small_files_lie_in_the_stream() {
        let mut contents = Contents::new(&Scratch::default());
        contents.add_small_run(0, 300, 100);
        contents.add_small_run(100, 600, 100);
        let (packs, _) = PackPlaces::new(&[pack(1000)], &contents);
        let small = |number| WholeFile {
            digest: Digest([number; 32]),
            xattrs: None,
        };
        assert!(contents.add_small(small(1), 20, 30));
        assert!(contents.add_small(small(2), 80, 40));
        assert!(contents.add_small(small(3), 0, 0));
        // What has the same content is where that is.
        assert!(!contents.add_small(small(1), 120, 30));
        assert_eq!(tuples(&contents, 0, &packs), [(0, 0, 320, 30)]);
        assert_eq!(
            tuples(&contents, 1, &packs),
            [(0, 0, 380, 20), (20, 0, 600, 20)]
        );
        assert_eq!(tuples(&contents, 2, &packs), []);
        assert_eq!(tuples(&contents, 3, &packs), [(0, 0, 320, 30)]);
    }
}
