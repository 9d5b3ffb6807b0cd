// SPDX-License-Identifier: GPL-2.0 OR MIT

//! One operation: a system call or a few that belong together, on both trees alike.

use std::ffi::OsString;
use std::path::PathBuf;

use peerfs_sys::mapping::MappingAdvice;
use rustix::fs::{Access, Advice, FallocateFlags, FlockOperation, OFlags};

/// A path relative to the tree's root.
pub(super) type RelativePath = PathBuf;

/// An operation. A `slot` is one of the files that are open.
#[derive(Clone, Debug)]
pub(super) enum Operation {
    Open {
        slot: usize,
        path: RelativePath,
        flags: OFlags,
    },
    Close {
        slot: usize,
    },
    /// Moves the position.
    Read {
        slot: usize,
        length: usize,
    },
    /// Into three buffers, the middle one possibly empty.
    ReadVectors {
        slot: usize,
        lengths: [usize; 3],
    },
    ReadAt {
        slot: usize,
        offset: u64,
        length: usize,
    },
    ReadVectorsAt {
        slot: usize,
        offset: u64,
        lengths: [usize; 3],
    },
    /// With O_DIRECT, which a filesystem may refuse.
    ReadDirect {
        path: RelativePath,
        offset: u64,
        length: usize,
    },
    Seek {
        slot: usize,
        to: SeekTo,
    },
    SeekData {
        slot: usize,
        offset: u64,
    },
    SeekHole {
        slot: usize,
        offset: u64,
    },
    /// To a pipe, which is then read.
    Splice {
        slot: usize,
        offset: Option<u64>,
        length: usize,
    },
    /// To a file in memory, which is then read.
    SendFile {
        slot: usize,
        offset: Option<u64>,
        length: usize,
    },
    CopyRange {
        slot: usize,
        offset: u64,
        length: usize,
    },
    /// All pages are read.
    Map {
        slot: usize,
        offset: u64,
        length: usize,
        way: MapWay,
    },
    Advise {
        slot: usize,
        offset: u64,
        length: u64,
        advice: Advice,
    },
    /// Bytes between the position and the end.
    CountUnread {
        slot: usize,
    },
    Status {
        path: RelativePath,
        follow: bool,
    },
    StatusOfOpen {
        slot: usize,
    },
    ExtendedStatus {
        path: RelativePath,
        flags: u32,
    },
    ReadLink {
        path: RelativePath,
        length: usize,
    },
    GetXattr {
        path: RelativePath,
        name: OsString,
        length: usize,
        follow: bool,
    },
    GetXattrOfOpen {
        slot: usize,
        name: OsString,
    },
    ListXattrs {
        path: RelativePath,
        length: usize,
        follow: bool,
    },
    Access {
        path: RelativePath,
        access: Access,
    },
    /// All entries, and again from behind one of them, `resume` of 1000 parts from the beginning.
    List {
        slot: usize,
        buffer: usize,
        resume: usize,
    },
    Change {
        path: RelativePath,
        change: Change,
    },
    ChangeOpen {
        slot: usize,
        change: ChangeOpen,
    },
    Lock {
        slot: usize,
        lock: FlockOperation,
    },
}

/// A place to seek to.
#[derive(Clone, Copy, Debug)]
pub(super) enum SeekTo {
    Start(u64),
    End(i64),
    Current(i64),
}

/// A way to read a mapping.
#[derive(Clone, Copy, Debug)]
pub(super) enum MapWay {
    /// MAP_PRIVATE, touching the pages.
    Private,
    /// MAP_SHARED, after an advice, touching the pages.
    Advised(MappingAdvice),
    /// MAP_SHARED, reading the pages in first.
    Populated,
    /// MAP_SHARED, locking the pages first.
    Locked,
}

/// An attempt to change something by its path.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Unlink,
    RemoveDirectory,
    MakeDirectory,
    MakeNode,
    LinkTo(RelativePath),
    SymbolicLink,
    Rename(RelativePath),
    Mode,
    Owner,
    Times,
    SetXattr(OsString),
    RemoveXattr(OsString),
}

/// An attempt to change something that is open for reading.
#[derive(Clone, Copy, Debug)]
pub(super) enum ChangeOpen {
    Write,
    Truncate(u64),
    Allocate(FallocateFlags),
    Mode,
    Sync,
    SyncData,
    SyncFilesystem,
}

impl Operation {
    /// For counting.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Operation::Open { .. } => "open",
            Operation::Close { .. } => "close",
            Operation::Read { .. } => "read",
            Operation::ReadVectors { .. } => "readv",
            Operation::ReadAt { .. } => "pread",
            Operation::ReadVectorsAt { .. } => "preadv",
            Operation::ReadDirect { .. } => "O_DIRECT",
            Operation::Seek { .. } => "lseek",
            Operation::SeekData { .. } => "SEEK_DATA",
            Operation::SeekHole { .. } => "SEEK_HOLE",
            Operation::Splice { .. } => "splice",
            Operation::SendFile { .. } => "sendfile",
            Operation::CopyRange { .. } => "copy_file_range",
            Operation::Map { .. } => "mmap",
            Operation::Advise { .. } => "fadvise",
            Operation::CountUnread { .. } => "FIONREAD",
            Operation::Status { .. } => "stat",
            Operation::StatusOfOpen { .. } => "fstat",
            Operation::ExtendedStatus { .. } => "statx",
            Operation::ReadLink { .. } => "readlink",
            Operation::GetXattr { .. } => "getxattr",
            Operation::GetXattrOfOpen { .. } => "fgetxattr",
            Operation::ListXattrs { .. } => "listxattr",
            Operation::Access { .. } => "access",
            Operation::List { .. } => "getdents",
            Operation::Change { .. } => "change",
            Operation::ChangeOpen { .. } => "change open",
            Operation::Lock { .. } => "flock",
        }
    }

    /// The open file that it is about.
    pub(super) fn slot(&self) -> Option<usize> {
        match self {
            Operation::Open { slot, .. }
            | Operation::Close { slot }
            | Operation::Read { slot, .. }
            | Operation::ReadVectors { slot, .. }
            | Operation::ReadAt { slot, .. }
            | Operation::ReadVectorsAt { slot, .. }
            | Operation::Seek { slot, .. }
            | Operation::SeekData { slot, .. }
            | Operation::SeekHole { slot, .. }
            | Operation::Splice { slot, .. }
            | Operation::SendFile { slot, .. }
            | Operation::CopyRange { slot, .. }
            | Operation::Map { slot, .. }
            | Operation::Advise { slot, .. }
            | Operation::CountUnread { slot }
            | Operation::StatusOfOpen { slot }
            | Operation::GetXattrOfOpen { slot, .. }
            | Operation::List { slot, .. }
            | Operation::ChangeOpen { slot, .. }
            | Operation::Lock { slot, .. } => Some(*slot),
            Operation::ReadDirect { .. }
            | Operation::Status { .. }
            | Operation::ExtendedStatus { .. }
            | Operation::ReadLink { .. }
            | Operation::GetXattr { .. }
            | Operation::ListXattrs { .. }
            | Operation::Access { .. }
            | Operation::Change { .. } => None,
        }
    }
}
