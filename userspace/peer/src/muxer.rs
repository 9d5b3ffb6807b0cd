// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Yamux, whose streams end with their connection.
//!
//! When this node closes a connection, yamux leaves alone whoever waits on one of its streams: it is never woken. A
//! stream that is served would keep its peer's place for ever, and an answer would be waited for in vain. Here all that
//! waits fails in that moment, as it does when the other end closes the connection.

use std::future::{ready, Future, Ready};
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::task::{ready, Context, Poll};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::yamux;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

/// The upgrade of a connection to one with streams.
#[derive(Clone, Default)]
pub(crate) struct Config(yamux::Config);

/// A connection with streams.
pub(crate) struct Muxer<M> {
    inner: M,
    ended: CancellationToken,
    /// However it goes.
    _end: DropGuard,
}

/// A stream of one.
pub(crate) struct Substream<S> {
    inner: S,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<M> Muxer<M> {
    fn new(inner: M) -> Self {
        let ended = CancellationToken::new();
        Muxer {
            inner,
            _end: ended.clone().drop_guard(),
            ended,
        }
    }

    fn stream<S>(&self, inner: S) -> Substream<S> {
        Substream {
            inner,
            ended: Box::pin(self.ended.clone().cancelled_owned()),
        }
    }
}

impl<M: StreamMuxer<Substream: Unpin> + Unpin> StreamMuxer for Muxer<M> {
    type Substream = Substream<M::Substream>;
    type Error = M::Error;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, M::Error>> {
        let stream = ready!(Pin::new(&mut self.inner).poll_inbound(context))?;
        Poll::Ready(Ok(self.stream(stream)))
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, M::Error>> {
        let stream = ready!(Pin::new(&mut self.inner).poll_outbound(context))?;
        Poll::Ready(Ok(self.stream(stream)))
    }

    fn poll_close(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), M::Error>> {
        let closed = Pin::new(&mut self.inner).poll_close(context);
        // Only now, so that what a stream has written already is still sent.
        self.ended.cancel();
        closed
    }

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, M::Error>> {
        Pin::new(&mut self.inner).poll(context)
    }
}

impl<S> Substream<S> {
    /// What the stream says, or that its connection has ended if it says nothing.
    fn or_ended<T>(
        &mut self,
        said: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if said.is_pending() {
            ready!(self.ended.as_mut().poll(context));
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        said
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Substream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        self.or_ended(read, context)
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.inner).poll_read_vectored(context, buffers);
        self.or_ended(read, context)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Substream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, buffer);
        self.or_ended(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, buffers);
        self.or_ended(written, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        self.or_ended(flushed, context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.inner).poll_close(context);
        self.or_ended(closed, context)
    }
}

impl UpgradeInfo for Config {
    type Info = &'static str;
    type InfoIter = std::iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.protocol_info()
    }
}

impl<C> InboundConnectionUpgrade<C> for Config
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = Muxer<yamux::Muxer<C>>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Output>>;

    fn upgrade_inbound(self, connection: C, protocol: &'static str) -> Self::Future {
        let upgraded = self.0.upgrade_inbound(connection, protocol).into_inner();
        ready(upgraded.map(Muxer::new))
    }
}

impl<C> OutboundConnectionUpgrade<C> for Config
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = Muxer<yamux::Muxer<C>>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Output>>;

    fn upgrade_outbound(self, connection: C, protocol: &'static str) -> Self::Future {
        let upgraded = self.0.upgrade_outbound(connection, protocol).into_inner();
        ready(upgraded.map(Muxer::new))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use futures::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    /// Drives a connection; what the other end opens is echoed until its stream ends.
    async fn echo(mut muxer: impl StreamMuxer<Substream: Send + Unpin + 'static> + Unpin) {
        while let Ok(stream) = poll_fn(|context| {
            let muxer = Pin::new(&mut muxer);
            muxer.poll_inbound(context)
        })
        .await
        {
            tokio::spawn(async move {
                let (read, mut write) = stream.split();
                let _ = futures::io::copy(read, &mut write).await;
            });
        }
    }

    #[tokio::test]
    async fn who_waits_on_a_stream_fails_when_its_connection_is_closed_here() {
        let (here, there) = tokio::io::duplex(1 << 16);
        let (here, there) = (here.compat(), there.compat());
        let config = Config::default;
        let mut muxer = config().upgrade_outbound(here, "").await.unwrap();
        tokio::spawn(echo(config().upgrade_inbound(there, "").await.unwrap()));
        let opened = poll_fn(|context| Pin::new(&mut muxer).poll_outbound(context));
        let stream = opened.await.unwrap();
        let (mut read, mut write) = stream.split();
        let (answered, answer) = tokio::sync::oneshot::channel();
        let waiting = tokio::spawn(async move {
            write.write_all(b"?").await.unwrap();
            write.flush().await.unwrap();
            let mut byte = [0];
            read.read_exact(&mut byte).await.unwrap();
            answered.send(byte).unwrap();
            // Nothing more comes.
            read.read(&mut byte).await
        });
        let mut answer = answer;
        loop {
            tokio::select! {
                byte = &mut answer => break assert_eq!(byte.unwrap(), *b"?"),
                event = poll_fn(|context| Pin::new(&mut muxer).poll(context)) => drop(event.unwrap()),
            }
        }
        let closed = poll_fn(|context| Pin::new(&mut muxer).poll_close(context));
        closed.await.unwrap();
        let ended = timeout(SOON, waiting).await.expect("it is told");
        assert!(ended.unwrap().is_err());
    }
}
