// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Why a snapshot can't be had.

use std::io;
use std::path::PathBuf;

use peerfs_format::Digest;

/// Why something can't be done with a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none of that name.
    #[error("there is no snapshot {0}")]
    NotFound(String),
    /// There is one of that name already.
    #[error("there is a snapshot {0} already")]
    AlreadyExists(String),
    /// What was asked for needs a snapshot of another kind.
    #[error("the snapshot {key} is {is}, and must be {wanted}")]
    WrongKind {
        /// Its name.
        key: String,
        /// What it is.
        is: &'static str,
        /// What it must be.
        wanted: &'static str,
    },
    /// Other snapshots lie over it.
    #[error("the snapshot {0} has others over it; remove these first")]
    HasChildren(String),
    /// What was asked is wrong.
    #[error("{0}")]
    Invalid(String),
    /// Another process has the folder.
    #[error("{0} is in use by another peerfs-snapshotter")]
    InUse(PathBuf),
    /// The folder can't be used, or what lies in it.
    #[error("cannot {action} {path}")]
    Folder {
        /// What was to be done.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The image of a snapshot does not come.
    #[error("the image {manifest} cannot be had: {reason}")]
    Image {
        /// Its manifest.
        manifest: Digest,
        /// Why not, for people.
        reason: String,
    },
    /// The image of a snapshot can't be mounted.
    #[error("the image {manifest} cannot be mounted: {reason}")]
    Mount {
        /// Its manifest.
        manifest: Digest,
        /// What `peerfs mount` says.
        reason: String,
    },
    /// A task of this process ended before it had done what it should.
    #[error("the snapshotter is about to end")]
    Ending,
}

/// Of what can be done with snapshots.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Makes an error of what the system says.
    pub(crate) fn folder(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Error::Folder {
            action,
            path,
            source,
        }
    }
}
