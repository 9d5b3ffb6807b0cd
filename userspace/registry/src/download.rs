// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A blob that is read as it comes.

use std::io::{self, Read};
use std::time::Duration;

use bytes::{Buf, Bytes};
use peerfs_format::Digest;
use peerfs_oci::BlobInfo;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::remote::{Ranged, Remote};
use crate::retry::Attempts;

/// Pieces, of some KiB each, that wait to be read.
const PIECES_AHEAD: usize = 64;
/// How often it is asked whether to give up.
const TICK: Duration = Duration::from_millis(100);

/// A blob that is read as it comes, for code that blocks. Its end is only told after all of it had the right digest, so
/// whoever acts on what came before must be able to undo that.
pub struct BlobReader {
    host: String,
    digest: Digest,
    left: u64,
    hash: Sha256,
    rest: Bytes,
    pieces: BlobPieces,
    give_up: fn() -> bool,
    runtime: Handle,
}

/// A blob that comes piece by piece, in order and not verified. Dropping it ends that.
pub struct BlobPieces {
    pieces: mpsc::Receiver<Result<Bytes>>,
    task: JoinHandle<()>,
}

impl BlobPieces {
    /// The next piece; None at the end, when as many bytes have come as the blob has.
    ///
    /// # Errors
    /// Those of the server, after which nothing more comes.
    pub async fn next(&mut self) -> Option<Result<Bytes>> {
        self.pieces.recv().await
    }
}

impl Drop for BlobPieces {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Remote {
    /// Begins to get a whole blob. When the connection breaks, it goes on where that was. Must be called within a tokio
    /// runtime; the reader, outside of its asynchronous tasks. While it waits, it asks again and again whether to give up.
    pub fn read_blob(&self, blob: &BlobInfo, give_up: fn() -> bool) -> BlobReader {
        BlobReader {
            host: self.host().to_owned(),
            digest: blob.digest,
            left: blob.length,
            hash: Sha256::new(),
            rest: Bytes::new(),
            pieces: self.blob_pieces(blob),
            give_up,
            runtime: Handle::current(),
        }
    }

    /// Begins to get a whole blob. When the connection breaks, it goes on where that was. Must be called within a tokio
    /// runtime.
    pub fn blob_pieces(&self, blob: &BlobInfo) -> BlobPieces {
        let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
        let (remote, wanted) = (self.clone(), blob.clone());
        BlobPieces {
            pieces,
            task: tokio::spawn(async move { download(&remote, &wanted, &sender).await }),
        }
    }
}

/// Sends the pieces of a blob, and at last why no more come, if it is not the end.
async fn download(remote: &Remote, blob: &BlobInfo, pieces: &mpsc::Sender<Result<Bytes>>) {
    let mut offset = 0;
    let mut attempts = Attempts::default();
    while offset < blob.length {
        let before = offset;
        let Err(error) = download_from(remote, blob, &mut offset, pieces).await else {
            return;
        };
        if offset > before {
            attempts = Attempts::default();
        }
        match attempts.pause(error.trouble(), fastrand::f64()) {
            Some(pause) => tokio::time::sleep(pause).await,
            None => {
                // Whoever is gone need not be told.
                let _ = pieces.send(Err(error)).await;
                return;
            }
        }
    }
}

async fn download_from(
    remote: &Remote,
    blob: &BlobInfo,
    offset: &mut u64,
    pieces: &mpsc::Sender<Result<Bytes>>,
) -> Result<()> {
    let mut skipped = 0;
    let mut answer = match *offset {
        0 => remote.blob(&blob.digest).await?,
        begun => match remote.range(&blob.digest, &(begun..blob.length)).await? {
            Ranged::Part(answer) => answer,
            Ranged::Whole(answer) => {
                skipped = begun;
                answer
            }
        },
    };
    while let Some(mut piece) = answer.next().await? {
        let length = piece.len() as u64;
        piece.advance(usize::try_from(skipped.min(length)).unwrap_or(piece.len()));
        skipped = skipped.saturating_sub(length);
        *offset += piece.len() as u64;
        if *offset > blob.length {
            return Err(Error::TooLong {
                host: remote.host().to_owned(),
                limit: blob.length,
            });
        }
        if !piece.is_empty() && pieces.send(Ok(piece)).await.is_err() {
            return Ok(());
        }
    }
    if *offset < blob.length {
        return Err(Error::Short {
            host: remote.host().to_owned(),
        });
    }
    Ok(())
}

impl BlobReader {
    fn next(&mut self) -> io::Result<Option<Result<Bytes>>> {
        loop {
            let pieces = &mut self.pieces;
            // A timer is made within the runtime.
            let next = async { timeout(TICK, pieces.next()).await };
            match self.runtime.block_on(next) {
                Ok(next) => return Ok(next),
                Err(_) if (self.give_up)() => return Err(io::Error::other("given up")),
                Err(_) => (),
            }
        }
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.rest.is_empty() {
            self.rest = match self.next()? {
                Some(piece) => piece.map_err(io::Error::other)?,
                None if self.left > 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                None => {
                    let actual = Digest(self.hash.clone().finalize().into());
                    if actual == self.digest {
                        return Ok(0);
                    }
                    return Err(io::Error::other(Error::Wrong {
                        host: self.host.clone(),
                        digest: self.digest,
                    }));
                }
            };
        }
        let count = self.rest.len().min(buffer.len());
        self.rest.copy_to_slice(&mut buffer[..count]);
        self.hash.update(&buffer[..count]);
        self.left = self.left.saturating_sub(count as u64);
        Ok(count)
    }
}
