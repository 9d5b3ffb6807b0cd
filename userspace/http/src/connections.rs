// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Connections, of which none is held by who is slow.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{pin, Pin};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::HOST;
use axum::http::{HeaderValue, Response, StatusCode};
use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{service_fn, Service};
use hyper::Request;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{sleep, Instant, Sleep};
use tokio_util::sync::CancellationToken;

use crate::is_asked_by_name;
use crate::seats::Seat;

/// How long the header of a request may take, from when it could come: a connection that nobody asks by is kept as long.
const HEADER_MAX: Duration = Duration::from_secs(10);
/// Bytes of it, and of an answer that are gathered before they are sent.
const BUFFER_MAX: usize = 64 * 1024;
/// How long nothing of an answer may be made or taken: who gets a long one takes it as it comes.
const IDLE_MAX: Duration = Duration::from_secs(120);

/// Answers what comes by a connection that has a seat, until it ends or is told to: then when the answer at which it is has gone.
/// `local` is the address of this machine to which it was made.
pub(crate) async fn answer<C: AsyncRead + AsyncWrite + Unpin>(
    connection: C,
    local: Option<SocketAddr>,
    _seat: Seat,
    router: Router,
    shutdown: CancellationToken,
) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request: Request<Incoming>| {
        let host = request.headers().get(HOST).map(HeaderValue::as_bytes);
        let answer = is_asked_by_name(local, host).then(|| router.call(request));
        async move {
            match answer {
                Some(answer) => answer.await,
                None => Ok::<_, Infallible>(refusal()),
            }
        }
    });
    let connection = TokioIo::new(Connection {
        inner: connection,
        idle: Box::pin(sleep(IDLE_MAX)),
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_MAX)
        .max_buf_size(BUFFER_MAX)
        .serve_connection(connection, service);
    let mut served = pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = shutdown.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke off");
    }
}

fn refusal() -> Response<Body> {
    let mut answer = Response::new(Body::from("ask by address, or as localhost\n"));
    *answer.status_mut() = StatusCode::FORBIDDEN;
    answer
}

/// A connection that ends when nothing has come or was taken for long.
struct Connection<C> {
    inner: C,
    idle: Pin<Box<Sleep>>,
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

#[cfg(test)]
mod tests {
    use axum::body::Bytes;
    use axum::routing::get;
    use tokio::io::{duplex, AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;
    use crate::seats::Seats;

    /// A connection by which is answered, and what is true when it has ended.
    fn connect() -> (DuplexStream, tokio::task::JoinHandle<()>) {
        let long = || async { Bytes::from_static(&[7; 1 << 20]) };
        let router = Router::new()
            .route("/", get(|| async { "here" }))
            .route("/long", get(long));
        let (client, server) = duplex(1000);
        let seat = Seats::default().take(None).unwrap();
        let shutdown = CancellationToken::new();
        let answered = tokio::spawn(answer(server, None, seat, router, shutdown));
        (client, answered)
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_that_trickles_ends_the_connection() {
        let start = Instant::now();
        let (mut client, answered) = connect();
        let trickle = async {
            for byte in b"GET / HTTP/1.1\r\nHost: peerfs\r\nX: "
                .iter()
                .chain(&[b'x'; 999])
            {
                if client.write_all(&[*byte]).await.is_err() {
                    return;
                }
                sleep(Duration::from_secs(1)).await;
            }
        };
        trickle.await;
        answered.await.unwrap();
        let waited = start.elapsed();
        assert!(waited < HEADER_MAX + Duration::from_secs(2), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_no_more_is_not_kept() {
        let start = Instant::now();
        let (mut client, answered) = connect();
        // As long as it asks, it is.
        for _ in 0..5 {
            let header = b"GET / HTTP/1.1\r\nHost: peerfs\r\n\r\n";
            client.write_all(header).await.unwrap();
            sleep(Duration::from_secs(6)).await;
        }
        let mut answers = String::new();
        client.read_to_string(&mut answers).await.unwrap();
        assert_eq!(answers.matches("here").count(), 5, "{answers}");
        answered.await.unwrap();
        let waited = start.elapsed();
        assert!(waited >= Duration::from_secs(30), "{waited:?}");
        assert!(waited < Duration::from_secs(50), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_of_an_answer_is_not_kept() {
        let start = Instant::now();
        let (mut client, answered) = connect();
        let header = b"GET /long HTTP/1.1\r\nHost: peerfs\r\n\r\n";
        client.write_all(header).await.unwrap();
        answered.await.unwrap();
        assert!(start.elapsed() <= IDLE_MAX + Duration::from_secs(1));
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert!(answer.len() < 1 << 20);
    }
}
