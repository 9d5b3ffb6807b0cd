// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A place behind HTTP that has blobs: a repository of a registry, or a copy of a store as files.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;
use peerfs_format::Digest;
use peerfs_oci::RegistryReference;
use reqwest::header::{
    HeaderValue, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_RANGE, LOCATION, RANGE,
};
use reqwest::{Client, Method, RequestBuilder, StatusCode, Url};
use tokio::sync::OnceCell;

use crate::auth::Auth;
use crate::credentials::Credentials;
use crate::error::{Error, Result};
use crate::http::{client, host_of, is_loopback, send, send_within, Answer, Trust, STALL_TIMEOUT};

/// For how long it is remembered where a blob is that a registry has elsewhere.
const TARGET_LIFE: Duration = Duration::from_secs(60);
/// Blobs of which that is remembered.
const TARGETS_MAX: NonZeroUsize = NonZeroUsize::new(1024).expect("1024 is not 0");
/// Redirections that are followed for one request.
const REDIRECTIONS_MAX: usize = 5;

/// Why a URL can't be that of a copy of a store.
#[derive(Debug, thiserror::Error)]
pub enum UrlError {
    /// It is no URL.
    #[error("is no URL")]
    Syntax(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It is one of another kind.
    #[error("must be such as \"https://192.0.2.1/store\": no other scheme than https and http, no user name and no query are understood")]
    Kind,
    /// No connections can be made.
    #[error(transparent)]
    Client(#[from] Error),
}

/// How registries are asked.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The registries, as references write them, that are spoken to as if TLS proved nothing: any certificate is
    /// taken, and plain HTTP if they have no other. Of this machine's own addresses the latter is true anyway.
    pub insecure: Vec<String>,
    /// Take all for such.
    pub all_insecure: bool,
    /// Do not even try TLS with any.
    pub plain_http: bool,
    /// Take what a registry says to be the conversion of an ordinary image for that, even if it was asked for by its digest.
    pub trust_conversions: bool,
    /// A file of credentials in the place of those of the user's tools.
    pub auth_file: Option<PathBuf>,
}

/// A place behind HTTP that has blobs. What it sends is bounded here, and verified by whoever takes it. Clones share its
/// connections.
#[derive(Clone)]
pub struct Remote(Arc<Shared>);

struct Shared {
    name: String,
    host: String,
    kind: Kind,
    client: Client,
    trust: Trust,
    /// What the server's paths begin with, once it is known how it is spoken to.
    base: OnceCell<Url>,
    auth: Auth,
    targets: Mutex<LruCache<Digest, (Url, Instant)>>,
}

enum Kind {
    Repository { api_host: String, path: String },
    Directory,
}

impl Remote {
    /// A repository of a registry.
    ///
    /// # Errors
    /// [`Error::Tls`] if no connections can be made.
    pub fn repository(reference: &RegistryReference, options: &Options) -> Result<Self> {
        let registry = &reference.registry;
        let trust = Trust {
            insecure: options.all_insecure || options.insecure.contains(registry),
            plain_http: options.plain_http,
            certificates: None,
        };
        // The one that is called otherwise than it is reached.
        let (api_host, path) = match (registry.as_str(), &reference.repository) {
            ("docker.io", path) if !path.contains('/') => {
                ("registry-1.docker.io", format!("library/{path}"))
            }
            ("docker.io", path) => ("registry-1.docker.io", path.clone()),
            (host, path) => (host, path.clone()),
        };
        let credentials = Credentials::of_user(options.auth_file.clone());
        Ok(Remote(Arc::new(Shared {
            name: format!("{registry}/{}", reference.repository),
            host: registry.clone(),
            client: client(registry, &trust)?,
            auth: Auth::new(registry, &path, credentials),
            kind: Kind::Repository {
                api_host: api_host.to_owned(),
                path,
            },
            trust,
            base: OnceCell::new(),
            targets: Mutex::new(LruCache::new(TARGETS_MAX)),
        })))
    }

    /// A copy of a store at this URL: `blobs/sha256/...` lie under it.
    ///
    /// # Errors
    /// If it is not the URL of a directory.
    pub fn directory(url: &str) -> Result<Self, UrlError> {
        let name = url.trim_end_matches('/').to_owned();
        let base = format!("{name}/")
            .parse::<Url>()
            .map_err(|error| UrlError::Syntax(Box::new(error)))?;
        let has_user = !base.username().is_empty() || base.password().is_some();
        let is_plain = base.query().is_none() && base.fragment().is_none() && !has_user;
        let is_known = matches!(base.scheme(), "http" | "https") && base.has_host();
        if !is_plain || !is_known || url.contains(char::is_whitespace) {
            return Err(UrlError::Kind);
        }
        let host = host_of(&base);
        let trust = Trust::default();
        Ok(Remote(Arc::new(Shared {
            client: client(&host, &trust)?,
            auth: Auth::new(&host, "", Credentials::none()),
            name,
            host,
            kind: Kind::Directory,
            trust,
            base: OnceCell::new_with(Some(base)),
            targets: Mutex::new(LruCache::new(TARGETS_MAX)),
        })))
    }

    /// What it is called: `REGISTRY/NAME`, or its URL.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The server, as messages call it.
    pub fn host(&self) -> &str {
        &self.0.host
    }

    pub(crate) fn client(&self) -> &Client {
        &self.0.client
    }

    /// The name of the repository, as its paths and scopes have it.
    pub(crate) fn path(&self) -> &str {
        match &self.0.kind {
            Kind::Repository { path, .. } => path,
            Kind::Directory => "",
        }
    }

    pub(crate) fn pull_scope(&self) -> String {
        format!("repository:{}:pull", self.path())
    }

    pub(crate) fn push_scope(&self) -> String {
        format!("repository:{}:pull,push", self.path())
    }

    /// A URL of the repository, such as `manifests/latest`.
    pub(crate) fn url(&self, base: &Url, rest: &str) -> Result<Url> {
        let path = match &self.0.kind {
            Kind::Repository { path, .. } => format!("v2/{path}/{rest}"),
            Kind::Directory => rest.to_owned(),
        };
        base.join(&path).map_err(|_| Error::Protocol {
            host: self.0.host.clone(),
            problem: "it can't be called so",
        })
    }

    /// Where the server's paths begin. Found out by the first who asks.
    pub(crate) async fn base(&self) -> Result<&Url> {
        self.0.base.get_or_try_init(|| self.find_base()).await
    }

    async fn find_base(&self) -> Result<Url> {
        let Kind::Repository { api_host, .. } = &self.0.kind else {
            unreachable!("a directory's is known from the start");
        };
        let base = |scheme: &str| {
            let url = format!("{scheme}://{api_host}/").parse::<Url>();
            url.map_err(|_| Error::Protocol {
                host: self.0.host.clone(),
                problem: "it can't be called so",
            })
        };
        if self.0.trust.plain_http {
            return base("http");
        }
        let secure: Url = base("https")?;
        if !self.0.trust.insecure && !is_loopback(&secure) {
            return Ok(secure);
        }
        let ping = |base: &Url| {
            let url = base.join("v2/").unwrap_or_else(|_| base.clone());
            send(&self.0.host, self.0.client.get(url))
        };
        match ping(&secure).await {
            Err(error @ Error::Request { .. }) => {
                let plain = base("http")?;
                let is_registry = |answer: &Answer| {
                    matches!(answer.status(), StatusCode::OK | StatusCode::UNAUTHORIZED)
                };
                match ping(&plain).await {
                    Ok(answer) if is_registry(&answer) => Ok(plain),
                    _ => Err(error),
                }
            }
            Ok(_) => Ok(secure),
            Err(error) => Err(error),
        }
    }

    /// Sends a request with what proves who sends it, and once more if the server wants to know anew.
    pub(crate) async fn ask(
        &self,
        scope: &str,
        make: impl Fn(&Client) -> RequestBuilder,
    ) -> Result<Answer> {
        self.ask_within(scope, STALL_TIMEOUT, make).await
    }

    /// As [`Remote::ask`], with another patience.
    pub(crate) async fn ask_within(
        &self,
        scope: &str,
        patience: Duration,
        make: impl Fn(&Client) -> RequestBuilder,
    ) -> Result<Answer> {
        let shared = &self.0;
        let used = shared.auth.header(&shared.client, scope).await?;
        let request = authorized(make(&shared.client), used.as_ref());
        let answer = send_within(&shared.host, request, patience).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        let renewed = shared
            .auth
            .renew(&shared.client, scope, &answer, used.as_ref());
        match renewed.await? {
            Some(renewed) => {
                let request = authorized(make(&shared.client), Some(&renewed));
                let answer = send_within(&shared.host, request, patience).await?;
                match answer.status() {
                    StatusCode::UNAUTHORIZED => Err(answer.into_error().await),
                    _ => Ok(answer),
                }
            }
            None => Err(answer.into_error().await),
        }
    }

    /// What proves to the server who asks, for a request that can't be sent twice.
    pub(crate) async fn authorization(&self, scope: &str) -> Result<Option<HeaderValue>> {
        self.0.auth.header(&self.0.client, scope).await
    }

    /// The length of a blob that is there, if the server says so.
    ///
    /// # Errors
    /// [`Error::Missing`] if it is not there.
    pub async fn length(&self, blob: &Digest) -> Result<Option<u64>> {
        let answer = self.blob_answer(Method::HEAD, blob, None).await?;
        match answer.status() {
            StatusCode::OK => Ok(answer.length()),
            _ => Err(answer.into_error().await),
        }
    }

    /// Begins to get a whole blob.
    ///
    /// # Errors
    /// [`Error::Missing`] if it is not there.
    pub async fn blob(&self, blob: &Digest) -> Result<Answer> {
        let answer = self.blob_answer(Method::GET, blob, None).await?;
        match answer.status() {
            StatusCode::OK => Ok(answer),
            _ => Err(answer.into_error().await),
        }
    }

    /// Begins to get a range of a blob's bytes.
    ///
    /// # Errors
    /// [`Error::Missing`] if it is not there; [`Error::NoRanges`] if something else would come.
    pub async fn range(&self, blob: &Digest, range: &Range<u64>) -> Result<Ranged> {
        let answer = self.blob_answer(Method::GET, blob, Some(range)).await?;
        match answer.status() {
            StatusCode::PARTIAL_CONTENT if is_range(&answer, range) => Ok(Ranged::Part(answer)),
            StatusCode::OK => Ok(Ranged::Whole(answer)),
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                Err(Error::NoRanges {
                    host: self.0.host.clone(),
                })
            }
            _ => Err(answer.into_error().await),
        }
    }

    async fn blob_answer(
        &self,
        method: Method,
        blob: &Digest,
        range: Option<&Range<u64>>,
    ) -> Result<Answer> {
        let base = self.base().await?;
        let url = match &self.0.kind {
            Kind::Repository { .. } => self.url(base, &format!("blobs/sha256:{blob}"))?,
            Kind::Directory => self.url(base, &format!("blobs/sha256/{blob}"))?,
        };
        let request = |client: &Client, url: Url| {
            let request = client.request(method.clone(), url);
            // Ranges are of the blob, not of what it is compressed to.
            let request = request.header(ACCEPT_ENCODING, "identity");
            match range {
                Some(range) => {
                    let last = range.end.saturating_sub(1);
                    request.header(RANGE, format!("bytes={}-{last}", range.start))
                }
                None => request,
            }
        };
        // What was signed for one method does not hold for another one.
        let is_get = method == Method::GET;
        if let Some(target) = self.known_target(blob).filter(|_| is_get) {
            let sent = send(&self.0.host, request(&self.0.client, target)).await;
            // What was signed for a while may not hold any more.
            match sent {
                Ok(answer) if answer.status().is_success() => return Ok(answer),
                _ => self.forget_target(blob),
            }
        }
        let scope = self.pull_scope();
        let mut answer = self
            .ask(&scope, |client| request(client, url.clone()))
            .await?;
        // The one who configured a directory meant that server.
        if matches!(self.0.kind, Kind::Directory) {
            return Ok(answer);
        }
        for _ in 0..REDIRECTIONS_MAX {
            if !answer.status().is_redirection() {
                return Ok(answer);
            }
            let target = self.target(&answer)?;
            // Whoever else it is, is not told who asks.
            answer = if target.origin() == base.origin() {
                self.ask(&scope, |client| request(client, target.clone()))
                    .await?
            } else {
                let sent = send(&self.0.host, request(&self.0.client, target.clone()));
                let answer = sent.await?;
                if is_get && answer.status().is_success() {
                    self.remember_target(*blob, target);
                }
                answer
            };
        }
        Err(Error::Protocol {
            host: self.0.host.clone(),
            problem: "it says again and again that the blob is elsewhere",
        })
    }

    /// Where an answer says that the blob is.
    fn target(&self, answer: &Answer) -> Result<Url> {
        let location = answer.header(LOCATION);
        let target = location.and_then(|location| answer.url().join(location).ok());
        let may_be_plain = answer.url().scheme() == "http";
        let is_fine = |url: &Url| {
            url.has_host() && (url.scheme() == "https" || may_be_plain && url.scheme() == "http")
        };
        target.filter(is_fine).ok_or_else(|| Error::Protocol {
            host: self.0.host.clone(),
            problem: "it says that a blob is elsewhere, but not where, or where there is no TLS",
        })
    }

    fn known_target(&self, blob: &Digest) -> Option<Url> {
        let mut targets = self.lock_targets();
        let (url, until) = targets.get(blob)?;
        let is_known = Instant::now() < *until;
        is_known.then(|| url.clone())
    }

    fn remember_target(&self, blob: Digest, target: Url) {
        let until = Instant::now() + TARGET_LIFE;
        self.lock_targets().put(blob, (target, until));
    }

    fn forget_target(&self, blob: &Digest) {
        self.lock_targets().pop(blob);
    }

    fn lock_targets(&self) -> std::sync::MutexGuard<'_, LruCache<Digest, (Url, Instant)>> {
        // A cache is valid after every step.
        self.0
            .targets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What comes when a range is asked for.
pub enum Ranged {
    /// That range.
    Part(Answer),
    /// All of the blob: the server knows no ranges.
    Whole(Answer),
}

pub(crate) fn authorized(request: RequestBuilder, header: Option<&HeaderValue>) -> RequestBuilder {
    match header {
        Some(header) => request.header(AUTHORIZATION, header),
        None => request,
    }
}

/// Whether an answer has the range that was asked for: `bytes 5-9/100`, of a file with whatever length.
fn is_range(answer: &Answer, asked: &Range<u64>) -> bool {
    answer
        .header(CONTENT_RANGE)
        .is_some_and(|value| parse_range(value).as_ref() == Some(asked))
}

fn parse_range(value: &str) -> Option<Range<u64>> {
    let (range, _) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let last: u64 = last.parse().ok()?;
    Some(first.parse().ok()?..last.checked_add(1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ranges_are_taken_for_ranges() {
        for (value, expected) in [
            ("bytes 5-9/100", Some(5..10)),
            ("bytes 5-9/*", Some(5..10)),
            ("bytes */100", None),
            ("items 5-9/100", None),
            ("bytes 5-18446744073709551615/*", None),
        ] {
            assert_eq!(parse_range(value), expected, "{value}");
        }
    }

    #[test]
    fn only_directories_are_urls() {
        for url in [
            "http://192.0.2.1/store/",
            "http://[::1]:8080",
            "https://name.example/a/b",
        ] {
            assert!(Remote::directory(url).is_ok(), "{url}");
        }
        for url in [
            "file:///a",
            "/a",
            "http://u:p@a/",
            "http://a/?b",
            "http:// a",
        ] {
            assert!(Remote::directory(url).is_err(), "{url}");
        }
    }
}
