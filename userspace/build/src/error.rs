// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What can go wrong with a build.

use std::io;
use std::path::{Path, PathBuf};

use crate::ChunkSizes;

/// The result of a build or of a step of it.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong with a build, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused something.
    #[error("can't {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Something in the tree changed while it was read.
    #[error(
        "{} changed while it was read; build from a tree that nothing writes to, such as a snapshot",
        .0.display()
    )]
    Changed(PathBuf),
    /// The store is inside the tree.
    #[error("the store {} is inside the tree; name another with --root-dir", .0.display())]
    StoreInTree(PathBuf),
    /// The format can't hold it.
    #[error("{what} of {} are more than the format allows", path.display())]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// In which file, or the tree.
        path: PathBuf,
    },
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
