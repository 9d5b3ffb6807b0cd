// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The errors of the subcommands.

use std::io;
use std::path::Path;

/// An error of a subcommand.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The test's own work failed: not a finding, but no success either.
    #[error("can't {action} {path}: {source}")]
    Io {
        action: &'static str,
        path: String,
        source: io::Error,
    },
    /// The store holds something else than an image.
    #[error("{path}: {source}")]
    Format {
        path: String,
        source: peerfs_format::Error,
    },
    /// The store holds something else than a message.
    #[error("a metadata blob: {0}")]
    Message(#[from] capnp::Error),
    /// A thing that is tested does not behave.
    #[error("{0}")]
    Finding(String),
}

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// For `map_err`.
    pub(crate) fn io<E: Into<io::Error>>(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self {
        let path = path.display().to_string();
        move |source| Error::Io {
            action,
            path,
            source: source.into(),
        }
    }

    /// For `map_err`.
    pub(crate) fn format(path: &Path) -> impl FnOnce(peerfs_format::Error) -> Self {
        let path = path.display().to_string();
        move |source| Error::Format { path, source }
    }
}

/// Fails with a finding unless `good`.
pub(crate) fn ensure(good: bool, finding: impl FnOnce() -> String) -> Result<()> {
    if good {
        Ok(())
    } else {
        Err(Error::Finding(finding()))
    }
}
