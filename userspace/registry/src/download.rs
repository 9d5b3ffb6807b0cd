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
use tokio::time::{timeout, Instant};

use crate::error::{Error, Result};
use crate::remote::{Ranged, Remote};
use crate::retry::Attempts;

/// Pieces, of some KiB each, that wait to be read.
const PIECES_AHEAD: usize = 64;
/// How long bytes are counted to see whether a server trickles.
const PACE_PERIOD: Duration = Duration::from_secs(60);
/// The fewest bytes that have to come in such a period: a slow modem sends more.
const PACE_MIN: u64 = 64 * 1024;
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
    give_up: Box<dyn Fn() -> bool + Send>,
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
    pub fn read_blob(
        &self,
        blob: &BlobInfo,
        give_up: impl Fn() -> bool + Send + 'static,
    ) -> BlobReader {
        BlobReader {
            host: self.host().to_owned(),
            digest: blob.digest,
            left: blob.length,
            hash: Sha256::new(),
            rest: Bytes::new(),
            pieces: self.blob_pieces(blob),
            give_up: Box::new(give_up),
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
    let mut pace = Pace::new(Instant::now());
    while offset < blob.length {
        let before = offset;
        let downloaded = download_from(remote, blob, &mut offset, &mut pace, pieces).await;
        let Err(error) = downloaded else {
            return;
        };
        // Who breaks off after each few bytes is not asked for ever.
        if offset - before >= PACE_MIN {
            attempts = Attempts::default();
        }
        match attempts.pause(error.trouble(), fastrand::f64()) {
            Some(pause) => {
                tokio::time::sleep(pause).await;
                pace.pause(pause);
            }
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
    pace: &mut Pace,
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
        if *offset < blob.length && pace.is_too_slow(length, Instant::now()) {
            return Err(Error::Trickles {
                host: remote.host().to_owned(),
                period: PACE_PERIOD,
                least: PACE_MIN,
            });
        }
        if piece.is_empty() {
            continue;
        }
        let ready = Instant::now();
        if pieces.send(Ok(piece)).await.is_err() {
            return Ok(());
        }
        pace.pause(ready.elapsed());
    }
    if *offset < blob.length {
        return Err(Error::Short {
            host: remote.host().to_owned(),
        });
    }
    Ok(())
}

/// How fast a server sends, whatever connections break: who trickles must not keep those for ever who wait for a blob.
#[derive(Debug)]
struct Pace {
    /// When the period began in which bytes are counted.
    since: Instant,
    come: u64,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Pace {
            since: now,
            come: 0,
        }
    }

    /// Counts bytes that have come; true if they were too few in the period that ends with them.
    fn is_too_slow(&mut self, bytes: u64, now: Instant) -> bool {
        self.come = self.come.saturating_add(bytes);
        if now.saturating_duration_since(self.since) < PACE_PERIOD {
            return false;
        }
        let is_too_slow = self.come < PACE_MIN;
        *self = Pace::new(now);
        is_too_slow
    }

    /// Leaves out a time in which nothing was taken of what came.
    fn pause(&mut self, pause: Duration) {
        self.since += pause;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_trickles_is_found_out_and_who_is_not_read_is_not() {
        let mut now = Instant::now();
        let second = Duration::from_secs(1);
        let mut seconds_until_slow = |bytes: u64, paused: Duration| {
            let mut pace = Pace::new(now);
            (1..300).find(|_| {
                now += second;
                pace.pause(paused);
                pace.is_too_slow(bytes, now)
            })
        };
        let least = PACE_MIN.div_ceil(60);
        assert_eq!(seconds_until_slow(least, Duration::ZERO), None);
        assert_eq!(seconds_until_slow(least - 1, Duration::ZERO), Some(60));
        assert_eq!(seconds_until_slow(least.div_ceil(2), second / 2), None);
        assert_eq!(seconds_until_slow(1, second / 2), Some(120));
        // Who was fast before is not forgiven for ever.
        let mut pace = Pace::new(now);
        assert!(!pace.is_too_slow(PACE_MIN, now + 60 * second));
        assert!(!pace.is_too_slow(1, now + 119 * second));
        assert!(pace.is_too_slow(1, now + 120 * second));
    }
}
