// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A copy of a store behind an HTTP server, as a source.
//!
//! The server needs to know nothing of peerfs: it gives out the files of a store's directory, and ranges of them.
//! It is asked for whole blobs and for runs of chunks, and trusted with nothing: what it sends is bounded in bytes,
//! time and connections here, and verified by whoever stores it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::StreamExt;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use peerfs_exchange::limits::PIECE_MAX;
use peerfs_exchange::{Have, Priority, Progress};
use peerfs_format::{ChunkRecord, Digest, METADATA_MAX};
use peerfs_store::Pack;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tracing::warn;

use super::{ChunkReply, Source, SourceError, Subject, HAVE_TIMEOUT};

/// Requests to one server at a time.
const REQUESTS: usize = 8;
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the server may send nothing.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a metadata blob may take that keeps coming.
const BLOB_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// How long a connection is kept that is not in use.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest head of an answer, in bytes.
const HEAD_MAX: usize = 64 * 1024;

/// Why a URL can't be a source.
#[derive(Debug, thiserror::Error)]
pub enum UrlError {
    /// It is no URL.
    #[error("is no URL")]
    Syntax(#[from] hyper::http::uri::InvalidUri),
    /// It is one of another kind.
    #[error("must be such as \"http://192.0.2.1/store\": no other scheme, user name or query is understood")]
    Kind,
}

/// Why a server did not deliver.
#[derive(Debug, thiserror::Error)]
enum HttpError {
    #[error("cannot ask the server")]
    Request(#[from] hyper_util::client::legacy::Error),
    #[error("the server broke off")]
    Body(#[from] hyper::Error),
    #[error("the server sent nothing for {STALL_TIMEOUT:?}")]
    Stalled,
    #[error("the answer took longer than {BLOB_TIMEOUT:?}")]
    Slow,
    /// Redirections are not followed: the one who configured the source meant this server.
    #[error("the server answers {0}")]
    Status(StatusCode),
    #[error("the server does not give out ranges of a file, or another one than was asked for")]
    Range,
    #[error("the server's file is too long")]
    TooLong,
    #[error("the server's file is too short")]
    TooShort,
}

impl From<HttpError> for SourceError {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Status(StatusCode::NOT_FOUND | StatusCode::GONE) => SourceError::Missing,
            HttpError::Status(StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) => {
                SourceError::Busy {
                    retry_after: Duration::ZERO,
                }
            }
            error => SourceError::failed(error),
        }
    }
}

/// A copy of a store behind an HTTP server. Clones share its connections.
#[derive(Clone)]
pub struct HttpSource {
    server: Arc<Server>,
}

struct Server {
    /// Without a slash at its end.
    url: String,
    client: Client<HttpConnector, Empty<Bytes>>,
    permits: Arc<Semaphore>,
    has_lied: AtomicBool,
}

impl HttpSource {
    /// The copy of a store at this URL: `blobs/sha256/...` lie under it.
    ///
    /// # Errors
    /// If it is not the URL of a directory behind plain HTTP.
    pub fn new(url: &str) -> Result<Self, UrlError> {
        let uri: Uri = url.parse()?;
        let authority = uri.authority().ok_or(UrlError::Kind)?;
        if uri.scheme_str() != Some("http")
            || authority.as_str().contains('@')
            || uri.query().is_some()
        {
            return Err(UrlError::Kind);
        }
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(REQUESTS)
            .http1_max_buf_size(HEAD_MAX)
            .build(connector);
        Ok(HttpSource {
            server: Arc::new(Server {
                url: url.trim_end_matches('/').to_owned(),
                client,
                permits: Arc::new(Semaphore::new(REQUESTS)),
                has_lied: AtomicBool::new(false),
            }),
        })
    }
}

/// An answer whose body is still to come. It counts as a request until it is dropped.
struct Answer {
    response: Response<Incoming>,
    progress: Progress,
    /// Bytes that came since that was last noted.
    unnoted: usize,
    _permit: OwnedSemaphorePermit,
}

impl Answer {
    fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Counts what came. Who sends a byte now and then does not get on.
    fn note(&mut self, bytes: usize) {
        self.unnoted = self.unnoted.saturating_add(bytes);
        if self.unnoted >= PIECE_MAX as usize {
            self.unnoted = 0;
            self.progress.note(Instant::now());
        }
    }

    /// The next bytes of the body; none at its end.
    async fn next(&mut self) -> Result<Option<Bytes>, HttpError> {
        loop {
            let frame = timeout(STALL_TIMEOUT, self.response.body_mut().frame());
            match frame.await.map_err(|_| HttpError::Stalled)? {
                None => return Ok(None),
                Some(frame) => match frame?.into_data() {
                    Ok(data) if !data.is_empty() => {
                        self.note(data.len());
                        return Ok(Some(data));
                    }
                    // Trailers mean nothing here.
                    _ => (),
                },
            }
        }
    }
}

impl Server {
    async fn ask(
        &self,
        method: Method,
        blob: &Digest,
        range: Option<Range<u64>>,
        progress: &Progress,
    ) -> Result<Answer, HttpError> {
        // Never closed.
        let permits = Arc::clone(&self.permits);
        let permit = permits
            .acquire_owned()
            .await
            .map_err(|_| HttpError::Stalled)?;
        let mut request = Request::new(Empty::new());
        *request.method_mut() = method;
        let url = format!("{}/blobs/sha256/{blob}", self.url);
        // Digits after a URL that was checked.
        *request.uri_mut() = url.parse().map_err(|_| HttpError::Range)?;
        if let Some(range) = range {
            let value = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
            let value = value.parse().map_err(|_| HttpError::Range)?;
            request.headers_mut().insert(RANGE, value);
        }
        let response = timeout(STALL_TIMEOUT, self.client.request(request));
        Ok(Answer {
            response: response.await.map_err(|_| HttpError::Stalled)??,
            progress: progress.clone(),
            unnoted: 0,
            _permit: permit,
        })
    }

    /// The length of a blob that is there, if the server says so.
    async fn length(&self, blob: &Digest) -> Result<Option<u64>, HttpError> {
        let no_progress = Progress::default();
        let answer = self.ask(Method::HEAD, blob, None, &no_progress).await?;
        match answer.response.status() {
            StatusCode::OK => Ok(length(answer.headers())),
            other => Err(HttpError::Status(other)),
        }
    }

    async fn blob(&self, blob: &Digest, progress: &Progress) -> Result<Bytes, HttpError> {
        let mut answer = self.ask(Method::GET, blob, None, progress).await?;
        match answer.response.status() {
            StatusCode::OK => (),
            other => return Err(HttpError::Status(other)),
        }
        if length(answer.headers()).is_some_and(|length| length > METADATA_MAX) {
            return Err(HttpError::TooLong);
        }
        let mut bytes = BytesMut::new();
        while let Some(piece) = answer.next().await? {
            if (bytes.len() + piece.len()) as u64 > METADATA_MAX {
                return Err(HttpError::TooLong);
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.freeze())
    }

    /// The answer that has exactly these bytes of a blob, if the server keeps to what it says.
    async fn range(
        &self,
        blob: &Digest,
        range: Range<u64>,
        progress: &Progress,
    ) -> Result<Answer, HttpError> {
        let asked = Some(range.clone());
        let answer = self.ask(Method::GET, blob, asked, progress).await?;
        match answer.response.status() {
            StatusCode::PARTIAL_CONTENT if is_range(answer.headers(), &range) => Ok(answer),
            StatusCode::RANGE_NOT_SATISFIABLE => Err(HttpError::TooShort),
            // All of the file would come, or something else of it.
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Err(HttpError::Range),
            other => Err(HttpError::Status(other)),
        }
    }
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whether an answer has the range that was asked for: `bytes 5-9/100`, of a file with whatever length.
fn is_range(headers: &HeaderMap, asked: &Range<u64>) -> bool {
    let parse = || {
        let value = headers.get(CONTENT_RANGE)?.to_str().ok()?;
        let (range, _) = value.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        Some(first == asked.start && last.checked_add(1) == Some(asked.end))
    };
    parse().unwrap_or(false)
}

/// Chunks that follow each other in a pack, in the order in which they do.
#[derive(Debug, PartialEq)]
struct Run {
    range: Range<u64>,
    /// Numbers and lengths.
    chunks: VecDeque<(u32, usize)>,
}

/// Chunks that are neighbours are asked for at once.
fn runs(mut chunks: Vec<(u32, ChunkRecord)>) -> Vec<Run> {
    chunks.sort_unstable_by_key(|(_, record)| record.stored_offset);
    let mut runs: Vec<Run> = Vec::new();
    for (number, record) in chunks {
        let start = u64::from(record.stored_offset);
        let end = start + u64::from(record.stored_length);
        let chunk = (number, record.stored_length as usize);
        match runs.last_mut() {
            Some(run) if run.range.end == start => {
                run.range.end = end;
                run.chunks.push_back(chunk);
            }
            _ => runs.push(Run {
                range: start..end,
                chunks: [chunk].into(),
            }),
        }
    }
    runs
}

/// A run that is being read.
struct Reading {
    server: Arc<Server>,
    pack: Digest,
    run: Run,
    answer: Option<Answer>,
    /// What came and is no whole chunk yet: less than the longest chunk and what the server sends at a time.
    rest: BytesMut,
    progress: Progress,
}

impl Reading {
    /// The next chunk; none at the end of the run.
    async fn next(&mut self) -> Option<ChunkReply> {
        let (number, length) = self.run.chunks.front().copied()?;
        let read = self.read(length).await;
        self.run.chunks.pop_front();
        match read {
            Ok(bytes) => Some(Ok((number, Some(bytes)))),
            Err(error) => {
                self.run.chunks.clear();
                Some(Err(error.into()))
            }
        }
    }

    async fn read(&mut self, length: usize) -> Result<Bytes, HttpError> {
        if self.answer.is_none() {
            let range = self.run.range.clone();
            let answer = self.server.range(&self.pack, range, &self.progress);
            self.answer = Some(answer.await?);
        }
        while self.rest.len() < length {
            let answer = self.answer.as_mut().ok_or(HttpError::TooShort)?;
            let piece = answer.next().await?.ok_or(HttpError::TooShort)?;
            self.rest.extend_from_slice(&piece);
        }
        Ok(self.rest.split_to(length).freeze())
    }
}

#[async_trait]
impl Source for HttpSource {
    fn name(&self) -> &str {
        &self.server.url
    }

    async fn have(&self, content: Digest, subject: &Subject) -> Result<Have, SourceError> {
        if self.server.has_lied.load(Ordering::Relaxed) {
            return Ok(Have::Absent);
        }
        let asked = timeout(HAVE_TIMEOUT, self.server.length(&content)).await;
        let length = match asked.unwrap_or(Err(HttpError::Stalled)) {
            Ok(length) => length,
            Err(HttpError::Status(StatusCode::NOT_FOUND | StatusCode::GONE)) => {
                return Ok(Have::Absent);
            }
            Err(error) => return Err(error.into()),
        };
        let fits = |length: u64| match subject {
            Subject::Blob { .. } => length <= METADATA_MAX,
            Subject::Pack { pack, .. } => length == pack.record().stored_length,
        };
        Ok(match length.is_none_or(fits) {
            true => Have::Complete,
            false => Have::Absent,
        })
    }

    async fn fetch_blob(
        &self,
        blob: Digest,
        _priority: Priority,
        progress: &Progress,
    ) -> Result<Bytes, SourceError> {
        let fetched = timeout(BLOB_TIMEOUT, self.server.blob(&blob, progress)).await;
        Ok(fetched.unwrap_or(Err(HttpError::Slow))?)
    }

    fn fetch_chunks(
        &self,
        pack: &Arc<Pack>,
        chunks: Vec<u32>,
        _priority: Priority,
        progress: &Progress,
    ) -> BoxStream<'static, ChunkReply> {
        let digest = *pack.digest();
        let records = chunks.into_iter();
        let records = records.filter_map(|number| Some((number, pack.chunk(number).ok()?)));
        let (server, progress) = (Arc::clone(&self.server), progress.clone());
        stream::iter(runs(records.collect()))
            .flat_map(move |run| {
                let reading = Reading {
                    server: Arc::clone(&server),
                    pack: digest,
                    run,
                    answer: None,
                    rest: BytesMut::new(),
                    progress: progress.clone(),
                };
                stream::unfold(reading, |mut reading| async {
                    let reply = reading.next().await?;
                    Some((reply, reading))
                })
                .boxed()
            })
            .boxed()
    }

    async fn ban(&self, reason: &str) {
        self.server.has_lied.store(true, Ordering::Relaxed);
        warn!(
            source = self.name(),
            reason, "not asked any more until the daemon starts again"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(number: u32, stored_offset: u32, stored_length: u32) -> (u32, ChunkRecord) {
        let record = ChunkRecord {
            digest: Digest([0; 32]),
            logical_offset: stored_offset,
            stored_offset,
            logical_length: stored_length,
            stored_length,
            codec: 0,
        };
        (number, record)
    }

    #[test]
    fn neighbours_are_asked_for_at_once() {
        let chunks = vec![chunk(5, 50, 10), chunk(2, 20, 10), chunk(3, 30, 20)];
        let run = |range, chunks: &[(u32, usize)]| Run {
            range,
            chunks: chunks.iter().copied().collect(),
        };
        let expected = [run(20..60, &[(2, 10), (3, 20), (5, 10)])];
        assert_eq!(runs(chunks), expected);
        let chunks = vec![chunk(1, 10, 10), chunk(3, 30, 10)];
        assert_eq!(
            runs(chunks),
            [run(10..20, &[(1, 10)]), run(30..40, &[(3, 10)])]
        );
    }

    #[test]
    fn only_the_range_that_was_asked_for_is_one() {
        for (value, is_right) in [
            ("bytes 5-9/100", true),
            ("bytes 5-9/*", true),
            ("bytes 5-10/100", false),
            ("bytes 4-9/100", false),
            ("bytes */100", false),
            ("items 5-9/100", false),
            ("bytes 5-18446744073709551615/*", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_RANGE, value.parse().unwrap());
            assert_eq!(is_range(&headers, &(5..10)), is_right, "{value}");
        }
        assert!(!is_range(&HeaderMap::new(), &(5..10)));
    }

    #[test]
    fn only_plain_directories_are_urls() {
        for url in [
            "http://192.0.2.1/store/",
            "http://[::1]:8080",
            "http://name.example/a/b",
        ] {
            assert!(HttpSource::new(url).is_ok(), "{url}");
        }
        for url in [
            "https://a/",
            "file:///a",
            "/a",
            "http://u:p@a/",
            "http://a/?b",
            "http:// a",
        ] {
            assert!(HttpSource::new(url).is_err(), "{url}");
        }
    }
}
