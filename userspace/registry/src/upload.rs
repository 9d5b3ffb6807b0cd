// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Putting blobs into a repository.

use std::io::Read;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use peerfs_format::Digest;
use reqwest::header::{HeaderValue, CONTENT_TYPE, LOCATION};
use reqwest::{StatusCode, Url};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::http::{send_within, Answer, WRITE_TIMEOUT};
use crate::remote::{authorized, Remote};
use crate::retry::persist;

/// Bytes that are read of a content at a time.
const PIECE: usize = 256 * 1024;
/// Pieces that are read ahead.
const PIECES_AHEAD: usize = 4;
/// How long a server may take no bytes.
const STALL: Duration = Duration::from_secs(60);
/// How long it may then take to put the blob where it belongs.
const SETTLE: Duration = Duration::from_secs(10 * 60);

/// A blob to be put somewhere. It is read from its beginning each time that it is opened.
pub trait Content: Send + Sync + 'static {
    /// Its digest.
    fn digest(&self) -> Digest;

    /// Its bytes.
    fn length(&self) -> u64;

    /// Opens it; blocks on the disk, as reading it does.
    ///
    /// # Errors
    /// Whatever keeps it from being read.
    fn open(&self) -> std::io::Result<Box<dyn Read + Send>>;
}

/// How a blob came to be there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Uploaded {
    /// It was.
    WasThere,
    /// Another repository of the registry had it.
    Mounted,
    /// It was sent.
    Sent,
}

impl Remote {
    /// Puts a blob there, unless it is: by way of another repository of the registry that may have it, or by sending it.
    /// Tried again if that may help. `sent` is told of bytes as they go, and told to forget those that went in vain.
    ///
    /// # Errors
    /// [`Error::Content`] if the blob can't be read; those of the server.
    pub async fn upload(
        &self,
        content: &Arc<dyn Content>,
        from: Option<&str>,
        sent: &Arc<AtomicU64>,
    ) -> Result<Uploaded> {
        let digest = content.digest();
        let mut from = from;
        persist(|| {
            // If that did not help, it does not help the next time.
            let from = from.take();
            async move {
                if self.has_blob(&digest).await? {
                    return Ok(Uploaded::WasThere);
                }
                let Some(place) = self.begin(&digest, from).await? else {
                    return Ok(Uploaded::Mounted);
                };
                let own = Arc::<AtomicU64>::default();
                let done = self.send(place, content, &own, sent).await;
                if done.is_err() {
                    sent.fetch_sub(own.load(Ordering::Relaxed), Ordering::Relaxed);
                }
                done.map(|()| Uploaded::Sent)
            }
        })
        .await
    }

    async fn has_blob(&self, digest: &Digest) -> Result<bool> {
        let url = self.url(self.base().await?, &format!("blobs/sha256:{digest}"))?;
        let scope = self.push_scope();
        let answer = self.ask(&scope, |client| client.head(url.clone())).await?;
        match answer.status() {
            StatusCode::OK => Ok(true),
            // Where it is elsewhere, it is.
            status if status.is_redirection() => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(answer.into_error().await),
        }
    }

    /// Begins an upload; None if the other repository had the blob.
    async fn begin(&self, digest: &Digest, from: Option<&str>) -> Result<Option<Url>> {
        let mut url = self.url(self.base().await?, "blobs/uploads/")?;
        let mut scope = self.push_scope();
        if let Some(from) = from {
            let mount = format!("sha256:{digest}");
            url.query_pairs_mut()
                .extend_pairs([("mount", mount.as_str()), ("from", from)]);
            scope = format!("{scope} repository:{from}:pull");
        }
        let begun = self.ask_within(&scope, WRITE_TIMEOUT, |client| client.post(url.clone()));
        let begun = begun.await;
        let answer = match begun {
            // Who may not read the other one sends it.
            Err(Error::Denied { .. }) if from.is_some() => {
                return Box::pin(self.begin(digest, None)).await;
            }
            begun => begun?,
        };
        match answer.status() {
            StatusCode::CREATED if from.is_some() => Ok(None),
            StatusCode::ACCEPTED => Ok(Some(self.place(&answer)?)),
            _ => Err(answer.into_error().await),
        }
    }

    /// Where an upload goes on.
    fn place(&self, answer: &Answer) -> Result<Url> {
        let location = answer.header(LOCATION);
        let place = location.and_then(|location| answer.url().join(location).ok());
        let may_be_plain = answer.url().scheme() == "http";
        let is_fine = |url: &Url| url.scheme() == "https" || may_be_plain && url.scheme() == "http";
        place.filter(is_fine).ok_or_else(|| Error::Protocol {
            host: self.host().to_owned(),
            problem: "it does not say where to send a blob",
        })
    }

    /// Sends a whole blob.
    async fn send(
        &self,
        mut place: Url,
        content: &Arc<dyn Content>,
        own: &Arc<AtomicU64>,
        sent: &Arc<AtomicU64>,
    ) -> Result<()> {
        let digest = format!("sha256:{}", content.digest());
        place.query_pairs_mut().append_pair("digest", &digest);
        // As long as it is the registry: the place may be anybody's.
        let header: Option<HeaderValue> = match place.origin() == self.base().await?.origin() {
            true => self.authorization(&self.push_scope()).await?,
            false => None,
        };
        let (pieces, failed) = read_ahead(Arc::clone(content));
        let body = Pieces {
            pieces,
            left: content.length(),
            own: Arc::clone(own),
            sent: Arc::clone(sent),
        };
        let request = self
            .client()
            .put(place)
            .header(CONTENT_TYPE, "application/octet-stream")
            .body(reqwest::Body::wrap(body));
        let host = self.host().to_owned();
        let length = content.length();
        let request = authorized(request, header.as_ref());
        let sending = send_within(&host, request, Duration::MAX);
        let answer = tokio::select! {
            answer = sending => answer,
            error = stalled(&host, own, length) => Err(error),
        };
        let answer = match answer {
            // That is why the server saw an end.
            Err(error) => return Err(failed.await.map_or(error, Error::Content)),
            Ok(answer) => answer,
        };
        match answer.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT => Ok(()),
            // The token was valid when this began, and will be renewed.
            StatusCode::UNAUTHORIZED if header.is_some() => Err(Error::Busy {
                host,
                retry_after: None,
            }),
            _ => Err(answer.into_error().await),
        }
    }
}

/// Waits until nothing goes to a server any more.
async fn stalled(host: &str, sent: &AtomicU64, length: u64) -> Error {
    loop {
        let before = sent.load(Ordering::Relaxed);
        let patience = if before == length { SETTLE } else { STALL };
        tokio::time::sleep(patience).await;
        if sent.load(Ordering::Relaxed) == before {
            return Error::Stalled {
                host: host.to_owned(),
                patience,
            };
        }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Reads a content on a thread that may block. With its pieces comes why it ended early, if it did.
fn read_ahead(
    content: Arc<dyn Content>,
) -> (
    mpsc::Receiver<Bytes>,
    impl std::future::Future<Output = Option<Failure>>,
) {
    let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
    let reading = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
        let mut reader = content.open()?;
        let mut left = content.length();
        while left > 0 {
            let mut piece = BytesMut::zeroed(PIECE.min(usize::try_from(left).unwrap_or(PIECE)));
            reader.read_exact(&mut piece)?;
            left -= piece.len() as u64;
            // Nobody wants it any more.
            if sender.blocking_send(piece.freeze()).is_err() {
                return Ok(());
            }
        }
        Ok(())
    });
    let failed = async move {
        // It ends when the other side of the channel is gone; a disk that hangs is not waited for.
        match timeout(Duration::from_secs(1), reading).await {
            Ok(Ok(Err(error))) => Some(Failure::from(error)),
            _ => None,
        }
    };
    (pieces, failed)
}

/// The body of an upload: its length is known, so that registries take it as one.
struct Pieces {
    pieces: mpsc::Receiver<Bytes>,
    left: u64,
    own: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.pieces.poll_recv(context).map(|piece| match piece {
            Some(piece) => {
                let length = piece.len() as u64;
                self.left = self.left.saturating_sub(length);
                self.own.fetch_add(length, Ordering::Relaxed);
                self.sent.fetch_add(length, Ordering::Relaxed);
                Some(Ok(Frame::data(piece)))
            }
            None => Some(Err(std::io::ErrorKind::UnexpectedEof.into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
