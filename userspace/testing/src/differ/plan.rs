// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The choice of what to try next.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use fastrand::Rng;
use peerfs_sys::mapping::MappingAdvice;
use rustix::fs::{Access, Advice, FallocateFlags, FlockOperation, OFlags};
use rustix::io::Errno;

use super::answer::Answer;
use super::operation::{Change, ChangeOpen, MapWay, Operation, SeekTo};
use super::path::Paths;
use super::SLOTS;
use crate::Result;

const PAGE: u64 = 4096;
/// The longest single read.
const LENGTH_MAX: usize = 300 * 1024;
/// Sizes at which something changes: pages, and the shortest, average and longest chunk.
const BORDERS: [u64; 4] = [PAGE, 16 * 1024, 64 * 1024, 256 * 1024];

const XATTRS: [&str; 12] = [
    "user.empty",
    "user.binary",
    "user.long",
    "user.root",
    "trusted.peerfs",
    "trusted.link",
    "security.peerfs",
    "security.capability",
    "system.posix_acl_access",
    "system.posix_acl_default",
    "user.",
    "nonsense",
];

/// A file that is open.
struct Open {
    path: PathBuf,
    is_directory: bool,
    /// Bytes of a regular file.
    size: u64,
}

/// Chooses operations, knowing what is open.
pub(super) struct Plan {
    paths: Paths,
    slots: [Option<Open>; SLOTS],
}

impl Plan {
    pub(super) fn new(root: &Path) -> Result<Self> {
        Ok(Plan {
            paths: Paths::of(root)?,
            slots: [const { None }; SLOTS],
        })
    }

    /// Takes note of what became of an operation.
    pub(super) fn note(&mut self, operation: &Operation, answer: &Result<Answer, Errno>) {
        match (operation, answer) {
            (Operation::Open { slot, path, .. }, Ok(Answer::Status(status))) => {
                self.slots[*slot] = Some(Open {
                    path: path.clone(),
                    is_directory: status.size.is_none(),
                    size: status.size.unwrap_or(0),
                });
            }
            (Operation::Open { slot, .. } | Operation::Close { slot }, _) => {
                self.slots[*slot] = None;
            }
            _ => (),
        }
    }

    /// The state of an operation's slot.
    pub(super) fn context(&self, operation: &Operation) -> String {
        let open = operation.slot().and_then(|slot| self.slots[slot].as_ref());
        open.map_or(String::new(), |open| {
            format!(" on {:?} with {} bytes", open.path, open.size)
        })
    }

    /// The next operation.
    pub(super) fn choose(&self, rng: &mut Rng) -> Operation {
        let slot = rng.usize(..SLOTS);
        match &self.slots[slot] {
            None => self.open(slot, rng),
            Some(_) if rng.u32(..25) == 0 => Operation::Close { slot },
            Some(_) if rng.u32(..4) == 0 => self.by_path(rng),
            Some(_) if rng.u32(..20) == 0 => Operation::ChangeOpen {
                slot,
                change: change_open(rng),
            },
            Some(open) if open.is_directory => self.on_directory(slot, rng),
            Some(open) => on_file(slot, open.size, rng),
        }
    }

    fn open(&self, slot: usize, rng: &mut Rng) -> Operation {
        let plain = OFlags::RDONLY | OFlags::NONBLOCK;
        let (path, flags) = match rng.u32(..12) {
            0 | 1 => (self.paths.directory(rng).path.clone(), OFlags::DIRECTORY),
            2 => (self.paths.spelled(rng), OFlags::empty()),
            3 => (self.paths.spelled(rng), OFlags::NOFOLLOW),
            4 => (self.paths.spelled(rng), OFlags::DIRECTORY),
            5 => (self.paths.spelled(rng), OFlags::WRONLY),
            6 => (self.paths.spelled(rng), OFlags::RDWR),
            7 => {
                let flags = [
                    OFlags::CREATE,
                    OFlags::CREATE | OFlags::EXCL,
                    OFlags::TRUNC,
                    OFlags::WRONLY | OFlags::APPEND,
                    OFlags::PATH,
                    OFlags::TMPFILE | OFlags::RDWR,
                    OFlags::NOATIME,
                ];
                (self.paths.spelled(rng), flags[rng.usize(..flags.len())])
            }
            _ => (self.paths.file(rng).path.clone(), OFlags::empty()),
        };
        Operation::Open {
            slot,
            path,
            flags: plain | flags,
        }
    }

    fn by_path(&self, rng: &mut Rng) -> Operation {
        let path = self.paths.spelled(rng);
        let follow = rng.bool();
        match rng.u32(..15) {
            0..4 => Operation::Status { path, follow },
            4 | 5 => Operation::ExtendedStatus {
                path,
                // Symbolic links, synchronisation, and one that there is not.
                flags: [0, 0x100, 0x2000, 0x4000, 0x100, 0x6000, 0x1][rng.usize(..7)],
            },
            6 => Operation::ReadLink {
                path,
                length: [1, 10, 4095, 4096, 5000][rng.usize(..5)],
            },
            7 | 8 => {
                let known = self.paths.xattr(rng).filter(|_| rng.bool());
                let (path, name) = match known {
                    Some((known, name)) => (known.path.clone(), name),
                    None => (path, xattr(rng)),
                };
                Operation::GetXattr {
                    path,
                    name,
                    length: [0, 1, 100, 4000, 65536][rng.usize(..5)],
                    follow,
                }
            }
            9 => Operation::ListXattrs {
                path,
                length: [0, 5, 100, 1000, 65536][rng.usize(..5)],
                follow,
            },
            10 | 11 => Operation::Access {
                path,
                access: [
                    Access::EXISTS,
                    Access::READ_OK,
                    Access::WRITE_OK,
                    Access::EXEC_OK,
                    Access::READ_OK | Access::EXEC_OK,
                ][rng.usize(..5)],
            },
            12 => {
                let known = self.paths.file(rng);
                let size = known.size.unwrap_or(0);
                Operation::ReadDirect {
                    path: known.path.clone(),
                    offset: offset(size, rng) / PAGE * PAGE,
                    length: (length(rng) / 4096 + 1) * 4096,
                }
            }
            _ => Operation::Change {
                path,
                change: self.change(rng),
            },
        }
    }

    fn change(&self, rng: &mut Rng) -> Change {
        match rng.u32(..12) {
            0 => Change::Unlink,
            1 => Change::RemoveDirectory,
            2 => Change::MakeDirectory,
            3 => Change::MakeNode,
            4 => Change::LinkTo(self.paths.spelled(rng)),
            5 => Change::SymbolicLink,
            6 => Change::Rename(self.paths.spelled(rng)),
            7 => Change::Mode,
            8 => Change::Owner,
            9 => Change::Times,
            10 => Change::SetXattr(xattr(rng)),
            _ => Change::RemoveXattr(xattr(rng)),
        }
    }

    fn on_directory(&self, slot: usize, rng: &mut Rng) -> Operation {
        match rng.u32(..8) {
            0 => Operation::Read { slot, length: 100 },
            1 => Operation::StatusOfOpen { slot },
            2 => Operation::ReadAt {
                slot,
                offset: 0,
                length: 100,
            },
            3 => Operation::Map {
                slot,
                offset: 0,
                length: 4096,
                way: MapWay::Private,
            },
            4 => Operation::GetXattrOfOpen {
                slot,
                name: xattr(rng),
            },
            _ => Operation::List {
                slot,
                buffer: [300, 1024, 32 * 1024][rng.usize(..3)],
                resume: rng.usize(..1000),
            },
        }
    }
}

fn on_file(slot: usize, size: u64, rng: &mut Rng) -> Operation {
    let place = offset(size, rng);
    let far = length(rng);
    let maybe = if rng.bool() { Some(place) } else { None };
    match rng.u32(..30) {
        0..4 => Operation::Read { slot, length: far },
        4 | 5 => Operation::ReadVectors {
            slot,
            lengths: lengths(rng),
        },
        6..10 => Operation::ReadAt {
            slot,
            offset: place,
            length: far,
        },
        10 | 11 => Operation::ReadVectorsAt {
            slot,
            offset: place,
            lengths: lengths(rng),
        },
        12 | 13 => Operation::Seek {
            slot,
            to: match rng.u32(..3) {
                0 => SeekTo::Start(place),
                1 => SeekTo::End(signed(place, rng)),
                _ => SeekTo::Current(signed(place, rng)),
            },
        },
        14 => Operation::SeekData {
            slot,
            offset: place,
        },
        15 => Operation::SeekHole {
            slot,
            offset: place,
        },
        16 | 17 => Operation::Splice {
            slot,
            offset: maybe,
            length: far,
        },
        18 | 19 => Operation::SendFile {
            slot,
            offset: maybe,
            length: far,
        },
        20 => Operation::CopyRange {
            slot,
            offset: place,
            length: far,
        },
        21..25 => {
            // Whole pages that the file has: reading others is a signal's business.
            let offset = place.min(size.saturating_sub(1)) / PAGE * PAGE;
            let most = size.saturating_sub(offset).next_multiple_of(PAGE) as usize;
            Operation::Map {
                slot,
                offset,
                length: far.min(most),
                way: map_way(rng),
            }
        }
        25 => Operation::Advise {
            slot,
            offset: place,
            length: if rng.bool() { 0 } else { far as u64 },
            advice: [
                Advice::Normal,
                Advice::Random,
                Advice::Sequential,
                Advice::WillNeed,
                Advice::DontNeed,
                Advice::NoReuse,
            ][rng.usize(..6)],
        },
        26 => Operation::CountUnread { slot },
        27 => Operation::StatusOfOpen { slot },
        28 => Operation::List {
            slot,
            buffer: 1024,
            resume: 0,
        },
        _ => Operation::Lock {
            slot,
            lock: [
                FlockOperation::NonBlockingLockShared,
                FlockOperation::NonBlockingLockExclusive,
                FlockOperation::Unlock,
            ][rng.usize(..3)],
        },
    }
}

fn change_open(rng: &mut Rng) -> ChangeOpen {
    match rng.u32(..7) {
        0 => ChangeOpen::Write,
        1 => ChangeOpen::Truncate(rng.u64(..100_000)),
        2 => ChangeOpen::Allocate(FallocateFlags::KEEP_SIZE),
        3 => ChangeOpen::Mode,
        4 => ChangeOpen::Sync,
        5 => ChangeOpen::SyncData,
        _ => ChangeOpen::SyncFilesystem,
    }
}

fn map_way(rng: &mut Rng) -> MapWay {
    match rng.u32(..8) {
        0 | 1 => MapWay::Private,
        2 => MapWay::Populated,
        3 => MapWay::Locked,
        4 => MapWay::Advised(MappingAdvice::Random),
        5 => MapWay::Advised(MappingAdvice::Sequential),
        6 => MapWay::Advised(MappingAdvice::WillNeed),
        _ => MapWay::Advised(MappingAdvice::DontNeed),
    }
}

fn xattr(rng: &mut Rng) -> OsString {
    XATTRS[rng.usize(..XATTRS.len())].into()
}

/// A place in a file or somewhat behind it, often where something changes.
fn offset(size: u64, rng: &mut Rng) -> u64 {
    match rng.u32(..10) {
        0 => size.saturating_sub(rng.u64(..20)),
        1 => size + rng.u64(..100_000),
        2..5 => {
            let border = BORDERS[rng.usize(..BORDERS.len())];
            let number = rng.u64(..=size / border);
            (number * border + 1).saturating_sub(rng.u64(..3))
        }
        _ => rng.u64(..=size),
    }
}

fn length(rng: &mut Rng) -> usize {
    match rng.u32(..8) {
        0 => 0,
        1 => 1,
        2 | 3 => rng.usize(..100),
        4 => 4096 * rng.usize(1..20),
        _ => rng.usize(..LENGTH_MAX),
    }
}

fn lengths(rng: &mut Rng) -> [usize; 3] {
    [length(rng) / 3, length(rng) / 3, length(rng) / 3]
}

fn signed(value: u64, rng: &mut Rng) -> i64 {
    let value = i64::try_from(value).unwrap_or(0);
    if rng.bool() {
        -value
    } else {
        value % 100_000
    }
}
