// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Connections, of which there are few: each takes a file of the daemon's, which needs them for images and peers.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, Instant, Sleep};

/// The most connections at a time. Others wait until the kernel refuses them.
const CONNECTIONS_MAX: usize = 64;
/// How long nothing may come or be taken. Prometheus asks every minute at least, the page every two seconds, and who gets a long
/// answer takes it as it comes.
const IDLE_MAX: Duration = Duration::from_secs(120);

/// A listener that has few connections.
pub(crate) struct Few<L> {
    listener: L,
    seats: Arc<Semaphore>,
}

impl<L> Few<L> {
    pub(crate) fn new(listener: L) -> Self {
        Few {
            listener,
            seats: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        }
    }
}

impl<L: Listener> Listener for Few<L> {
    type Io = Connection<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // Nobody closes the semaphore.
        let seat = Arc::clone(&self.seats).acquire_owned().await.ok();
        let (inner, address) = self.listener.accept().await;
        let connection = Connection {
            inner,
            idle: Box::pin(sleep(IDLE_MAX)),
            _seat: seat,
        };
        (connection, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when nothing has come or was taken for long.
pub(crate) struct Connection<C> {
    inner: C,
    idle: Pin<Box<Sleep>>,
    _seat: Option<OwnedSemaphorePermit>,
}

impl<C> Connection<C> {
    fn must_go_on(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.idle.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Connection<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.must_go_on(context)?;
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        if read.is_ready() {
            self.idle.as_mut().reset(Instant::now() + IDLE_MAX);
        }
        read
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Connection<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // Who reads nothing of a long answer does not keep it here.
        self.must_go_on(context)?;
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        if written.is_ready() {
            self.idle.as_mut().reset(Instant::now() + IDLE_MAX);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
