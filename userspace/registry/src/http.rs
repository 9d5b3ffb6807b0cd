// SPDX-License-Identifier: GPL-2.0 OR MIT

//! HTTP with bounds: connections, certificates, and answers that are taken piece by piece.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName, CONTENT_LENGTH, RETRY_AFTER};
use reqwest::{RequestBuilder, StatusCode, Url};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::time::timeout;

use crate::error::{Error, Result};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server may send nothing.
pub(crate) const STALL_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a server may take to answer who puts something there: it writes it to a disk, and looks for all that it names.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(2 * 60);
/// How long all of a document or a small blob may take that comes byte by byte.
const READ_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// How long a connection is kept that is not in use.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections to a server that are kept.
const IDLE_MAX: usize = 8;
/// The most bytes of what a server says about an error.
const MESSAGE_MAX: u64 = 16 * 1024;
/// The most letters of that which a person is shown.
const MESSAGE_SHOWN: usize = 300;

/// How a server is spoken to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Trust {
    /// Take any certificate, and none.
    pub insecure: bool,
    /// Do not even try TLS.
    pub plain_http: bool,
    /// Folders of certificates of authorities, in files that end with `.crt`, of which each has a folder named
    /// as the registry: those of Docker and podman, if nothing else is said.
    pub certificates: Option<Vec<PathBuf>>,
}

impl Trust {
    /// The certificates of authorities that are trusted for this registry beside those of the system.
    fn authorities(&self, registry: &str) -> Vec<CertificateDer<'static>> {
        const FOLDERS: [&str; 2] = ["/etc/containers/certs.d", "/etc/docker/certs.d"];
        let folders = match &self.certificates {
            Some(folders) => folders.clone(),
            None => FOLDERS.map(PathBuf::from).to_vec(),
        };
        let folders = folders.iter().map(|folder| folder.join(registry));
        folders.flat_map(|folder| certificates(&folder)).collect()
    }
}

/// The certificates in a folder. What can't be read is not trusted, which the error of the connection tells.
fn certificates(folder: &Path) -> Vec<CertificateDer<'static>> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.map(|entry| entry.path());
    let files = files.filter(|path| path.extension().is_some_and(|end| end == "crt"));
    files
        .filter_map(|path| CertificateDer::pem_file_iter(path).ok())
        .flatten()
        .filter_map(Result::ok)
        .collect()
}

/// Makes what connects to a server. Redirections are not followed by it: who follows them has to know what must not go
/// along.
pub(crate) fn client(registry: &str, trust: &Trust) -> Result<reqwest::Client> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = |error: rustls::Error| Error::Tls(error.to_string());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(tls)?;
    let mut config = if trust.insecure {
        let verifier = Arc::new(Anyone(provider));
        config
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth()
    } else {
        let mut roots = system_roots().clone();
        roots.add_parsable_certificates(trust.authorities(registry));
        config.with_root_certificates(roots).with_no_client_auth()
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut builder = reqwest::Client::builder();
    // As in other tools: a proxy would be told what is for this machine alone, passwords too.
    let url = format!("http://{registry}/").parse();
    if url.is_ok_and(|url: Url| is_loopback(&url)) {
        builder = builder.no_proxy();
    }
    builder
        .tls_backend_preconfigured(config)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_MAX)
        .referer(false)
        .user_agent(concat!("peerfs/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| Error::Tls(error.to_string()))
}

/// The authorities that the system trusts, read once.
fn system_roots() -> &'static RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        for error in found.errors {
            tracing::debug!(%error, "cannot read certificates of the system");
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        roots
    })
}

/// Takes whatever certificate a server shows, for users who ask for that.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether a URL's host is this machine, whatever is resolved.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = |address: IpAddr| address.is_loopback();
    host == "localhost" || address.parse().is_ok_and(is_loopback)
}

/// How a server is called in messages.
pub(crate) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Sends a request without a body, or with a short one, and waits for the head of the answer.
pub(crate) async fn send(host: &str, request: RequestBuilder) -> Result<Answer> {
    send_within(host, request, STALL_TIMEOUT).await
}

/// As [`send`], with another patience.
pub(crate) async fn send_within(
    host: &str,
    request: RequestBuilder,
    patience: Duration,
) -> Result<Answer> {
    let stalled = || Error::Stalled {
        host: host.to_owned(),
        patience,
    };
    let answer = timeout(patience, request.send()).await;
    let response = answer.map_err(|_| stalled())?;
    Ok(Answer {
        host: host.to_owned(),
        response: response.map_err(|source| Error::Request {
            host: host.to_owned(),
            // A target may have a secret in its URL.
            source: source.without_url(),
        })?,
    })
}

/// An answer whose body is still to come.
pub struct Answer {
    host: String,
    response: reqwest::Response,
}

impl Answer {
    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    pub(crate) fn url(&self) -> &Url {
        self.response.url()
    }

    /// A header, if it is text.
    pub(crate) fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers().get(name)?.to_str().ok()
    }

    /// The bytes of the body, if the server says so.
    pub fn length(&self) -> Option<u64> {
        self.header(CONTENT_LENGTH)?.parse().ok()
    }

    /// The next bytes of the body; None at its end.
    ///
    /// # Errors
    /// [`Error::Stalled`] and [`Error::BrokenOff`].
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let piece = timeout(STALL_TIMEOUT, self.response.chunk()).await;
        let piece = piece.map_err(|_| Error::Stalled {
            host: self.host.clone(),
            patience: STALL_TIMEOUT,
        })?;
        piece.map_err(|source| Error::BrokenOff {
            host: self.host.clone(),
            source: source.without_url(),
        })
    }

    /// All of a body of at most `limit` bytes.
    pub(crate) async fn read(self, limit: u64) -> Result<Vec<u8>> {
        self.read_within(limit, READ_TIMEOUT).await
    }

    async fn read_within(self, limit: u64, patience: Duration) -> Result<Vec<u8>> {
        let host = self.host.clone();
        let read = timeout(patience, self.read_all(limit)).await;
        read.unwrap_or(Err(Error::Slow { host, patience }))
    }

    async fn read_all(mut self, limit: u64) -> Result<Vec<u8>> {
        let too_long = |host: &str| Error::TooLong {
            host: host.to_owned(),
            limit,
        };
        if self.length().is_some_and(|length| length > limit) {
            return Err(too_long(&self.host));
        }
        let mut bytes = Vec::new();
        while let Some(piece) = self.next().await? {
            if (bytes.len() + piece.len()) as u64 > limit {
                return Err(too_long(&self.host));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    /// The error that this answer is.
    pub(crate) async fn into_error(self) -> Error {
        let (host, status) = (self.host.clone(), self.status());
        match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => return Error::Missing { host },
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                let retry_after = self
                    .header(RETRY_AFTER)
                    .and_then(|value| parse_retry_after(value, SystemTime::now()));
                return Error::Busy { host, retry_after };
            }
            _ => (),
        }
        // What can't be read of it is not needed.
        let body = self.read_within(MESSAGE_MAX, STALL_TIMEOUT).await;
        let body = body.unwrap_or_default();
        let message = message(&body);
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::Denied { host, message },
            status => Error::Status {
                host,
                status: status.as_u16(),
                message,
            },
        }
    }
}

/// The value of `Retry-After`: seconds, or a date.
fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    Some(until.duration_since(now).unwrap_or_default())
}

/// What a registry says about an error: `{"errors":[{"code":"...","message":"..."}]}`.
fn message(body: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let first = value.pointer("/errors/0");
    let text = |name: &str| first?.get(name)?.as_str().map(str::to_owned);
    let message = text("message").filter(|message| !message.is_empty());
    let message = message.or_else(|| text("code")).unwrap_or_default();
    message.chars().take(MESSAGE_SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_wait_are_understood() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (value, seconds) in [
            ("7", Some(7)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:27 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            let expected = seconds.map(Duration::from_secs);
            assert_eq!(parse_retry_after(value, now), expected, "{value}");
        }
    }

    #[test]
    fn errors_of_registries_are_told() {
        let body =
            br#"{"errors":[{"code":"DENIED","message":"requested access is denied","detail":[]}]}"#;
        assert_eq!(message(body), "requested access is denied");
        assert_eq!(message(br#"{"errors":[{"code":"DENIED"}]}"#), "DENIED");
        assert_eq!(message(b"<html>"), "");
    }

    #[test]
    fn this_machine_is_known() {
        for (url, expected) in [
            ("http://127.0.0.1:5000/", true),
            ("http://[::1]/", true),
            ("http://localhost/", true),
            ("http://localhost.example/", false),
            ("http://192.0.2.1/", false),
        ] {
            assert_eq!(is_loopback(&url.parse().unwrap()), expected, "{url}");
        }
    }
}
