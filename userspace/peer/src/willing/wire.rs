// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The frames of a stream of announcements: each is one announcement (Documentation/peer-protocol.md).

use std::io;

use bytes::{Bytes, BytesMut};
use libp2p::Stream;
use peerfs_replica::willing::{SignedWilling, WILLING_MAX};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

use crate::frames::RawFrames;

/// Frames on a stream.
pub(super) struct Frames<S>(RawFrames<S>);

impl Frames<Compat<Stream>> {
    pub(super) fn new(stream: Stream) -> Self {
        Frames::over(stream.compat())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Frames<S> {
    pub(super) fn over(stream: S) -> Self {
        Frames(RawFrames::over(stream, WILLING_MAX))
    }

    /// The next announcement, whose signature holds; None at the end of the stream. May be dropped.
    ///
    /// # Errors
    /// If the stream breaks or has something else.
    pub(super) async fn next(&mut self) -> io::Result<Option<SignedWilling>> {
        let parse = |bytes: BytesMut| SignedWilling::parse(&bytes).map_err(io::Error::other);
        self.0.next().await?.map(parse).transpose()
    }

    /// Sends an announcement.
    ///
    /// # Errors
    /// If the stream breaks, or the other end does not read.
    pub(super) async fn send(&mut self, announcement: &SignedWilling) -> io::Result<()> {
        self.0
            .send(Bytes::copy_from_slice(announcement.bytes()))
            .await
    }
}
