// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Frames on an asynchronous stream.

use std::io;
use std::marker::PhantomData;

use bytes::BytesMut;
use libp2p::Stream;
use tokio::io::{ReadHalf, WriteHalf};
use tokio_util::codec::{Decoder, Encoder, FramedRead, FramedWrite};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

use crate::frame::{self, Frame, FrameError, Reply, Request};
use crate::limits::DATA_MAX;

/// Frames of one direction.
pub(crate) struct Codec<F>(PhantomData<F>);

/// A frame could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the connection ended")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
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

/// The frames of one direction to read.
pub(crate) type FrameReader<F> = FramedRead<ReadHalf<Compat<Stream>>, Codec<F>>;
/// The frames of one direction to write.
pub(crate) type FrameWriter<F> = FramedWrite<WriteHalf<Compat<Stream>>, Codec<F>>;

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
    // Small frames are collected, one with data goes out by itself.
    writer.set_backpressure_boundary(DATA_MAX as usize / 4);
    (FramedRead::new(read, Codec(PhantomData)), writer)
}
