// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the daemon's HTTP servers have in common: where they listen, how many may ask, and who is asked by name.

#![forbid(unsafe_code)]
#![warn(clippy::missing_errors_doc)]

mod connections;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use axum::http::Uri;
use axum::Router;
use peerfs_sys::unix_socket;
use serde::{de, Deserialize, Deserializer};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use connections::Few;

/// How long it may take until the last answer is sent when the daemon ends.
const END_MAX: Duration = Duration::from_secs(1);

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

    /// Answers until it is told to end.
    ///
    /// # Errors
    /// What the system says.
    pub async fn serve(self, router: Router, shutdown: CancellationToken) -> io::Result<()> {
        let ended = shutdown.clone().cancelled_owned();
        let serve = async {
            match self.kind {
                ListenerKind::Ip(listener) => {
                    axum::serve(Few::new(listener), router)
                        .with_graceful_shutdown(ended)
                        .await
                }
                ListenerKind::Unix(listener) => {
                    axum::serve(Few::new(listener), router)
                        .with_graceful_shutdown(ended)
                        .await
                }
            }
        };
        tokio::select! {
            served = serve => served,
            // Who keeps a connection open does not keep the daemon.
            () = async { shutdown.cancelled().await; tokio::time::sleep(END_MAX).await } => Ok(()),
        }
    }
}

/// Whether a request comes to this server as itself. A name that somebody else has let lead here (DNS rebinding) is another
/// one's.
pub fn is_asked_by_name(local: Option<SocketAddr>, host: Option<&[u8]>) -> bool {
    let Some(local) = local.filter(|local| local.ip().is_loopback()) else {
        // Numbers alone, or a Unix socket, which no browser reaches.
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
    let is_here = name.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|address: std::net::IpAddr| address.is_loopback());
    is_here && uri.port_u16().unwrap_or(80) == local.port()
}

#[cfg(test)]
mod tests {
    use super::*;

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
