// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What can go wrong when an image is written to somewhere.

use std::io;
use std::path::PathBuf;

use peerfs_store::{printable, printable_bytes};

/// The result of an export.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of an export.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The image can't be read.
    #[error(transparent)]
    Image(#[from] peerfs_store::Error),
    /// The content of a file can't be read from the image.
    #[error("can't read {} of the image", printable_bytes(path))]
    Content {
        /// Its path in the image.
        path: Vec<u8>,
        /// The cause.
        source: peerfs_store::Error,
    },
    /// The operating system refused something.
    #[error("can't {action} {}{}", printable(path), hint(source))]
    Io {
        /// The action that failed, as a verb.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A path that was asked for leads out of the image.
    #[error("{}: a path in an image has no \"..\"", printable_bytes(.0))]
    LeadsOut(Vec<u8>),
    /// A directory that is to be filled holds something.
    #[error("{} is not empty", printable(.0))]
    NotEmpty(PathBuf),
    /// A directory that should be an image layout is something else.
    #[error("{} is neither empty nor an OCI image layout", printable(.0))]
    NotALayout(PathBuf),
    /// A directory that should be an ordinary image layout is a store of peerfs, whose image of that tag would be lost.
    #[error("{} is a store of peerfs: name another directory for the OCI image", printable(.0))]
    AStore(PathBuf),
    /// The OCI image can't be described.
    #[error("can't make an OCI image of it")]
    Oci(#[from] peerfs_oci::Error),
    /// Something else is in the place of what was just made.
    #[error("{} was replaced by somebody while it was extracted", printable(.0))]
    Replaced(PathBuf),
    /// What is written can't be.
    #[error("can't write the output{}", hint(.0))]
    Output(#[source] io::Error),
    /// A file's name is an order to whoever unpacks a layer.
    #[error(
        "{} can't be in an OCI image: to those who unpack its layer a name that begins with \".wh.\" says that something \
         is removed; `peerfs export tar` writes it",
        printable_bytes(.0)
    )]
    Whiteout(Vec<u8>),
    /// Somebody wanted it to end.
    #[error("interrupted")]
    Cancelled,
}

impl Error {
    /// For `map_err`: what was tried with which file.
    pub(crate) fn io<E: Into<io::Error>>(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Error {
        move |source| Error::Io {
            action,
            path: path.into(),
            source: source.into(),
        }
    }

    /// Whether it is of no use to go on with the other files.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Error::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull
                    | io::ErrorKind::QuotaExceeded
                    | io::ErrorKind::ReadOnlyFilesystem
            ),
            Error::Image(_) | Error::Content { .. } | Error::Cancelled => true,
            _ => false,
        }
    }
}

/// An error by which the reading of a file ends, of the image or of what is done with it.
pub(crate) struct Stop(pub(crate) Error);

impl Stop {
    /// The error, which names the file of the image that could not be read.
    pub(crate) fn of_file(self, path: &[u8]) -> Error {
        match self.0 {
            Error::Image(source) => Error::Content {
                path: path.to_vec(),
                source,
            },
            error => error,
        }
    }
}

impl From<peerfs_store::Error> for Stop {
    fn from(error: peerfs_store::Error) -> Self {
        Stop(error.into())
    }
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => " (make room)",
        _ => "",
    }
}
