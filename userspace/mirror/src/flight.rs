// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A blob that is just being brought here: it is written as it comes, and read meanwhile by all who want it.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use peerfs_format::Digest;
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, watch};
use tokio::task::{spawn_blocking, JoinHandle};

use crate::blobs::{Blob, Blobs, CannotBegin};

/// Pieces that wait to be written.
const PIECES_AHEAD: usize = 64;

/// Why something can't be had.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Nobody has it.
    #[error("it is nowhere")]
    Missing,
    /// The registry says why.
    #[error(transparent)]
    Upstream(Arc<peerfs_registry::Error>),
    /// The registry does not say how long it is.
    #[error("{0} does not say how long the blob is")]
    NoLength(String),
    /// What was given out already of one source is not what another one sends.
    #[error("a source has sent something else than the blob; try again")]
    Wrong,
    /// It can't be written or read.
    #[error("cannot keep it")]
    Disk(#[source] Arc<io::Error>),
    /// It is larger than all that may be here.
    #[error(transparent)]
    TooLarge(Arc<CannotBegin>),
    /// Too much is being brought here.
    #[error("too much is being fetched already; try again later")]
    Busy,
    /// The daemon ends.
    #[error("the daemon is shutting down")]
    ShuttingDown,
}

impl From<peerfs_registry::Error> for Failure {
    fn from(error: peerfs_registry::Error) -> Self {
        match error {
            peerfs_registry::Error::Missing { .. } => Failure::Missing,
            error => Failure::Upstream(Arc::new(error)),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Disk(Arc::new(error))
    }
}

impl From<CannotBegin> for Failure {
    fn from(problem: CannotBegin) -> Self {
        match problem {
            CannotBegin::TooLarge { .. } => Failure::TooLarge(Arc::new(problem)),
            CannotBegin::Full => Failure::Busy,
            CannotBegin::Disk(error) => error.into(),
        }
    }
}

/// How far a blob has come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// The source that just sends it: when that fails, another one begins anew.
    pub(crate) attempt: Option<Attempt>,
    /// How it ended.
    pub(crate) end: Option<Result<Blob, Failure>>,
}

/// What has come from one source. It is not verified before all has come.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    /// The file that it is written to.
    pub(crate) file: Arc<File>,
    /// Bytes of the blob, as the source says.
    pub(crate) length: u64,
    /// Bytes that have come, from the first one on.
    pub(crate) come: u64,
}

/// Why what came from a source is not the blob.
#[derive(Debug)]
pub(crate) enum Problem {
    /// It was not all of it.
    Short,
    /// It was something else.
    Wrong,
    /// It can't even begin to be written.
    CannotBegin(CannotBegin),
    /// It could not be written.
    Disk(io::Error),
}

/// Writes and verifies what comes from one source.
pub(crate) struct Writer {
    pieces: mpsc::Sender<Bytes>,
    written: JoinHandle<Result<Blob, Problem>>,
}

impl Writer {
    /// Begins. Must be called within a tokio runtime.
    pub(crate) fn begin(
        blobs: &Arc<Blobs>,
        digest: Digest,
        length: u64,
        progress: &watch::Sender<Progress>,
    ) -> Self {
        let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
        let (blobs, progress) = (Arc::clone(blobs), progress.clone());
        Writer {
            pieces: sender,
            written: spawn_blocking(move || write(&blobs, &digest, length, pieces, &progress)),
        }
    }

    /// Takes the next piece; false if no more is wanted.
    pub(crate) async fn put(&self, piece: Bytes) -> bool {
        self.pieces.send(piece).await.is_ok()
    }

    /// The blob, if all of it has come.
    pub(crate) async fn finish(self) -> Result<Blob, Problem> {
        drop(self.pieces);
        let written = self.written.await;
        written.unwrap_or_else(|error| Err(Problem::Disk(io::Error::other(error))))
    }
}

fn write(
    blobs: &Arc<Blobs>,
    digest: &Digest,
    length: u64,
    mut pieces: mpsc::Receiver<Bytes>,
    progress: &watch::Sender<Progress>,
) -> Result<Blob, Problem> {
    let mut growing = blobs.begin(length).map_err(Problem::CannotBegin)?;
    let file = growing.file();
    let tell = |come| {
        let file = Arc::clone(&file);
        let attempt = Some(Attempt { file, length, come });
        progress.send_modify(|progress| progress.attempt = attempt);
    };
    tell(0);
    let (mut come, mut hash) = (0, Sha256::new());
    while let Some(piece) = pieces.blocking_recv() {
        if piece.len() as u64 > length - come {
            return Err(Problem::Wrong);
        }
        hash.update(&piece);
        growing.write(&piece).map_err(Problem::Disk)?;
        come += piece.len() as u64;
        tell(come);
    }
    if come < length {
        return Err(Problem::Short);
    }
    if Digest(hash.finalize().into()) != *digest {
        return Err(Problem::Wrong);
    }
    growing.finish(digest).map_err(Problem::Disk)
}
