// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Who may ask for what. Nothing here changes anything; still another site must not show it as its own, and others than this
//! machine's users see numbers alone.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::{Path as UrlPath, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{from_fn_with_state, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::Router;
use data_encoding::BASE64;
use peerfs_control::{Activity, ImageStatus, MountStatus};
use peerfs_http::{Address, Listener};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::kernel;
use crate::metrics::Snapshot;
use crate::Watched;

/// The page.
const PAGE: &str = include_str!("page.html");
/// Requests that are answered at a time; others are told to come later.
const REQUESTS_MAX: usize = 8;
/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Parts of the map of an image.
const CELLS: usize = 480;
/// The type that Prometheus asks for.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What requests are answered from.
struct Shared {
    watched: Arc<dyn Watched>,
    seats: Semaphore,
    policy: HeaderValue,
}

type Answer = Result<Response, (StatusCode, String)>;

/// Answers until it is told to end.
pub async fn serve(listener: Listener, watched: Arc<dyn Watched>, shutdown: CancellationToken) {
    let is_here = match listener.address() {
        Address::Ip(address) => address.ip().is_loopback(),
        Address::Unix(_) => true,
    };
    let shared = Arc::new(Shared {
        watched,
        seats: Semaphore::new(REQUESTS_MAX),
        policy: policy(),
    });
    let mut router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }));
    if is_here {
        router = router
            .route("/", get(page))
            .route("/api/status", get(status))
            .route("/api/images/{manifest}/map", get(map));
    }
    let router = router
        .layer(from_fn_with_state(Arc::clone(&shared), guard))
        .with_state(shared);
    listener.serve(router, shutdown).await;
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

/// Bounds what is asked at a time, and says what a browser may do with it.
async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
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
