// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The client against servers that do what registries may do, and what they must not.

#![forbid(unsafe_code)]

mod uploads;

use std::io::Read as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use peerfs_format::Digest;
use peerfs_oci::{BlobInfo, Reference, RegistryReference};
use peerfs_registry::{Error, Options, Ranged, Remote};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

const USER: &str = "Basic dXNlcjpzZWNyZXQ=";

/// A request as it came.
#[derive(Clone, Debug)]
struct Asked {
    /// `GET /v2/...`.
    line: String,
    /// Lower-case names.
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Asked {
    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let (_, value) = headers.find(|(found, _)| found == name)?;
        Some(value)
    }
}

/// What is answered: a status and headers, and the body. A body that is shorter than its `content-length` ends the
/// connection.
struct Reply(String, Vec<u8>);

impl Reply {
    fn new(status: u16, headers: &[&str], body: &[u8]) -> Self {
        let mut head = format!("HTTP/1.1 {status} x\r\n");
        for header in headers {
            head += &format!("{header}\r\n");
        }
        if !headers
            .iter()
            .any(|header| header.starts_with("content-length"))
        {
            head += &format!("content-length: {}\r\n", body.len());
        }
        Reply(head + "\r\n", body.to_vec())
    }
}

/// A server whose answers a function decides; None is no answer at all.
#[derive(Clone)]
struct Server {
    address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    async fn start(answer: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = Server {
            address,
            asked: Arc::default(),
        };
        let (answer, asked) = (Arc::new(answer), Arc::clone(&server.asked));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, asked) = (Arc::clone(&answer), Arc::clone(&asked));
                tokio::spawn(async move {
                    let _ = serve(stream, answer.as_ref(), &asked).await;
                });
            }
        });
        server
    }

    fn remote(&self) -> Remote {
        self.remote_with(Options::default())
    }

    fn remote_with(&self, options: Options) -> Remote {
        Remote::repository(&self.reference("1"), &options).unwrap()
    }

    fn reference(&self, tag: &str) -> RegistryReference {
        match format!("{}/a/b:{tag}", self.address).parse().unwrap() {
            Reference::Registry(reference) => reference,
            other => panic!("{other:?}"),
        }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    fn lines(&self, of: &str) -> usize {
        let asked = self.asked();
        asked.iter().filter(|asked| asked.line.contains(of)).count()
    }
}

async fn serve(
    stream: TcpStream,
    answer: &(impl Fn(&Asked) -> Option<Reply> + Sync),
    asked: &Mutex<Vec<Asked>>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
            // TLS begins otherwise.
            if head.len() == 1 && !head[0].is_ascii_uppercase() {
                return Ok(());
            }
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let line = lines.next().unwrap().to_owned();
        let headers = lines.filter_map(|line| {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_lowercase(), value.to_owned()))
        });
        let mut request = Asked {
            line,
            headers: headers.collect(),
            body: Vec::new(),
        };
        let length = request
            .header("content-length")
            .map(|length| length.parse().unwrap());
        request.body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut request.body).await?;
        asked.lock().unwrap().push(request.clone());
        let Some(Reply(head, body)) = answer(&request) else {
            return std::future::pending().await;
        };
        stream.write_all(head.as_bytes()).await?;
        if !request.line.starts_with("HEAD") {
            stream.write_all(&body).await?;
        }
        let is_short = head.contains("content-length: 999");
        if is_short {
            return Ok(());
        }
    }
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

async fn body(ranged: Ranged) -> (bool, Vec<u8>) {
    let (is_part, mut answer) = match ranged {
        Ranged::Part(answer) => (true, answer),
        Ranged::Whole(answer) => (false, answer),
    };
    let mut bytes = Vec::new();
    while let Some(piece) = answer.next().await.unwrap() {
        bytes.extend_from_slice(&piece);
    }
    (is_part, bytes)
}

/// A file with the credential of `USER` for this server.
fn login(server: &Server) -> (tempfile::TempDir, Options) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("auth.json");
    let auth = USER.strip_prefix("Basic ").unwrap();
    let text = format!(
        r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#,
        server.address
    );
    std::fs::write(&path, text).unwrap();
    let options = Options {
        auth_file: Some(path),
        ..Options::default()
    };
    (folder, options)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_elsewhere_is_got_without_credentials_and_its_place_remembered() {
    let blob = b"0123456789".to_vec();
    let digest = sha256(&blob);
    let storage = Server::start(move |asked| {
        assert!(asked.header("authorization").is_none(), "{asked:?}");
        let range = asked.header("range")?.strip_prefix("bytes=")?;
        let (first, last) = range.split_once('-')?;
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        let range = format!("content-range: bytes {first}-{last}/10");
        Some(Reply::new(206, &[&range], &blob[first..=last]))
    })
    .await;
    let target = format!("location: http://{}/secret?signed", storage.address);
    let registry = Server::start(move |asked| {
        Some(match asked.header("authorization") {
            Some(USER) => Reply::new(307, &[&target], b""),
            _ => Reply::new(401, &["www-authenticate: Basic realm=\"x\""], b""),
        })
    })
    .await;
    let (_folder, options) = login(&registry);
    let remote = registry.remote_with(options);
    for (range, expected) in [(2..5, &b"234"[..]), (0..1, b"0"), (5..10, b"56789")] {
        let ranged = remote.range(&digest, &range).await.unwrap();
        assert_eq!(body(ranged).await, (true, expected.to_vec()));
    }
    assert_eq!(storage.asked().len(), 3);
    assert_eq!(registry.lines("/blobs/"), 2, "once refused, once answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_fetched_once_for_all_and_again_when_it_is_refused() {
    let issued = Arc::new(AtomicU64::new(0));
    let valid = Arc::new(AtomicU64::new(1));
    let tokens = {
        let issued = Arc::clone(&issued);
        Server::start(move |asked| {
            assert_eq!(asked.header("authorization"), Some(USER));
            assert!(
                asked.line.contains("scope=repository%3Aa%2Fb%3Apull"),
                "{}",
                asked.line
            );
            assert!(asked.line.contains("service=s"), "{}", asked.line);
            let number = issued.fetch_add(1, Ordering::Relaxed) + 1;
            let text = format!(r#"{{"token":"t{number}","expires_in":300}}"#);
            Some(Reply::new(200, &[], text.as_bytes()))
        })
        .await
    };
    let challenge = format!(
        "www-authenticate: Bearer realm=\"http://{}/token\",service=\"s\"",
        tokens.address
    );
    let registry = {
        let valid = Arc::clone(&valid);
        Server::start(move |asked| {
            let expected = format!("Bearer t{}", valid.load(Ordering::Relaxed));
            Some(match asked.header("authorization") {
                Some(token) if token == expected => Reply::new(200, &[], b"x"),
                _ => Reply::new(401, &[&challenge], b""),
            })
        })
        .await
    };
    let (_folder, options) = login(&registry);
    let remote = registry.remote_with(options);
    let digest = sha256(b"x");
    let ask = || futures::future::join_all((0..8).map(|_| remote.length(&digest)));
    assert!(ask().await.iter().all(|asked| matches!(asked, Ok(Some(1)))));
    assert_eq!(issued.load(Ordering::Relaxed), 1);
    valid.store(2, Ordering::Relaxed);
    assert!(ask().await.iter().all(Result::is_ok));
    assert_eq!(issued.load(Ordering::Relaxed), 2);
    // One that no token helps says so, and is not asked for ever.
    valid.store(99, Ordering::Relaxed);
    let refused = remote.length(&digest).await;
    assert!(matches!(refused, Err(Error::Denied { .. })), "{refused:?}");
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("podman login"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_go_nowhere_that_a_registry_with_tls_could_not_be_trusted_with() {
    let thief = Server::start(|_| Some(Reply::new(200, &[], b"{\"token\":\"x\"}"))).await;
    let realm = format!(
        "www-authenticate: Bearer realm=\"ftp://{}/\"",
        thief.address
    );
    let registry = Server::start(move |_| Some(Reply::new(401, &[&realm], b""))).await;
    let (_folder, options) = login(&registry);
    let refused = registry.remote_with(options).length(&sha256(b"")).await;
    assert!(
        matches!(refused, Err(Error::Protocol { .. })),
        "{refused:?}"
    );
    assert!(thief.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_as_it_should_be_is_refused() {
    let digest = sha256(b"right");
    let answer = |reply: fn() -> Option<Reply>| {
        Server::start(move |asked| {
            let is_ping = asked.line.starts_with("GET /v2/ ");
            if is_ping {
                Some(Reply::new(200, &[], b"{}"))
            } else {
                reply()
            }
        })
    };
    let wrong = answer(|| Some(Reply::new(200, &[], b"wrong"))).await;
    let refused = wrong.remote().small_blob(&digest, 100).await;
    assert!(matches!(refused, Err(Error::Wrong { .. })), "{refused:?}");
    let refused = wrong.remote().small_blob(&digest, 4).await;
    assert!(
        matches!(refused, Err(Error::TooLong { limit: 4, .. })),
        "{refused:?}"
    );
    let refused = wrong.remote().resolve(&wrong.reference("1")).await;
    assert!(
        matches!(refused, Err(Error::Document { .. })),
        "{refused:?}"
    );
    let whole = wrong.remote().range(&digest, &(1..2)).await.unwrap();
    assert_eq!(body(whole).await, (false, b"wrong".to_vec()));
    let other = answer(|| Some(Reply::new(206, &["content-range: bytes 0-1/9"], b"ab"))).await;
    let refused = other.remote().range(&digest, &(1..3)).await;
    assert!(matches!(refused, Err(Error::NoRanges { .. })));
    let around = answer(|| Some(Reply::new(307, &["location: /v2/a/b/blobs/x"], b""))).await;
    let refused = around.remote().blob(&digest).await;
    assert!(matches!(refused, Err(Error::Protocol { .. })));
    assert!(around.asked().len() < 10);
    let gone = answer(|| Some(Reply::new(404, &[], b""))).await;
    let refused = gone.remote().resolve(&gone.reference("1")).await;
    assert!(matches!(refused, Err(Error::Missing { .. })), "{refused:?}");
    let short = answer(|| Some(Reply::new(200, &["content-length: 999"], b"x"))).await;
    let mut answer = short.remote().blob(&digest).await.unwrap();
    let ended = loop {
        match answer.next().await {
            Ok(Some(_)) => (),
            ended => break ended,
        }
    };
    assert!(matches!(ended, Err(Error::BrokenOff { .. })), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_has_only_so_much_that_leads_to_it() {
    // An image of peerfs that is said to have many small blobs for other tools.
    let blobs: Vec<(String, Vec<u8>)> = (0..60_u8)
        .map(|byte| vec![byte; 1 << 20])
        .map(|blob| (sha256(&blob).to_string(), blob))
        .collect();
    let described = blobs.iter().map(|(digest, _)| {
        format!(r#"{{"mediaType":"x/y","size":1048576,"digest":"sha256:{digest}"}}"#)
    });
    let layers: Vec<String> = described.collect();
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[{{"mediaType":"{}","size":9,"digest":"sha256:{}"}},{}]}}"#,
        layers[0],
        "application/vnd.peerfs.manifest.v1",
        Digest([9; 32]),
        layers.join(",")
    );
    let server = Server::start(move |asked| {
        if asked.line.contains("/manifests/") {
            return Some(Reply::new(200, &[], manifest.as_bytes()));
        }
        let mut found = blobs.iter();
        let found = found.find(|(digest, _)| asked.line.contains(digest.as_str()));
        let blob = found.map_or(&b""[..], |(_, blob)| blob.as_slice());
        Some(Reply::new(200, &[], blob))
    })
    .await;
    let remote = server.remote();
    let platform = "linux/amd64".parse().unwrap();
    let got = remote.image(&server.reference("1"), &platform).await;
    let Err(error) = got else {
        panic!("it was taken")
    };
    assert!(matches!(error, Error::TooLong { .. }), "{error:?}");
    assert!(server.lines("/blobs/") < 20, "{}", server.lines("/blobs/"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_busy_is_asked_again_when_it_says() {
    let busy = Arc::new(AtomicU64::new(2));
    let server = {
        let busy = Arc::clone(&busy);
        Server::start(move |asked| {
            let is_blob = asked.line.contains("/blobs/");
            let left = busy.load(Ordering::Relaxed);
            if is_blob && left > 0 {
                busy.fetch_sub(1, Ordering::Relaxed);
                return Some(Reply::new(429, &["retry-after: 1"], b""));
            }
            Some(Reply::new(200, &[], b"x"))
        })
        .await
    };
    let begun = Instant::now();
    let got = server.remote().small_blob(&sha256(b"x"), 10).await;
    assert_eq!(got.unwrap(), b"x");
    assert!(begun.elapsed() >= Duration::from_secs(2));
    // A day is not waited for.
    let server = Server::start(|asked| {
        let is_blob = asked.line.contains("/blobs/");
        let (status, header) = if is_blob {
            (503, "retry-after: 86400")
        } else {
            (200, "x: y")
        };
        Some(Reply::new(status, &[header], b""))
    })
    .await;
    let refused = server.remote().small_blob(&sha256(b"x"), 10).await;
    assert!(matches!(refused, Err(Error::Busy { .. })), "{refused:?}");
    assert_eq!(server.lines("/blobs/"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_is_not_waited_for_for_ever() {
    let server = Server::start(|asked| {
        let is_ping = asked.line.starts_with("GET /v2/ ");
        is_ping.then(|| Reply::new(200, &[], b"{}"))
    })
    .await;
    let begun = Instant::now();
    let stalled = server.remote().length(&sha256(b"x")).await;
    assert!(matches!(stalled, Err(Error::Stalled { .. })), "{stalled:?}");
    assert!(begun.elapsed() < Duration::from_secs(30));
}

/// Answers on a connection, and sends of a blob a byte every ten seconds.
async fn trickle(mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    loop {
        head.push(stream.read_u8().await?);
        if !head[0].is_ascii_uppercase() {
            // TLS.
            return Ok(());
        }
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let is_blob = head.windows(7).any(|part| part == b"/blobs/");
        head.clear();
        let length = if is_blob { 1_000_000 } else { 0 };
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(answer.as_bytes()).await?;
        if is_blob {
            loop {
                stream.write_u8(7).await?;
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_trickles_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server {
        address: listener.local_addr().unwrap().to_string(),
        asked: Arc::default(),
    };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(trickle(stream));
        }
    });
    let wanted = BlobInfo {
        digest: sha256(b"a blob"),
        length: 1_000_000,
        media_type: String::new(),
    };
    let begun = tokio::time::Instant::now();
    let mut pieces = server.remote().blob_pieces(&wanted);
    let mut come = 0;
    let error = loop {
        match pieces.next().await.unwrap() {
            Ok(piece) => come += piece.len(),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Trickles { .. }), "{error}");
    assert!((1..10).contains(&come), "{come}");
    let waited = begun.elapsed();
    assert!(waited < Duration::from_secs(90), "{waited:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_read_over_broken_connections_and_verified() {
    let content: Vec<u8> = (0..100_000_u32).map(|place| (place >> 4) as u8).collect();
    let blob = |content: &[u8], length: usize| BlobInfo {
        digest: sha256(content),
        length: length as u64,
        media_type: String::new(),
    };
    let read = |server: &Server, blob: BlobInfo| {
        let mut reader = server.remote().read_blob(&blob, || false);
        tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map(|_| bytes)
        })
    };
    // Sends less than it says, each time.
    let server = {
        let content = content.clone();
        Server::start(move |asked| {
            let range = asked
                .header("range")
                .and_then(|range| range.strip_prefix("bytes="));
            let first: usize = match range.and_then(|range| range.split_once('-')) {
                Some((first, _)) => first.parse().unwrap(),
                None => 0,
            };
            if asked.line.starts_with("GET /v2/ ") {
                return Some(Reply::new(200, &[], b""));
            }
            let end = content.len().min(first + 40_000);
            let range = format!(
                "content-range: bytes {first}-{}/{}",
                content.len() - 1,
                content.len()
            );
            let length = match end < content.len() {
                true => "content-length: 99999".to_owned(),
                false => format!("content-length: {}", end - first),
            };
            let status = if first == 0 { 200 } else { 206 };
            Some(Reply::new(status, &[&range, &length], &content[first..end]))
        })
        .await
    };
    let right = read(&server, blob(&content, content.len())).await.unwrap();
    assert!(right.unwrap() == content);
    let wrong = Server::start(|_| Some(Reply::new(200, &[], b"wrong"))).await;
    for length in [5, 4] {
        let refused = read(&wrong, blob(b"right", length)).await.unwrap();
        let message = refused.unwrap_err().to_string();
        let expected = if length == 5 {
            "wrong bytes"
        } else {
            "more than 4 bytes"
        };
        assert!(message.contains(expected), "{message}");
    }
}
