// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The frames of a stream of names (Documentation/peer-protocol.md).

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use libp2p::Stream;
use peerfs_format::Digest;
use peerfs_names::RECORD_MAX;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

use crate::frames::RawFrames;

/// Bytes of a topic.
const TOPIC_SIZE: usize = 32;
/// The most bytes of a frame behind its length.
const FRAME_MAX: usize = 1 + TOPIC_SIZE + RECORD_MAX;

const FOLLOW: u8 = 1;
const LEAVE: u8 = 2;
const RECORD: u8 = 16;
const UNKNOWN: u8 = 17;

/// A frame.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Frame {
    /// From who opened the stream: send records of this topic from now on.
    Follow(Digest),
    /// From who opened the stream: do not any more.
    Leave(Digest),
    /// A record of a topic that is followed.
    Record(Digest, Bytes),
    /// Nothing is known of a topic.
    Unknown(Digest),
}

/// Frames on a stream.
pub(super) struct Frames<S>(RawFrames<S>);

impl Frames<Compat<Stream>> {
    pub(super) fn new(stream: Stream) -> Self {
        Frames::over(stream.compat())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Frames<S> {
    pub(super) fn over(stream: S) -> Self {
        Frames(RawFrames::over(stream, FRAME_MAX))
    }

    /// The next frame; None at the end of the stream. May be dropped.
    ///
    /// # Errors
    /// If the stream breaks or has something else.
    pub(super) async fn next(&mut self) -> io::Result<Option<Frame>> {
        self.0.next().await?.map(Frame::decode).transpose()
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// If the stream breaks, or the other end does not read.
    pub(super) async fn send(&mut self, frame: Frame) -> io::Result<()> {
        self.0.send(frame.encode()).await
    }
}

impl Frame {
    fn encode(&self) -> Bytes {
        let (kind, topic, record) = match self {
            Frame::Follow(topic) => (FOLLOW, topic, None),
            Frame::Leave(topic) => (LEAVE, topic, None),
            Frame::Record(topic, record) => (RECORD, topic, Some(record)),
            Frame::Unknown(topic) => (UNKNOWN, topic, None),
        };
        let mut bytes = BytesMut::with_capacity(FRAME_MAX);
        bytes.put_u8(kind);
        bytes.put_slice(&topic.0);
        bytes.put_slice(record.map_or(&[], |record| record));
        bytes.freeze()
    }

    fn decode(bytes: BytesMut) -> io::Result<Self> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "a frame that is not known");
        let mut bytes = bytes.freeze();
        if bytes.len() < 1 + TOPIC_SIZE {
            return Err(invalid());
        }
        let record = bytes.split_off(1 + TOPIC_SIZE);
        let [kind, topic @ ..] = &bytes[..] else {
            return Err(invalid());
        };
        let topic = Digest(topic.try_into().map_err(|_| invalid())?);
        match (*kind, record.is_empty()) {
            (FOLLOW, true) => Ok(Frame::Follow(topic)),
            (LEAVE, true) => Ok(Frame::Leave(topic)),
            (RECORD, false) => Ok(Frame::Record(topic, record)),
            (UNKNOWN, true) => Ok(Frame::Unknown(topic)),
            _ => Err(invalid()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn a_frame_arrives_as_it_was_sent_and_others_are_refused() {
        let (one, two) = tokio::io::duplex(64);
        let (mut one, mut two) = (Frames::over(one), Frames::over(two));
        let topic = Digest([7; 32]);
        let record = Bytes::from(vec![1; RECORD_MAX]);
        for frame in [
            Frame::Follow(topic),
            Frame::Leave(topic),
            Frame::Unknown(topic),
            Frame::Record(topic, record),
        ] {
            let (sent, came) = tokio::join!(one.send(frame.clone()), two.next());
            sent.unwrap();
            assert_eq!(came.unwrap(), Some(frame));
        }
        drop(one);
        assert_eq!(two.next().await.unwrap(), None);
        let long = [[0xff, 0xff].as_slice(), &[1; 70_000]].concat();
        let follow = [[34, 0, FOLLOW].as_slice(), &[7; 33]].concat();
        for bytes in [
            &[1, 0, FOLLOW][..],
            &[0, 0],
            &follow,
            &[&[33, 0, 3][..], &[7; 32]].concat(),
            &[&[33, 0, RECORD][..], &[7; 32]].concat(),
            &long,
        ] {
            let (mut raw, stream) = tokio::io::duplex(1 << 20);
            raw.write_all(bytes).await.unwrap();
            assert!(Frames::over(stream).next().await.is_err(), "{bytes:?}");
        }
    }
}
