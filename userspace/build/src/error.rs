// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The errors of a build.

use std::io;
use std::path::{Path, PathBuf};

use peerfs_format::Digest;
use peerfs_store::printable;

use crate::ChunkSizes;

/// The result of a build or of a step of it.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of a build; its message says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused something.
    #[error("can't {action} {}", printable(path))]
    Io {
        /// The action that failed, as a verb.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// What a build of a large tree had put aside on the disk was not to be had again.
    #[error("can't read back what was written to the store's folder tmp")]
    Scratch(#[source] io::Error),
    /// Something in the tree changed while it was read.
    #[error(
        "{} changed while it was read; build from a tree that nothing writes to, such as a snapshot",
        printable(.0)
    )]
    Changed(PathBuf),
    /// The store is inside the tree.
    #[error("the store {} is inside the tree", printable(.0))]
    StoreInTree(PathBuf),
    /// An image to build upon whose chunks readers of the new one could not decrypt.
    #[error(
        "the image {0} is not encrypted with the key of the new one, or only one of the two is encrypted: build without \
         it, or with its key"
    )]
    OtherRealm(Digest),
    /// Files that the user may not read.
    #[error("{}", list(paths, *more))]
    Unreadable {
        /// Some of them.
        paths: Vec<PathBuf>,
        /// The number of all others.
        more: u64,
    },
    /// The format can't hold it.
    #[error(
        "{} has {count} {what}, and the format allows {limit}",
        printable(path)
    )]
    TooLarge {
        /// The thing that there is too much of.
        what: &'static str,
        /// In which file, or the tree.
        path: PathBuf,
        /// The amount that there is.
        count: u64,
        /// The amount that the format allows.
        limit: u64,
    },
    /// The tree has something that no image can have.
    #[error("{}: {reason}", printable(path))]
    Refused {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: &'static str,
    },
    /// An archive is not what it should be.
    #[error("{}, at byte {offset} of the archive: {problem}", printable(path))]
    Archive {
        /// The archive, or an entry of it.
        path: PathBuf,
        /// The place in the archive, once it is unpacked.
        offset: u64,
        /// What is wrong there.
        problem: &'static str,
    },
    /// An archive is compressed by a method that is not supported, or its compressed bytes are wrong.
    #[error("can't decompress {}", printable(path))]
    Decompress {
        /// The archive.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// An archive is longer than it may be when it is unpacked, or has too many entries.
    #[error("{} would take more than {limit} bytes of {of}", printable(path))]
    Limit {
        /// The archive.
        path: PathBuf,
        /// What of it is limited.
        of: &'static str,
        /// The limit.
        limit: u64,
    },
    /// Bytes are others than those that were promised.
    #[error("{} {what} {actual}, and should have {expected}", printable(path))]
    Mismatch {
        /// The archive.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// That which it should have.
        expected: String,
        /// That which it has.
        actual: String,
    },
    /// See [`Options::give_up`](crate::Options::give_up).
    #[error("given up")]
    Cancelled,
    /// The system does not give any more threads.
    #[error(
        "can't start a thread; allow more processes (ulimit -u) or use fewer threads (--threads)"
    )]
    Thread(#[source] io::Error),
    /// Readers would refuse such chunks.
    #[error("chunks of {} to {} bytes, {} on average, are not possible", .0.min, .0.max, .0.average)]
    ChunkSizes(ChunkSizes),
    /// zstd could not start.
    #[error("can't start the compressor; is there enough memory?")]
    Compressor(#[source] io::Error),
    /// The store refused something.
    #[error(transparent)]
    Store(#[from] peerfs_store::Error),
}

impl Error {
    /// For `map_err`: what was tried with which file.
    pub(crate) fn io<'a, E: Into<io::Error>>(
        action: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(E) -> Error + 'a {
        move |source| Error::Io {
            action,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// For `map_err`, with a file of the tree that was there a moment ago: if it is gone or something
    /// else now, the tree has changed.
    pub(crate) fn tree<'a>(
        action: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(rustix::io::Errno) -> Error + 'a {
        use rustix::io::Errno;
        move |errno| match errno {
            Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::STALE | Errno::NXIO => {
                Error::Changed(path.to_owned())
            }
            _ => Error::io(action, path)(errno),
        }
    }
}

fn list(paths: &[PathBuf], more: u64) -> String {
    let count = paths.len() as u64 + more;
    let mut text = format!("{count} files of the tree can't be read (try as root):");
    if count == 1 {
        text = "a file of the tree can't be read (try as root):".to_owned();
    }
    for path in paths {
        text.push_str(&format!("\n  {}", printable(path)));
    }
    if more > 0 {
        text.push_str(&format!("\n  and {more} more"));
    }
    text
}
