// SPDX-License-Identifier: GPL-2.0 OR MIT

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use peerfs_http::Address;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;

/// A blob of 10 bytes, and a pack of three chunks of 10 bytes each, of which some are not here.
#[derive(Default)]
struct Here {
    missing: Mutex<HashSet<u32>>,
    /// Those that are said to be here, and can't be read.
    unreadable: Mutex<HashSet<u32>>,
}

const BLOB: Digest = Digest([0xbb; 32]);
const PACK: Digest = Digest([0xaa; 32]);

struct ThreeChunks(Arc<Here>);

#[async_trait]
impl ServedPack for ThreeChunks {
    fn length(&self) -> u64 {
        30
    }

    fn pieces(&self, range: &Range<u64>) -> Option<Vec<Piece>> {
        let mut pieces = Vec::new();
        for chunk in 0..3 {
            let start = u64::from(chunk) * 10;
            let part = range.start.max(start)..range.end.min(start + 10);
            if part.is_empty() {
                continue;
            }
            if self.0.missing.lock().unwrap().contains(&chunk) {
                return None;
            }
            let part = (part.start - start) as usize..(part.end - start) as usize;
            pieces.push(Piece { chunk, part });
        }
        Some(pieces)
    }

    async fn read(&self, chunk: u32) -> Option<Bytes> {
        let is_here = !self.0.unreadable.lock().unwrap().contains(&chunk);
        let first = b'a' + chunk as u8 * 10;
        is_here.then(|| (first..).take(10).collect())
    }
}

struct Both(Arc<Here>);

#[async_trait]
impl Served for Both {
    async fn find(&self, digest: &Digest) -> Option<Content> {
        match *digest {
            BLOB => Some(Content::Blob(Bytes::from_static(b"0123456789"))),
            PACK => Some(Content::Pack(Arc::new(ThreeChunks(Arc::clone(&self.0))))),
            _ => None,
        }
    }
}

struct Server {
    here: Arc<Here>,
    counts: Arc<Counts>,
    address: SocketAddr,
}

impl Server {
    async fn start() -> Self {
        let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap()).await;
        let listener = listener.unwrap();
        let Address::Ip(address) = *listener.address() else {
            panic!("{}", listener.address());
        };
        let server = Server {
            here: Arc::default(),
            counts: Arc::default(),
            address,
        };
        let served = Arc::new(Both(Arc::clone(&server.here)));
        let counts = Arc::clone(&server.counts);
        tokio::spawn(serve(listener, served, counts, CancellationToken::new()));
        server
    }

    /// The status, the header in small letters, and the body as far as it came.
    async fn ask(&self, method: &str, digest: Digest, more: &str) -> (u16, String, String) {
        let path = format!("/blobs/sha256/{digest}");
        self.ask_path(method, &path, more).await
    }

    async fn ask_path(&self, method: &str, path: &str, more: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let host = self.address;
        let header =
            format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n");
        let mut answer = Vec::new();
        let asked = async {
            let _ = stream.write_all(header.as_bytes()).await;
            let _ = stream.read_to_end(&mut answer).await;
        };
        timeout(Duration::from_secs(20), asked).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (header, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = header.get(9..12).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_default();
        (status, header.to_ascii_lowercase(), body.to_owned())
    }
}

#[tokio::test]
async fn ranges_go_over_the_borders_of_chunks() {
    let server = Server::start().await;
    let all: String = ('a'..).take(30).collect();
    for (digest, all) in [(BLOB, "0123456789"), (PACK, all.as_str())] {
        let length = all.len();
        let (status, header, body) = server.ask("GET", digest, "").await;
        assert_eq!((status, body.as_str()), (200, all));
        assert!(header.contains(&format!("etag: \"{digest}\"")), "{header}");
        let (status, header, body) = server.ask("HEAD", digest, "").await;
        assert_eq!((status, body.as_str()), (200, ""));
        let said = format!("content-length: {length}");
        assert!(header.contains(&said) && header.contains("accept-ranges: bytes"));
        for (range, part) in [
            ("0-0", 0..1),
            ("2-8", 2..9),
            ("5-", 5..length),
            ("-1", length - 1..length),
            ("8-1000", 8..length),
            ("0-", 0..length),
        ] {
            let more = format!("Range: bytes={range}\r\n");
            let (status, header, body) = server.ask("GET", digest, &more).await;
            assert_eq!(
                (status, body.as_str()),
                (206, &all[part.clone()]),
                "{range}"
            );
            let said = format!(
                "content-range: bytes {}-{}/{length}",
                part.start,
                part.end - 1
            );
            assert!(header.contains(&said), "{header}");
        }
        let more = format!("Range: bytes={length}-\r\n");
        let (status, header, _) = server.ask("GET", digest, &more).await;
        assert_eq!(status, 416);
        assert!(header.contains(&format!("content-range: bytes */{length}")));
        // Who has it need not get it again; who has a part of something else gets all.
        let more = format!("If-None-Match: \"{digest}\"\r\n");
        assert_eq!(server.ask("GET", digest, &more).await.0, 304);
        let more = "Range: bytes=0-0\r\nIf-Range: \"other\"\r\n";
        assert_eq!(server.ask("GET", digest, more).await.0, 200);
    }
    let more = "Range: bytes=9-20\r\n";
    assert_eq!(server.ask("GET", PACK, more).await.2, all[9..21]);
    assert_eq!(server.ask("GET", Digest([1; 32]), "").await.0, 404);
    assert_eq!(server.ask("PUT", PACK, "").await.0, 405);
    assert!(server.counts.bytes() > 100 && server.counts.missing() == 1);
}

#[tokio::test]
async fn what_is_not_here_is_said_before_anything_comes_or_ends_the_connection() {
    let server = Server::start().await;
    server.here.missing.lock().unwrap().insert(2);
    for (range, status) in [("0-19", 206), ("0-20", 404), ("25-", 404), ("-1", 404)] {
        let more = format!("Range: bytes={range}\r\n");
        let answer = server.ask("GET", PACK, &more).await;
        assert_eq!(answer.0, status, "{range}: {answer:?}");
    }
    assert_eq!(server.ask("GET", PACK, "").await.0, 404);
    // A chunk that can't be read is missing if it is the first one, and else the answer is shorter than it says.
    server.here.missing.lock().unwrap().clear();
    server.here.unreadable.lock().unwrap().insert(1);
    let answer = server.ask("GET", PACK, "Range: bytes=10-29\r\n").await;
    assert_eq!(answer.0, 404, "{answer:?}");
    let (_, header, body) = server.ask("GET", PACK, "").await;
    assert!(header.is_empty() || header.contains("content-length: 30"));
    assert!(body.is_empty() || body == "abcdefghij", "{body}");
}

#[tokio::test]
async fn nothing_else_has_a_path_and_long_headers_end_the_connection() {
    let server = Server::start().await;
    for path in [
        "/",
        "/index.json",
        "/signatures",
        "/blobs/sha256/../../index.json",
        "/../../etc/passwd",
        "//blobs/sha256/",
        "*",
    ] {
        let status = server.ask_path("GET", path, "").await.0;
        assert!(matches!(status, 400 | 404), "{path}: {status}");
    }
    let more = format!("X: {}\r\n", "x".repeat(1 << 20));
    let (status, ..) = server.ask("GET", BLOB, &more).await;
    assert!(matches!(status, 0 | 431), "{status}");
    assert_eq!(server.ask("GET", BLOB, "").await.0, 200);
}
