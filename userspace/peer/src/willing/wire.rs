// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The frames of a stream of announcements: each is one announcement (Documentation/peer-protocol.md).

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use libp2p::Stream;
use peerfs_replica::willing::{SignedWilling, WILLING_MAX};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_util::codec::{Framed, LengthDelimitedCodec};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

/// How long a frame may take to be written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Frames on a stream.
pub(super) struct Frames<S>(Framed<S, LengthDelimitedCodec>);

impl Frames<Compat<Stream>> {
    pub(super) fn new(stream: Stream) -> Self {
        Frames::over(stream.compat())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Frames<S> {
    pub(super) fn over(stream: S) -> Self {
        let codec = LengthDelimitedCodec::builder()
            .length_field_length(2)
            .little_endian()
            .max_frame_length(WILLING_MAX)
            .new_codec();
        Frames(Framed::new(stream, codec))
    }

    /// The next announcement, whose signature holds; None at the end of the stream. May be dropped.
    ///
    /// # Errors
    /// If the stream breaks or has something else.
    pub(super) async fn next(&mut self) -> io::Result<Option<SignedWilling>> {
        match self.0.next().await {
            Some(bytes) => {
                let parsed = SignedWilling::parse(&bytes?).map_err(io::Error::other)?;
                Ok(Some(parsed))
            }
            None => Ok(None),
        }
    }

    /// Sends an announcement.
    ///
    /// # Errors
    /// If the stream breaks, or the other end does not read.
    pub(super) async fn send(&mut self, announcement: &SignedWilling) -> io::Result<()> {
        let bytes = Bytes::copy_from_slice(announcement.bytes());
        timeout(WRITE_TIMEOUT, self.0.send(bytes)).await?
    }
}
