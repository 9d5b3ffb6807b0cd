// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Frames on an asynchronous stream.

use std::future::{poll_fn, Future};
use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use futures::StreamExt;
use libp2p::Stream;
use tokio::io::{AsyncRead, ReadHalf, WriteHalf};
use tokio::time::{sleep, Instant, Sleep};
use tokio_util::codec::{Decoder, Encoder, FramedRead, FramedWrite};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

use peerfs_exchange::frame::{self, Frame, FrameError, Reply, Request};
use peerfs_exchange::limits::{FRAME_TIMEOUT, PIECE_MAX};

/// Frames of one direction.
pub(crate) struct Codec<F>(PhantomData<F>);

/// A frame could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the connection ended")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("a frame was not complete within {0:?}")]
    Unfinished(Duration),
}

impl<F: Frame> Decoder for Codec<F> {
    type Item = F;
    type Error = ReadError;

    fn decode(&mut self, from: &mut BytesMut) -> Result<Option<F>, ReadError> {
        Ok(frame::decode(from)?)
    }
}

impl<F: Frame> Encoder<F> for Codec<F> {
    type Error = io::Error;

    fn encode(&mut self, frame: F, to: &mut BytesMut) -> io::Result<()> {
        frame.encode(to);
        Ok(())
    }
}

/// Reads frames, each of which must be complete soon after it was begun.
pub(crate) struct Frames<R, F> {
    frames: FramedRead<R, Codec<F>>,
    patience: Duration,
    /// When the frame that was begun must be complete.
    deadline: Option<Pin<Box<Sleep>>>,
    /// How many bytes of it are here, and since when so many.
    begun: (usize, Instant),
}

impl<R: AsyncRead + Unpin, F: Frame> Frames<R, F> {
    fn new(read: R, patience: Duration) -> Self {
        Frames {
            frames: FramedRead::new(read, Codec(PhantomData)),
            patience,
            deadline: None,
            begun: (0, Instant::now()),
        }
    }

    /// The next frame; `None` at the end of the stream. Nothing is lost if the future is dropped.
    pub(crate) async fn next(&mut self) -> Option<Result<F, ReadError>> {
        poll_fn(|context| self.poll(context)).await
    }

    /// The request of the frame that was begun, and when the last byte of it came. None if its header is not
    /// complete.
    pub(crate) fn begun(&self) -> Option<(u32, Instant)> {
        let request = frame::request_of(self.frames.read_buffer())?;
        Some((request, self.begun.1))
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<F, ReadError>>> {
        let next = self.frames.poll_next_unpin(context);
        let here = self.frames.read_buffer().len();
        if here != self.begun.0 {
            self.begun = (here, Instant::now());
        }
        if next.is_ready() || here == 0 {
            self.deadline = None;
            return next;
        }
        let patience = self.patience;
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(sleep(patience)));
        let late = deadline.as_mut().poll(context);
        late.map(|()| Some(Err(ReadError::Unfinished(patience))))
    }
}

/// The frames of one direction to read.
pub(crate) type FrameReader<F> = Frames<ReadHalf<Compat<Stream>>, F>;
/// The frames of one direction to write.
pub(crate) type FrameWriter<F> = FramedWrite<WriteHalf<Compat<Stream>>, Codec<F>>;

/// Two pieces: enough to be worth a call and a message of Noise.
const BATCH: usize = 2 * PIECE_MAX as usize;

/// The two directions of a stream that this node opened.
pub(crate) fn opened(stream: Stream) -> (FrameReader<Reply>, FrameWriter<Request>) {
    framed(stream)
}

/// The two directions of a stream that this node accepted.
pub(crate) fn accepted(stream: Stream) -> (FrameReader<Request>, FrameWriter<Reply>) {
    framed(stream)
}

fn framed<In: Frame, Out: Frame>(stream: Stream) -> (FrameReader<In>, FrameWriter<Out>) {
    let (read, write) = tokio::io::split(stream.compat());
    let mut writer = FramedWrite::new(write, Codec(PhantomData));
    // Before they are given to the connection.
    writer.set_backpressure_boundary(BATCH);
    (Frames::new(read, FRAME_TIMEOUT), writer)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_frame_that_was_begun_must_be_finished() {
        let (mut peer, here) = tokio::io::duplex(1024);
        let mut frames = Frames::<_, Request>::new(here, FRAME_TIMEOUT);
        let mut bytes = BytesMut::new();
        Request::Cancel { request: 7 }.encode(&mut bytes);
        // Between frames it may take any time.
        let send = async {
            sleep(FRAME_TIMEOUT * 10).await;
            peer.write_all(&bytes).await.unwrap();
            sleep(FRAME_TIMEOUT * 10).await;
            peer.write_all(&bytes[..5]).await.unwrap();
        };
        let receive = async {
            let first = frames.next().await.unwrap().unwrap();
            assert_eq!(first, Request::Cancel { request: 7 });
            // Who asks again and again waits no longer.
            loop {
                tokio::select! {
                    next = frames.next() => break next.unwrap().unwrap_err(),
                    () = sleep(FRAME_TIMEOUT / 7) => (),
                }
            }
        };
        let begun = Instant::now();
        let ((), error) = tokio::join!(send, receive);
        assert!(matches!(error, ReadError::Unfinished(_)), "{error}");
        assert_eq!(begun.elapsed(), FRAME_TIMEOUT * 21);
    }
}
