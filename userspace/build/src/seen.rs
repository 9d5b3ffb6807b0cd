// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a build has seen of the files of a tree, for the next one, which then need not read them.

use std::fmt;
use std::io::{self, Write};

use peerfs_format::Digest;
use peerfs_store::{sha256, Sha256Writer};

use crate::table::{Row, Table};

/// What tells that a file is the one that it was. Whoever changes a file changes one of these, but for two cases: what is
/// written through a mapping of the file may become known later, and a change within the resolution of the
/// filesystem's clock may not become known.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct FileIdentity {
    /// The device of its filesystem.
    pub device: u64,
    /// Its inode number there.
    pub inode: u64,
    /// Its bytes.
    pub size: u64,
    /// When its content was changed: seconds and nanoseconds.
    pub modified: (i64, u32),
    /// When anything of it was changed.
    pub changed: (i64, u32),
}

/// The regular files of a tree as a build has seen them. It says nothing by which a build could tell that it is right: it
/// must come from where nobody else writes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SeenFiles {
    /// The image that was built.
    pub manifest: Digest,
    /// What decided about it beside the tree.
    pub(crate) settings: Digest,
    /// A time before the build looked at anything, by the clock that files are changed by. What was changed later
    /// may have been changed once more since it was read, with the same times.
    pub(crate) started: (i64, u32),
    /// The files, in order, each with the number of its inode in the image.
    files: Vec<(FileIdentity, u32)>,
}

const MAGIC: &[u8; 8] = b"peerfsse";
const VERSION: u32 = 1;
/// Bytes of a record: device, inode, size, the two times (8 and 4 each), the number in the image.
const RECORD_SIZE: usize = 3 * 8 + 2 * 12 + 4;
/// Bytes that are written at once.
const WRITE_SIZE: usize = 64 * 1024;
/// Bytes before the records: magic, version, manifest, settings, the time of the start.
const HEADER_SIZE: usize = 8 + 4 + 2 * Digest::SIZE + 12;

impl SeenFiles {
    /// Files in any order.
    fn new(
        manifest: Digest,
        settings: Digest,
        started: (i64, u32),
        mut files: Vec<(FileIdentity, u32)>,
    ) -> Self {
        files.sort_unstable();
        SeenFiles {
            manifest,
            settings,
            started,
            files,
        }
    }

    /// The number in the image of a file that is as it was, and would not be if it had been changed since it was read.
    pub(crate) fn find(&self, identity: &FileIdentity) -> Option<u32> {
        let place = self
            .files
            .binary_search_by(|(seen, _)| seen.cmp(identity))
            .ok()?;
        let (seen, number) = self.files.get(place)?;
        (seen.changed < self.started && seen.modified < self.started).then_some(*number)
    }

    /// Reads what [`NewlySeen::write_to`] has written; None if it is anything else, or damaged.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (bytes, digest) = bytes.split_at_checked(bytes.len().checked_sub(Digest::SIZE)?)?;
        let (header, records) = bytes.split_at_checked(HEADER_SIZE)?;
        let mut header = Fields(header);
        if header.take()? != *MAGIC
            || u32::from_le_bytes(header.take()?) != VERSION
            || sha256(bytes).0 != *digest
            || records.len() % RECORD_SIZE != 0
        {
            return None;
        }
        let manifest = Digest(header.take()?);
        let settings = Digest(header.take()?);
        let started = header.time()?;
        let files = records.chunks_exact(RECORD_SIZE).map(record);
        let files = files.collect::<Option<Vec<_>>>()?;
        Some(Self::new(manifest, settings, started, files))
    }
}

/// The regular files of a tree as a build has just seen them, for a file from which [`SeenFiles`] are read.
pub struct NewlySeen {
    /// The image that was built.
    pub manifest: Digest,
    /// As of [`SeenFiles`].
    pub(crate) settings: Digest,
    /// As of [`SeenFiles`].
    pub(crate) started: (i64, u32),
    /// The files, in any order, each with the number of its inode in the image.
    pub(crate) files: Table<Seen>,
}

/// A file that was seen, and the number of its inode in the image.
pub(crate) struct Seen(pub(crate) FileIdentity, pub(crate) u32);

impl Row for Seen {
    const SIZE: usize = RECORD_SIZE;

    fn encode(&self, bytes: &mut Vec<u8>) {
        let Seen(file, number) = self;
        for field in [file.device, file.inode, file.size] {
            bytes.extend(field.to_le_bytes());
        }
        put_time(bytes, file.modified);
        put_time(bytes, file.changed);
        bytes.extend(number.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Self {
        let nothing = FileIdentity {
            device: 0,
            inode: 0,
            size: 0,
            modified: (0, 0),
            changed: (0, 0),
        };
        let (file, number) = record(bytes).unwrap_or((nothing, 0));
        Seen(file, number)
    }
}

impl NewlySeen {
    /// Writes a header, a record of each file, and the SHA-256 of all that; all integers little-endian.
    ///
    /// # Errors
    /// Those of `out`; that something can't be read back.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let mut hash = Sha256Writer::default();
        let mut bytes = Vec::with_capacity(HEADER_SIZE);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.manifest.0);
        bytes.extend(self.settings.0);
        put_time(&mut bytes, self.started);
        for seen in self.files.iter() {
            if bytes.len() >= WRITE_SIZE {
                hash.update(&bytes);
                out.write_all(&bytes)?;
                bytes.clear();
            }
            seen.encode(&mut bytes);
        }
        self.files.check().map_err(io::Error::other)?;
        hash.update(&bytes);
        bytes.extend(hash.finish().0);
        out.write_all(&bytes)
    }
}

impl fmt::Debug for NewlySeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewlySeen")
            .field("manifest", &self.manifest)
            .field("files", &self.files.len())
            .finish_non_exhaustive()
    }
}

/// The file in a record, and its number.
fn record(bytes: &[u8]) -> Option<(FileIdentity, u32)> {
    let mut record = Fields(bytes);
    let mut number = || record.take().map(u64::from_le_bytes);
    let (device, inode, size) = (number()?, number()?, number()?);
    let file = FileIdentity {
        device,
        inode,
        size,
        modified: record.time()?,
        changed: record.time()?,
    };
    Some((file, u32::from_le_bytes(record.take()?)))
}

fn put_time(bytes: &mut Vec<u8>, (seconds, nanoseconds): (i64, u32)) {
    bytes.extend(seconds.to_le_bytes());
    bytes.extend(nanoseconds.to_le_bytes());
}

/// Fields that are still to be read.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const SIZE: usize>(&mut self) -> Option<[u8; SIZE]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn time(&mut self) -> Option<(i64, u32)> {
        Some((
            i64::from_le_bytes(self.take()?),
            u32::from_le_bytes(self.take()?),
        ))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::table::Scratch;

    fn file(inode: u64, changed: i64) -> FileIdentity {
        FileIdentity {
            device: 1,
            inode,
            size: 7,
            modified: (5, 0),
            changed: (changed, 0),
        }
    }

    fn seen(files: Vec<(FileIdentity, u32)>) -> SeenFiles {
        SeenFiles::new(Digest([1; 32]), Digest([2; 32]), (100, 0), files)
    }

    #[test]
    fn only_what_is_surely_the_same_is_found() {
        let seen = seen(vec![(file(9, 99), 3), (file(8, 100), 4), (file(7, 50), 5)]);
        assert_eq!(seen.find(&file(9, 99)), Some(3));
        assert_eq!(seen.find(&file(7, 50)), Some(5));
        // It was changed when the build went on already.
        assert_eq!(seen.find(&file(8, 100)), None);
        let other = [
            FileIdentity {
                device: 2,
                ..file(9, 99)
            },
            FileIdentity {
                size: 8,
                ..file(9, 99)
            },
            FileIdentity {
                modified: (5, 1),
                ..file(9, 99)
            },
            file(9, 98),
            file(6, 99),
        ];
        for other in other {
            assert_eq!(seen.find(&other), None, "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn it_comes_back_from_a_file_or_not_at_all(
            files in proptest::collection::vec((any::<u64>(), any::<i64>(), any::<u32>()), 0..20),
            change in any::<proptest::sample::Index>(),
            bit in 0..8_u8,
        ) {
            let files = files.into_iter().map(|(inode, changed, number)| (file(inode, changed), number));
            let seen = seen(files.collect());
            let mut newly = NewlySeen {
                manifest: seen.manifest,
                settings: seen.settings,
                started: seen.started,
                files: Table::new(&Scratch::default()),
            };
            // In any order.
            for (file, number) in seen.files.iter().rev() {
                newly.files.push(&Seen(*file, *number));
            }
            let mut bytes = Vec::new();
            newly.write_to(&mut bytes).unwrap();
            prop_assert_eq!(SeenFiles::from_bytes(&bytes), Some(seen));
            prop_assert!(SeenFiles::from_bytes(&bytes[..bytes.len() - 1]).is_none());
            let place = change.index(bytes.len());
            bytes[place] ^= 1 << bit;
            prop_assert!(SeenFiles::from_bytes(&bytes).is_none());
        }
    }
}
