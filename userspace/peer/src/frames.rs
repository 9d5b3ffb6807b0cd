// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Frames with their length before them, as streams of names and announcements have them.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

/// How long a frame may take to be written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Frames on a stream: their lengths have 2 bytes, little-endian.
pub(crate) struct RawFrames<S>(Framed<S, LengthDelimitedCodec>);

impl<S: AsyncRead + AsyncWrite + Unpin> RawFrames<S> {
    /// Frames of at most `length_max` bytes behind their lengths.
    pub(crate) fn over(stream: S, length_max: usize) -> Self {
        let codec = LengthDelimitedCodec::builder()
            .length_field_length(2)
            .little_endian()
            .max_frame_length(length_max)
            .new_codec();
        RawFrames(Framed::new(stream, codec))
    }

    /// The next frame; None at the end of the stream. May be dropped.
    ///
    /// # Errors
    /// If the stream breaks, or a frame is too long.
    pub(crate) async fn next(&mut self) -> io::Result<Option<BytesMut>> {
        self.0.next().await.transpose()
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// If the stream breaks, or the other end does not read.
    pub(crate) async fn send(&mut self, frame: Bytes) -> io::Result<()> {
        timeout(WRITE_TIMEOUT, self.0.send(frame)).await?
    }
}
