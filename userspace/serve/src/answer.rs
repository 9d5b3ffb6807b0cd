// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What clients are answered.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    HeaderName, ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    ETAG, IF_NONE_MATCH, IF_RANGE, RANGE, RETRY_AFTER,
};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, Response, StatusCode};
use bytes::Bytes;
use futures::stream;
use peerfs_http::{range, OutOfRange};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::question::{blob, has_tag};
use crate::{Content, Counts, Piece, ServedPack, Shared};

/// Bytes of a metadata blob that are sent at a time.
const PIECE: usize = 64 * 1024;
/// How long an answer may take, and bytes a second that a longer one must have on the average.
const PATIENCE: Duration = Duration::from_secs(60);
const PACE_MIN: u64 = 16 * 1024;

/// Why a client gets nothing.
enum Refusal {
    /// It is not here, or not all of what is asked for.
    Missing,
    /// It is asked for in another way.
    Method,
    /// It is not as long: so many bytes.
    OutOfRange(u64),
    /// The client has it already, by this entity tag.
    Known(String),
    /// Too much is given out at the moment.
    Busy,
}

pub(crate) async fn answer(State(shared): State<Shared>, request: Request) -> Response<Body> {
    let (request, _) = request.into_parts();
    let answered = answer_or_refuse(&shared, &request).await;
    let counts = &shared.counts;
    let (mut answer, count) = match answered {
        Ok(answer) => (answer, &counts.answered),
        Err(refusal @ Refusal::Known(_)) => (refused(&refusal), &counts.answered),
        Err(refusal @ Refusal::Missing) => (refused(&refusal), &counts.missing),
        Err(refusal) => (refused(&refusal), &counts.refused),
    };
    count.fetch_add(1, Ordering::Relaxed);
    if request.method == Method::HEAD {
        *answer.body_mut() = Body::empty();
    }
    answer
}

fn refused(refusal: &Refusal) -> Response<Body> {
    let (status, text) = match refusal {
        Refusal::Missing => (StatusCode::NOT_FOUND, "it is not here\n"),
        Refusal::Method => (StatusCode::METHOD_NOT_ALLOWED, "nothing can be put here\n"),
        Refusal::OutOfRange(_) => (StatusCode::RANGE_NOT_SATISFIABLE, "it is not as long\n"),
        Refusal::Known(_) => (StatusCode::NOT_MODIFIED, ""),
        Refusal::Busy => (StatusCode::SERVICE_UNAVAILABLE, "try again later\n"),
    };
    let mut answer = Response::new(Body::from(text));
    *answer.status_mut() = status;
    match refusal {
        Refusal::Missing => (),
        Refusal::Method => insert(&mut answer, ALLOW, "GET, HEAD"),
        Refusal::OutOfRange(length) => {
            insert(&mut answer, CONTENT_RANGE, &format!("bytes */{length}"));
        }
        Refusal::Known(tag) => insert(&mut answer, ETAG, tag),
        Refusal::Busy => insert(&mut answer, RETRY_AFTER, "1"),
    }
    answer
}

async fn answer_or_refuse(shared: &Shared, request: &Parts) -> Result<Response<Body>, Refusal> {
    let header = |name: HeaderName| request.headers.get(name)?.to_str().ok();
    let is_head = request.method == Method::HEAD;
    if !is_head && request.method != Method::GET {
        return Err(Refusal::Method);
    }
    let digest = blob(request.uri.path()).ok_or(Refusal::Missing)?;
    let permit = Arc::clone(&shared.permits).try_acquire_owned();
    let permit = permit.map_err(|_| Refusal::Busy)?;
    let content = shared.served.find(&digest).await.ok_or(Refusal::Missing)?;
    let tag = format!("\"{digest}\"");
    if has_tag(header(IF_NONE_MATCH), &tag) {
        return Err(Refusal::Known(tag));
    }
    let length = match &content {
        Content::Blob(bytes) => bytes.len() as u64,
        Content::Pack(pack) => pack.length(),
    };
    // Nothing else was ever called so, unless it is somebody else's word.
    let is_same = header(IF_RANGE).is_none_or(|other| other == tag);
    let wanted = header(RANGE).filter(|_| is_same && !is_head);
    let part = range(wanted, length).map_err(|OutOfRange| Refusal::OutOfRange(length))?;
    let sent = part.clone().unwrap_or(0..length);
    let body = if is_head {
        Body::empty()
    } else {
        let rest = match content {
            Content::Blob(bytes) => {
                let (start, end) = (index(sent.start)?, index(sent.end)?);
                Rest::Blob(bytes.slice(start..end))
            }
            Content::Pack(pack) => {
                let pieces = pack.pieces(&sent).ok_or(Refusal::Missing)?;
                Rest::Pack(pack, pieces.into())
            }
        };
        let sending = Sending::begin(rest, sent.end - sent.start, &shared.counts, permit);
        sending.await?.into_body()
    };
    let mut answer = Response::new(body);
    if let Some(part) = part {
        *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        let said = format!("bytes {}-{}/{length}", part.start, part.end - 1);
        insert(&mut answer, CONTENT_RANGE, &said);
    }
    let sent = sent.end - sent.start;
    insert(&mut answer, CONTENT_LENGTH, &sent.to_string());
    insert(&mut answer, ETAG, &tag);
    insert(&mut answer, ACCEPT_RANGES, "bytes");
    insert(&mut answer, CONTENT_TYPE, "application/octet-stream");
    // Whoever keeps it keeps what is always the same.
    insert(&mut answer, CACHE_CONTROL, "max-age=31536000, immutable");
    Ok(answer)
}

fn index(offset: u64) -> Result<usize, Refusal> {
    usize::try_from(offset).map_err(|_| Refusal::Missing)
}

fn insert(answer: &mut Response<Body>, name: HeaderName, value: &str) {
    // Digits and letters are always a value.
    if let Ok(value) = HeaderValue::try_from(value) {
        answer.headers_mut().insert(name, value);
    }
}

/// What is not sent yet.
enum Rest {
    Blob(Bytes),
    Pack(Arc<dyn ServedPack>, VecDeque<Piece>),
}

impl Rest {
    /// The next bytes; None at the end.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        match self {
            Rest::Blob(bytes) if bytes.is_empty() => Ok(None),
            Rest::Blob(bytes) => Ok(Some(bytes.split_to(bytes.len().min(PIECE)))),
            Rest::Pack(pack, pieces) => {
                let Some(Piece { chunk, part }) = pieces.pop_front() else {
                    return Ok(None);
                };
                let Range { start, end } = part;
                let bytes = pack.read(chunk).await;
                let bytes = bytes.filter(|bytes| start <= end && end <= bytes.len());
                // The connection ends before the length that was said: nobody takes it for whole.
                let gone = || io::Error::other("a chunk is not here any more");
                Ok(Some(bytes.ok_or_else(gone)?.slice(start..end)))
            }
        }
    }
}

/// Content that is being sent, a piece at a time, and has its permit until then.
struct Sending {
    rest: Rest,
    /// What was read ahead of the status line.
    first: Option<Bytes>,
    counts: Arc<Counts>,
    deadline: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Sending {
    /// Reads what comes first: what can't be read at all is missing.
    async fn begin(
        rest: Rest,
        length: u64,
        counts: &Arc<Counts>,
        permit: OwnedSemaphorePermit,
    ) -> Result<Self, Refusal> {
        let mut sending = Sending {
            rest,
            first: None,
            counts: Arc::clone(counts),
            deadline: Instant::now() + PATIENCE + Duration::from_secs(length / PACE_MIN),
            _permit: permit,
        };
        sending.first = sending.next().await.map_err(|_| Refusal::Missing)?;
        Ok(sending)
    }

    /// The next bytes; None at the end.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        // Who takes a byte now and then keeps nobody else away.
        if Instant::now() > self.deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.rest.next().await
    }

    fn into_body(self) -> Body {
        Body::from_stream(stream::try_unfold(self, |mut sending| async {
            let Some(bytes) = sending.next().await? else {
                return Ok(None);
            };
            let sent = bytes.len() as u64;
            sending.counts.bytes.fetch_add(sent, Ordering::Relaxed);
            Ok::<_, io::Error>(Some((bytes, sending)))
        }))
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_takes_a_little_now_and_then_is_not_served_for_ever() {
        let bytes = Bytes::from(vec![7; 64 * PIECE]);
        let length = bytes.len() as u64;
        let permits = Arc::new(Semaphore::new(2));
        let counts = Arc::default();
        let permit = || Arc::clone(&permits).try_acquire_owned().unwrap();
        for (pause, is_all_sent) in [(1, true), (60, false)] {
            let rest = Rest::Blob(bytes.clone());
            let sending = Sending::begin(rest, length, &counts, permit()).await;
            let Ok(mut sending) = sending else {
                panic!("the first piece is there");
            };
            let mut sent = 0;
            while let Ok(Some(piece)) = sending.next().await {
                sent += piece.len() as u64;
                tokio::time::sleep(Duration::from_secs(pause)).await;
            }
            assert_eq!(sent == length, is_all_sent, "{sent}");
        }
        assert_eq!(permits.available_permits(), 2);
    }
}
