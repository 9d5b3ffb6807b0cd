// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Who may ask for what. Nothing here changes anything; still a browser must not be led to read it for another site, and others
//! than this machine's users see numbers alone.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::{Path as UrlPath, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::middleware::{from_fn_with_state, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::Router;
use data_encoding::BASE64;
use peerfs_control::{Activity, ImageStatus, MountStatus};
use peerfs_sys::unix_socket;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::connections::Few;
use crate::kernel;
use crate::metrics::Snapshot;
use crate::Watched;

/// The page.
const PAGE: &str = include_str!("page.html");
/// Requests that are answered at a time; others are told to come later.
const REQUESTS_MAX: usize = 8;
/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long it may take until the last answer is sent when the daemon ends.
const END_MAX: Duration = Duration::from_secs(1);
/// Parts of the map of an image.
const CELLS: usize = 480;
/// The type that Prometheus asks for.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

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
}

/// What requests are answered from.
struct Shared {
    watched: Arc<dyn Watched>,
    seats: Semaphore,
    /// Of an address that others reach too, with its port; a browser says it.
    local: Option<SocketAddr>,
    policy: HeaderValue,
}

type Answer = Result<Response, (StatusCode, String)>;

/// Answers until it is told to end.
pub async fn serve(listener: Listener, watched: Arc<dyn Watched>, shutdown: CancellationToken) {
    let local = match &listener.address {
        Address::Ip(address) => Some(*address),
        Address::Unix(_) => None,
    };
    let shared = Arc::new(Shared {
        watched,
        seats: Semaphore::new(REQUESTS_MAX),
        local,
        policy: policy(),
    });
    let mut router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }));
    if local.is_none_or(|address| address.ip().is_loopback()) {
        router = router
            .route("/", get(page))
            .route("/api/status", get(status))
            .route("/api/images/{manifest}/map", get(map));
    }
    let router = router
        .layer(from_fn_with_state(Arc::clone(&shared), guard))
        .with_state(shared);
    let ended = shutdown.clone().cancelled_owned();
    let serve = async {
        match listener.kind {
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
        served = serve => {
            if let Err(error) = served {
                tracing::warn!(%error, "the page and the metrics are served no more");
            }
        }
        // Who keeps a connection open does not keep the daemon.
        () = async { shutdown.cancelled().await; tokio::time::sleep(END_MAX).await } => (),
    }
}

/// What a browser may do with the page: run what is in it, and ask this server.
fn policy() -> HeaderValue {
    let hash = |tag: &str| {
        let (begin, end) = (format!("<{tag}>"), format!("</{tag}>"));
        let inner = PAGE
            .split_once(begin.as_str())
            .and_then(|(_, rest)| rest.split_once(end.as_str()));
        let inner = inner.map_or("", |(inner, _)| inner);
        BASE64.encode(&Sha256::digest(inner.as_bytes()))
    };
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash("script"),
        hash("style")
    );
    HeaderValue::try_from(policy).expect("Base64 has only printable characters")
}

/// Bounds what is asked at a time, and refuses what another site has a browser ask.
async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST).map(HeaderValue::as_bytes);
    if !is_asked_by_name(shared.local, host) {
        return (StatusCode::FORBIDDEN, "ask by address, or as localhost\n").into_response();
    }
    let Ok(_seat) = shared.seats.try_acquire() else {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "too many requests; try again later\n",
        )
            .into_response();
    };
    let Ok(mut answer) = timeout(ANSWER_MAX, next.run(request)).await else {
        return (StatusCode::GATEWAY_TIMEOUT, "the store does not answer\n").into_response();
    };
    let headers = answer.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, shared.policy.clone());
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// Whether a request comes to this server as itself. A name that somebody else has let lead here (DNS rebinding) is another
/// one's.
fn is_asked_by_name(local: Option<SocketAddr>, host: Option<&[u8]>) -> bool {
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

async fn page() -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/html; charset=utf-8")], PAGE)
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Answer {
    let watched = &shared.watched;
    let kernel = tokio::task::spawn_blocking(|| kernel::read(Path::new(kernel::COUNTERS)));
    let snapshot = Snapshot {
        now: SystemTime::now(),
        activity: watched.activity().await,
        images: watched.images().await.ok(),
        mounts: watched.mounts().await.ok(),
        kernel: kernel.await.unwrap_or_default(),
    };
    let text = snapshot.into_text().map_err(|error| failed(&error))?;
    Ok(([(CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}

/// What the page shows.
#[derive(Serialize)]
struct Status {
    activity: Activity,
    images: Vec<ImageStatus>,
    mounts: Vec<MountStatus>,
    /// Why something of it is missing.
    problem: Option<String>,
}

async fn status(State(shared): State<Arc<Shared>>) -> Answer {
    let watched = &shared.watched;
    let mut problem = None;
    let images = watched.images().await.unwrap_or_else(|reason| {
        problem = Some(reason);
        Vec::new()
    });
    let mounts = watched.mounts().await.unwrap_or_else(|reason| {
        problem = Some(reason);
        Vec::new()
    });
    let activity = watched.activity().await;
    json(&Status {
        activity,
        images,
        mounts,
        problem,
    })
}

async fn map(State(shared): State<Arc<Shared>>, UrlPath(manifest): UrlPath<String>) -> Answer {
    match shared.watched.map(&manifest, CELLS).await {
        Ok(Some(cells)) => json(&cells),
        Ok(None) => Err((StatusCode::NOT_FOUND, "there is no such image\n".to_owned())),
        Err(reason) => Err((StatusCode::INTERNAL_SERVER_ERROR, reason)),
    }
}

fn json(value: &impl Serialize) -> Answer {
    let text = serde_json::to_string(value).map_err(|error| failed(&error))?;
    Ok(([(CONTENT_TYPE, "application/json")], text).into_response())
}

fn failed(error: &dyn std::error::Error) -> (StatusCode, String) {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"))
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
