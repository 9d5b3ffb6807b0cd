// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the daemon's HTTP servers have in common: where they listen, how many may ask, who is asked by name,
//! and which part of something.

#![forbid(unsafe_code)]
#![warn(clippy::missing_errors_doc)]

mod connections;
mod range;
mod seats;

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use axum::http::Uri;
use axum::Router;
use peerfs_sys::unix_socket;
use serde::{de, Deserialize, Deserializer};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

pub use range::{range, OutOfRange};
use seats::Seats;

/// How long it may take until the last answer is sent when the daemon ends.
const END_MAX: Duration = Duration::from_secs(1);
/// How long nobody is let in after that went wrong: most likely too many files are open.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Where to listen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Address {
    /// An address of this machine, and a port.
    Ip(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return Ok(Address::Unix(text.into()));
        }
        let address = text.parse().map(Address::Ip);
        address.map_err(|_| {
            "must be an address with a port, such as \"127.0.0.1:9464\", or the path of a Unix socket".to_owned()
        })
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(address) => write!(f, "http://{address}/"),
            Address::Unix(path) => path.display().fmt(f),
        }
    }
}

/// What is listened at.
pub struct Listener {
    kind: ListenerKind,
    address: Address,
}

enum ListenerKind {
    Ip(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Listens.
    ///
    /// # Errors
    /// What the system says.
    pub async fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Ip(ip) => {
                let listener = TcpListener::bind(ip).await?;
                Ok(Listener {
                    address: Address::Ip(listener.local_addr()?),
                    kind: ListenerKind::Ip(listener),
                })
            }
            Address::Unix(path) => {
                // For its user and group.
                let listener = unix_socket::listen(path, 0o660)?;
                Ok(Listener {
                    kind: ListenerKind::Unix(UnixListener::from_std(listener)?),
                    address: address.clone(),
                })
            }
        }
    }

    /// Where that is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Answers until it is told to end. Who has too many connections already is let in and closed.
    pub async fn serve(self, router: Router, shutdown: CancellationToken) {
        let seats = Seats::default();
        let mut connections = JoinSet::new();
        while let Some(accepted) = shutdown.run_until_cancelled(self.accept()).await {
            // Those that have ended.
            while connections.try_join_next().is_some() {}
            let (stream, from, local) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "cannot let in who asks by HTTP");
                    // Who is gone already makes nobody else wait.
                    let kind = error.kind();
                    if !matches!(
                        kind,
                        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset
                    ) {
                        shutdown.run_until_cancelled(sleep(ACCEPT_PAUSE)).await;
                    }
                    continue;
                }
            };
            if let Some(seat) = seats.take(from) {
                let (router, shutdown) = (router.clone(), shutdown.clone());
                connections.spawn(connections::answer(stream, local, seat, router, shutdown));
            }
        }
        // Who keeps a connection open does not keep the daemon.
        let ended = async { while connections.join_next().await.is_some() {} };
        let _ = timeout(END_MAX, ended).await;
    }

    /// The next connection, the address from which it was made, and the one to which.
    async fn accept(&self) -> io::Result<(Stream, Option<IpAddr>, Option<SocketAddr>)> {
        match &self.kind {
            ListenerKind::Ip(listener) => {
                let (stream, from) = listener.accept().await?;
                let local = stream.local_addr()?;
                Ok((Either::Left(stream), Some(from.ip()), Some(local)))
            }
            ListenerKind::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Either::Right(stream), None, None))
            }
        }
    }
}

type Stream = Either<TcpStream, UnixStream>;

/// Whether a request comes to this server as itself. A name that somebody else has let lead to this machine's own address
/// (DNS rebinding) is another one's; what listens everywhere listens there too.
fn is_asked_by_name(local: Option<SocketAddr>, host: Option<&[u8]>) -> bool {
    let is_loopback = |address: IpAddr| address.to_canonical().is_loopback();
    let Some(local) = local.filter(|local| is_loopback(local.ip())) else {
        // An address that others reach, by what names they like, or a Unix socket, which no browser reaches.
        return true;
    };
    let Some(host) = host.and_then(|host| std::str::from_utf8(host).ok()) else {
        // No browser leaves it out.
        return true;
    };
    let Ok(uri) = format!("http://{host}/").parse::<Uri>() else {
        return false;
    };
    let name = uri.host().unwrap_or_default();
    let address = name.trim_start_matches('[').trim_end_matches(']').parse();
    let is_here = name.eq_ignore_ascii_case("localhost") || address.is_ok_and(is_loopback);
    is_here && uri.port_u16().unwrap_or(80) == local.port()
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::seats::SEATS_OF_HERE;

    /// What is answered; nothing if the connection is closed.
    async fn ask(mut stream: TcpStream, host: &str) -> String {
        let header = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let mut answer = Vec::new();
        // Who is closed at once may find so when it writes.
        if stream.write_all(header.as_bytes()).await.is_ok() {
            let _ = stream.read_to_end(&mut answer).await;
        }
        String::from_utf8(answer).unwrap()
    }

    async fn start(address: &str) -> (SocketAddr, CancellationToken) {
        let listener = Listener::bind(&address.parse().unwrap()).await.unwrap();
        let Address::Ip(address) = *listener.address() else {
            panic!("{}", listener.address());
        };
        let router = Router::new().route("/", get(|| async { "here" }));
        let shutdown = CancellationToken::new();
        tokio::spawn(listener.serve(router, shutdown.clone()));
        (address, shutdown)
    }

    #[tokio::test]
    async fn who_listens_everywhere_is_not_led_to_itself() {
        let (address, _) = start("0.0.0.0:0").await;
        let port = address.port();
        for (host, status) in [
            (format!("127.0.0.1:{port}"), "200"),
            (format!("localhost:{port}"), "200"),
            (format!("evil.example:{port}"), "403"),
        ] {
            let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let answer = ask(stream, &host).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}")),
                "{answer}"
            );
        }
    }

    #[tokio::test]
    async fn who_has_too_many_connections_is_closed_and_the_others_end_with_the_server() {
        let (address, shutdown) = start("127.0.0.1:0").await;
        let mut held = Vec::new();
        for _ in 0..SEATS_OF_HERE {
            held.push(TcpStream::connect(address).await.unwrap());
        }
        let host = address.to_string();
        let another = TcpStream::connect(address).await.unwrap();
        assert_eq!(ask(another, &host).await, "");
        // Those who were there before are answered, and make room then.
        for _ in 0..2 {
            let answer = ask(held.pop().unwrap(), &host).await;
            assert!(answer.ends_with("here"), "{answer}");
        }
        let is_answered = async {
            loop {
                let another = TcpStream::connect(address).await.unwrap();
                if ask(another, &host).await.ends_with("here") {
                    return;
                }
            }
        };
        timeout(Duration::from_secs(5), is_answered).await.unwrap();
        shutdown.cancel();
        for mut stream in held {
            let read = timeout(Duration::from_secs(5), stream.read_u8());
            assert!(read.await.unwrap().is_err());
        }
    }

    #[test]
    fn only_this_machine_is_asked_by_name() {
        let local = Some("127.0.0.1:9464".parse().unwrap());
        for (host, is_fine) in [
            ("127.0.0.1:9464", true),
            ("localhost:9464", true),
            ("LOCALHOST:9464", true),
            ("[::1]:9464", true),
            ("127.0.0.1", false),
            ("127.0.0.1:80", false),
            ("evil.example:9464", false),
            ("localhost.evil.example:9464", false),
            ("127.0.0.1:9464@evil.example", false),
            ("", false),
        ] {
            assert_eq!(
                is_asked_by_name(local, Some(host.as_bytes())),
                is_fine,
                "{host}"
            );
        }
        let mapped = Some("[::ffff:127.0.0.1]:9464".parse().unwrap());
        assert!(!is_asked_by_name(mapped, Some(b"evil.example:9464")));
        assert!(is_asked_by_name(mapped, Some(b"127.0.0.1:9464")));
        let public = Some("192.0.2.1:9464".parse().unwrap());
        assert!(is_asked_by_name(public, Some(b"node.example:9464")));
        assert!(is_asked_by_name(None, Some(b"peerfs")));
    }

    #[test]
    fn an_address_is_read() {
        assert_eq!(
            "/run/x.sock".parse(),
            Ok(Address::Unix("/run/x.sock".into()))
        );
        assert!(matches!("[::1]:1".parse(), Ok(Address::Ip(_))));
        assert!("localhost:1".parse::<Address>().is_err());
    }
}
