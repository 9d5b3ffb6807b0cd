// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What clients are answered: the part of OCI's distribution specification by which images are pulled.

use std::io;
use std::ops::Range;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCEPT_RANGES, ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE, RETRY_AFTER,
};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, Response, StatusCode};
use axum::Router;
use bytes::Bytes;
use futures::stream;
use peerfs_format::Digest;
use peerfs_http::{range, Listener, OutOfRange};
use peerfs_oci::media_type_of;
use peerfs_text::Causes;
use tokio_util::sync::CancellationToken;

use crate::flight::Failure;
use crate::mirror::{Content, Kind, Mirror};
use crate::question::{namespace, Question, Which};

/// Bytes of a blob that are read at a time.
const PIECE: usize = 256 * 1024;
/// The media types of an index and of a manifest that do not say theirs.
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Answers until it is told to end.
pub async fn serve(listener: Listener, mirror: Mirror, shutdown: CancellationToken) {
    let router = Router::new().fallback(answer).with_state(mirror);
    listener.serve(router, shutdown).await;
}

/// Why a client gets nothing.
struct Refusal {
    status: StatusCode,
    /// As the specification has it.
    code: &'static str,
    message: String,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Refusal {
            status,
            code,
            message: message.into(),
        }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        let message = Causes(&failure).to_string();
        let (status, code) = match &failure {
            Failure::Missing => (StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN"),
            Failure::Busy => (StatusCode::SERVICE_UNAVAILABLE, "TOOMANYREQUESTS"),
            Failure::Upstream(_) | Failure::NoLength(_) | Failure::Wrong | Failure::TooLarge(_) => {
                (StatusCode::BAD_GATEWAY, "UNKNOWN")
            }
            Failure::Disk(_) | Failure::ShuttingDown => {
                (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN")
            }
        };
        Refusal::new(status, code, message)
    }
}

async fn answer(State(mirror): State<Mirror>, request: Request) -> Response<Body> {
    let (request, _) = request.into_parts();
    let is_head = request.method == Method::HEAD;
    let mut answer = match answer_or_refuse(&mirror, &request).await {
        Ok(answer) => answer,
        Err(refusal) => refused(&refusal),
    };
    answer.headers_mut().insert(
        "docker-distribution-api-version",
        HeaderValue::from_static("registry/2.0"),
    );
    if is_head {
        *answer.body_mut() = Body::empty();
    }
    answer
}

fn refused(refusal: &Refusal) -> Response<Body> {
    let error = serde_json::json!({"code": refusal.code, "message": refusal.message});
    let text = serde_json::json!({ "errors": [error] }).to_string();
    let mut answer = Response::new(Body::from(text));
    *answer.status_mut() = refusal.status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    match refusal.status {
        StatusCode::METHOD_NOT_ALLOWED => {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        StatusCode::SERVICE_UNAVAILABLE => {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
        }
        _ => (),
    }
    answer
}

async fn answer_or_refuse(mirror: &Mirror, request: &Parts) -> Result<Response<Body>, Refusal> {
    let header = |name| request.headers.get(name).map(HeaderValue::as_bytes);
    if !matches!(request.method, Method::GET | Method::HEAD) {
        let message = "nothing can be put into a mirror";
        let status = StatusCode::METHOD_NOT_ALLOWED;
        return Err(Refusal::new(status, "UNSUPPORTED", message));
    }
    let uri = &request.uri;
    let Some(question) = Question::parse(uri.path()) else {
        let message = "this is a mirror: it has manifests and blobs, and nothing else";
        return Err(Refusal::new(StatusCode::NOT_FOUND, "UNSUPPORTED", message));
    };
    let namespace = namespace(uri.query());
    let repository = |name: &str| {
        let found = mirror.repository(namespace.as_deref(), name);
        let message = "it is of no registry that the configuration names (mirror.upstreams)";
        found.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", message))
    };
    match question {
        Question::Base => Ok(Response::new(Body::empty())),
        Question::Manifest { name, which } => {
            let repository = repository(&name)?;
            let digest = match which {
                Which::Digest(digest) => digest,
                Which::Tag(tag) => {
                    let mut reference = repository.clone();
                    reference.tag = Some(tag);
                    // What the tag may have in it is what references may.
                    let is_tag = reference.to_string().parse()
                        == Ok(peerfs_oci::Reference::Registry(reference.clone()));
                    if !is_tag {
                        let message = "there can be no such tag";
                        let status = StatusCode::NOT_FOUND;
                        return Err(Refusal::new(status, "MANIFEST_UNKNOWN", message));
                    }
                    mirror.resolve(reference).await?
                }
            };
            let bytes = mirror.document(&repository, digest).await?;
            Ok(document(digest, bytes))
        }
        Question::Blob { name, digest } => {
            let repository = repository(&name)?;
            if request.method == Method::HEAD {
                let length = mirror.length(&repository, digest).await?;
                return Ok(blob(digest, length, None, Body::empty()));
            }
            let content = mirror.content(&repository, digest, Kind::Blob).await?;
            let length = content.length;
            let wanted = header(RANGE).and_then(|wanted| std::str::from_utf8(wanted).ok());
            match range(wanted, length) {
                Ok(part) => {
                    let whole = 0..length;
                    let body = body(content, part.clone().unwrap_or(whole));
                    Ok(blob(digest, length, part, body))
                }
                Err(OutOfRange) => {
                    let message = format!("it has {length} bytes");
                    let status = StatusCode::RANGE_NOT_SATISFIABLE;
                    Err(Refusal::new(status, "SIZE_INVALID", message))
                }
            }
        }
    }
}

fn document(digest: Digest, bytes: Vec<u8>) -> Response<Body> {
    let kind = media_type_of(&bytes).and_then(|kind| HeaderValue::try_from(kind).ok());
    let kind = kind.unwrap_or_else(|| {
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let is_index = value.get("manifests").is_some();
        HeaderValue::from_static(if is_index { INDEX } else { MANIFEST })
    });
    let length = bytes.len() as u64;
    let mut answer = blob(digest, length, None, Body::from(bytes));
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

fn blob(digest: Digest, length: u64, part: Option<Range<u64>>, body: Body) -> Response<Body> {
    let mut answer = Response::new(body);
    let part = part.inspect(|part| {
        *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        let said = format!("bytes {}-{}/{length}", part.start, part.end - 1);
        insert(&mut answer, CONTENT_RANGE.as_str(), &said);
    });
    let sent = part.map_or(length, |part| part.end - part.start);
    insert(&mut answer, CONTENT_LENGTH.as_str(), &sent.to_string());
    let digest = format!("sha256:{digest}");
    insert(&mut answer, "docker-content-digest", &digest);
    let headers = answer.headers_mut();
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let kind = HeaderValue::from_static("application/octet-stream");
    headers.insert(CONTENT_TYPE, kind);
    answer
}

fn insert(answer: &mut Response<Body>, name: &'static str, value: &str) {
    // Digits and letters are always a value.
    if let Ok(value) = HeaderValue::try_from(value) {
        answer.headers_mut().insert(name, value);
    }
}

/// A part of a blob, as it comes. If the blob proves wrong it breaks off before its end.
fn body(content: Content, part: Range<u64>) -> Body {
    let pieces = stream::try_unfold((content, part), |(mut content, part)| async move {
        if part.is_empty() {
            return Ok(None);
        }
        let read = content.read(part.start, part.end, PIECE).await;
        let bytes = Bytes::from(read.map_err(io::Error::other)?);
        let rest = part.start + bytes.len() as u64..part.end;
        Ok::<_, io::Error>(Some((bytes, (content, rest))))
    });
    Body::from_stream(pieces)
}
