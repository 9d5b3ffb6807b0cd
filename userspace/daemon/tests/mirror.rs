// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Daemons as mirrors of registries: of Debian's docker-registry, and of one that counts, lies and goes away.

#![forbid(unsafe_code)]

#[path = "../../cli/tests/command/docker_registry.rs"]
mod docker_registry;
mod support;

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use docker_registry::Registry;
use peerfs_exchange::Have;
use peerfs_format::Digest;
use peerfs_peer::{BlobPiece, Identity, Node, NodeConfig, Provider, Work};
use peerfs_store::sha256;
use support::process::{peerfs, succeed, text, Running};

/// A daemon with a mirror of this registry, and where that is.
fn start(upstream: &str, peer: &str) -> (Running, String) {
    let mirror = format!("[mirror]\nlisten = \"127.0.0.1:0\"\nupstreams = [{upstream:?}]\n");
    let root = tempfile::tempdir().unwrap();
    let (daemon, log) = Running::start_over(root, &format!("{peer}{mirror}"));
    let (_, address) = log.split_once("http://").expect(&log);
    let (address, _) = address.split_once('/').unwrap();
    let is_alone = peer.is_empty();
    while !is_alone && daemon.status().peers.is_empty() {
        thread::sleep(Duration::from_millis(50));
    }
    (daemon, address.to_owned())
}

fn knows(other: &Running) -> String {
    format!("bootstrap = [{:?}]\n", other.status().listen_addresses[0])
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
        (state >> 56) as u8
    });
    noise.take(bytes).collect()
}

/// The status of an answer, its head and its body, as far as it comes.
fn ask(address: &str, method: &str, path: &str, header: &str) -> (u16, String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    let patience = Some(Duration::from_secs(30));
    stream.set_read_timeout(patience).unwrap();
    let request =
        format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n{header}Host: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    // What breaks off is told by its length.
    let _ = stream.read_to_end(&mut answer);
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let body = answer.split_off(end.expect("a head") + 4);
    let head = text(&answer).to_ascii_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head, body)
}

fn get(address: &str, path: &str) -> (u16, String, Vec<u8>) {
    ask(address, "GET", path, "")
}

/// What each path has, and how often it was asked for by GET.
#[derive(Default)]
struct Content {
    bodies: HashMap<String, Vec<u8>>,
    asked: HashMap<String, usize>,
}

/// A registry of our own, on the loopback interface.
struct Upstream {
    address: String,
    content: Arc<Mutex<Content>>,
}

impl Upstream {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let content = Arc::new(Mutex::new(Content::default()));
        let shared = Arc::clone(&content);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let content = Arc::clone(&shared);
                // Whoever speaks TLS to it, or breaks off, is left alone.
                thread::spawn(move || Self::answer(&stream, &content));
            }
        });
        Upstream { address, content }
    }

    fn answer(stream: &TcpStream, content: &Mutex<Content>) -> Option<()> {
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        let first = lines.next()?;
        let mut words = first.split(' ');
        let (method, path) = (words.next()?, words.next()?.to_owned());
        lines.find(String::is_empty)?;
        let (status, body) = {
            let mut content = content.lock().unwrap();
            if method == "GET" {
                *content.asked.entry(path.clone()).or_default() += 1;
            }
            match content.bodies.get(&path) {
                Some(body) => ("200 OK", body.clone()),
                None if path == "/v2/" => ("200 OK", Vec::new()),
                None => ("404 Not Found", Vec::new()),
            }
        };
        let mut stream = stream;
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        if method == "GET" {
            // Slowly enough that others come meanwhile.
            let (first, rest) = body.split_at(body.len() / 2);
            stream.write_all(first).ok()?;
            thread::sleep(Duration::from_millis(300));
            stream.write_all(rest).ok()?;
        }
        Some(())
    }

    fn put(&self, path: &str, body: &[u8]) {
        let mut content = self.content.lock().unwrap();
        content.bodies.insert(path.to_owned(), body.to_owned());
    }

    fn asked(&self, path: &str) -> usize {
        let content = self.content.lock().unwrap();
        content.asked.get(path).copied().unwrap_or_default()
    }
}

fn skopeo(from: &str, to: &Path) -> Command {
    let mut copy = Command::new("skopeo");
    let tls = "--src-tls-verify=false";
    copy.args(["copy", tls, "--quiet"])
        .arg(format!("docker://{from}"))
        .arg(format!("dir:{}", to.display()));
    copy
}

/// An image of Debian's registry is pulled by skopeo through two nodes; then the registry is not there any more.
#[test]
fn a_node_has_from_another_one_what_that_has_pulled() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::start(tempfile::tempdir().unwrap(), "", "");
    let tree = registry.folder.path().join("tree");
    fs::create_dir(&tree).unwrap();
    // The layer is longer than what the peers' protocol has for blobs.
    fs::write(tree.join("large"), noise(18 << 20)).unwrap();
    let store = folder.path().join("store");
    let mut build = Command::new(peerfs());
    build.args(["build", "--tag", "one", "--root-dir"]);
    succeed(build.arg(&store).arg(&tree));
    let layout = format!("{}:one", folder.path().join("layout").display());
    let mut export = Command::new(peerfs());
    export.args(["export", "oci", "one", &layout, "--root-dir"]);
    succeed(export.arg(&store));
    let mut push = Command::new("skopeo");
    push.args(["copy", "--quiet", "--dest-tls-verify=false"])
        .arg(format!("oci:{layout}"))
        .arg(format!("docker://{}/team/one:1", registry.address));
    succeed(&mut push);

    let (a, first) = start(&registry.address, "");
    let (b, second) = start(&registry.address, &knows(&a));
    let copies = ["a", "b", "c"].map(|name| folder.path().join(name));
    succeed(&mut skopeo(&format!("{first}/team/one:1"), &copies[0]));
    let manifest = fs::read(copies[0].join("manifest.json")).unwrap();
    let digest = sha256(&manifest);
    drop(registry);
    let by_digest = format!("{second}/team/one@sha256:{digest}");
    succeed(&mut skopeo(&by_digest, &copies[1]));
    // The first one knows what the tag stood for; nobody has told the second one.
    succeed(&mut skopeo(&format!("{first}/team/one:1"), &copies[2]));
    let by_tag = skopeo(&format!("{second}/team/one:1"), &folder.path().join("d")).output();
    assert!(!by_tag.unwrap().status.success());
    for other in &copies[1..] {
        let mut compare = Command::new("diff");
        succeed(compare.arg("-r").args([&copies[0], other]));
    }
    // Who starts again has it still, and looks at it before it is given out.
    let (_b, log) = b.restart(&format!(
        "[mirror]\nlisten = \"127.0.0.1:0\"\nupstreams = [{:?}]\n",
        "registry.example"
    ));
    let (_, address) = log.split_once("http://").unwrap();
    let (address, _) = address.split_once('/').unwrap();
    let path = format!("/v2/team/one/manifests/sha256:{digest}");
    assert_eq!(get(address, &path).2, manifest);
}

#[test]
fn what_many_want_is_fetched_once_and_a_lie_is_not_kept() {
    let upstream = Upstream::start();
    let content = noise(300_000);
    let digest = sha256(&content);
    let path = format!("/v2/team/one/blobs/sha256:{digest}");
    let (a, first) = start(&upstream.address, "");

    // Its last bytes are wrong.
    let mut wrong = content.clone();
    *wrong.last_mut().unwrap() ^= 1;
    upstream.put(&path, &wrong);
    let (status, _, body) = get(&first, &path);
    assert!(status == 502 || status == 200 && body.len() < content.len());
    assert!(content.starts_with(&body));
    assert_eq!(upstream.asked(&path), 1);

    upstream.put(&path, &content);
    let clients: Vec<_> = (0..5)
        .map(|_| {
            let (address, path) = (first.clone(), path.clone());
            thread::spawn(move || get(&address, &path))
        })
        .collect();
    for client in clients {
        let (status, head, body) = client.join().unwrap();
        assert_eq!((status, body == content), (200, true));
        let said = format!("docker-content-digest: sha256:{digest}\r\n");
        assert!(head.contains(&said), "{head}");
    }
    assert_eq!(upstream.asked(&path), 2);

    // The other node asks the first one, and not the registry.
    let (_b, second) = start(&upstream.address, &knows(&a));
    assert_eq!(get(&second, &path).2, content);
    assert_eq!(upstream.asked(&path), 2);
    let (status, head, part) = ask(&second, "GET", &path, "Range: bytes=299990-\r\n");
    assert_eq!((status, &part[..]), (206, &content[299_990..]));
    assert!(head.contains("content-range: bytes 299990-299999/300000\r\n"));
    let (status, head, body) = ask(&second, "HEAD", &path, "");
    assert_eq!((status, body.len()), (200, 0));
    assert!(head.contains("content-length: 300000\r\n"));
}

#[test]
fn it_is_no_open_proxy() {
    let (upstream, other) = (Upstream::start(), Upstream::start());
    let content = b"something".to_vec();
    let digest = sha256(&content);
    let path = format!("/v2/team/one/blobs/sha256:{digest}");
    let manifest = b"{\"schemaVersion\":2,\"config\":{}}";
    for registry in [&upstream, &other] {
        registry.put(&path, &content);
        for name in ["1".to_owned(), format!("sha256:{}", sha256(manifest))] {
            registry.put(&format!("/v2/team/one/manifests/{name}"), manifest);
        }
    }
    let (_daemon, address) = start(&upstream.address, "");
    let of = |registry: &Upstream, path: &str| format!("{path}?ns={}", registry.address);
    let (status, _, body) = get(&address, &of(&other, &path));
    assert_eq!(status, 404);
    assert!(text(&body).contains("NAME_UNKNOWN"), "{}", text(&body));
    assert_eq!(
        get(&address, &of(&other, "/v2/team/one/manifests/1")).0,
        404
    );
    assert!(other.content.lock().unwrap().asked.is_empty());
    assert_eq!(get(&address, &of(&upstream, &path)).2, content);
    let (status, head, _) = get(&address, "/v2/team/one/manifests/1");
    let kind = "content-type: application/vnd.oci.image.manifest.v1+json\r\n";
    assert!(status == 200 && head.contains(kind), "{head}");
    assert_eq!(get(&address, "/v2/").0, 200);
    assert_eq!(get(&address, "/v2/team/one/tags/list").0, 404);
    assert_eq!(get(&address, "/v2/team/one/manifests/none").0, 404);
    for method in ["POST", "PUT", "DELETE"] {
        let uploads = "/v2/team/one/blobs/uploads/";
        assert_eq!(ask(&address, method, uploads, "").0, 405);
    }
    // What another site has a browser ask.
    let (status, ..) = ask(&address, "GET", &path, "Host: evil.example\r\n");
    assert!(status == 403 || status == 400, "{status}");
}

#[test]
fn what_a_disk_has_changed_is_fetched_anew_and_nobody_is_banned_for_it() {
    let upstream = Upstream::start();
    let (a, first) = start(&upstream.address, "");
    let (b, second) = start(&upstream.address, &knows(&a));
    // One that comes as a blob, and one that comes as chunks.
    for length in [300_000, 17 << 20] {
        let content = noise(length);
        let digest = sha256(&content);
        let path = format!("/v2/team/one/blobs/sha256:{digest}");
        upstream.put(&path, &content);
        assert!(get(&first, &path).2 == content);
        // It has seen itself that they were right.
        let file = a.store().join("mirror").join(digest.to_string());
        let mut wrong = content.clone();
        *wrong.last_mut().unwrap() ^= 1;
        fs::write(&file, &wrong).unwrap();
        let (status, _, body) = get(&second, &path);
        assert!(status == 200 && body == content, "{}", body.len());
        assert_eq!(upstream.asked(&path), 2, "{length} bytes");
        assert_eq!(b.status().peers.len(), 1);
        // The other one has it now.
        assert!(get(&first, &path).2 == content);
        fs::write(&file, &wrong).unwrap();
        // That it breaks off is told by its length.
        assert!(content.len() > get(&first, &path).2.len());
        assert!(get(&first, &path).2 == content);
        assert_eq!(upstream.asked(&path), 2, "{length} bytes");
    }
}

/// Says that it has everything, and that it is so long, and sends zeros.
struct Liar(u64);

#[async_trait]
impl Provider for Liar {
    async fn blob_length(&self, _: &Digest, _: &Work) -> Option<u64> {
        Some(self.0)
    }

    fn blob_max(&self) -> u64 {
        0
    }

    async fn read_blob(&self, _: &Digest, _: bool, _: u64, _: &Work) -> Option<BlobPiece> {
        None
    }

    async fn have(&self, _: &Digest, _: &Work) -> Have {
        Have::Complete
    }

    async fn read_chunk(&self, _: &Digest, _: &Digest, number: u32, _: &Work) -> Option<Bytes> {
        // Slowly enough that a client takes it meanwhile.
        tokio::time::sleep(Duration::from_millis(50)).await;
        const CHUNK: u64 = 256 * 1024;
        let left = self.0.saturating_sub(u64::from(number) * CHUNK);
        Some(vec![0; left.min(CHUNK) as usize].into())
    }
}

async fn liar(length: u64) -> (Node, String) {
    let mut config = NodeConfig::new(Identity::generate());
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    config.mdns = false;
    let liar = Node::start(config, Arc::new(Liar(length))).await.unwrap();
    let knows = format!("bootstrap = [\"{}\"]\n", liar.listen_addresses()[0]);
    (liar, knows)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_fills_no_disk_with_what_is_too_long() {
    let upstream = Upstream::start();
    let content = noise(300_000);
    let digest = sha256(&content);
    let path = format!("/v2/team/one/blobs/sha256:{digest}");
    upstream.put(&path, &content);
    let layer = format!(r#"{{"digest":"sha256:{digest}","size":300000}}"#);
    let manifest = format!(r#"{{"schemaVersion":2,"config":{{}},"layers":[{layer}]}}"#);
    let manifest_path = format!(
        "/v2/team/one/manifests/sha256:{}",
        sha256(manifest.as_bytes())
    );
    upstream.put(&manifest_path, manifest.as_bytes());
    // One that is longer than all that may be here, and one that is longer than the image says.
    for (length, is_named) in [(1 << 40, false), (18 << 20, true)] {
        let (_liar, knows) = liar(length).await;
        let (_daemon, address) = start(&upstream.address, &knows);
        if is_named {
            assert_eq!(get(&address, &manifest_path).2, manifest.as_bytes());
        }
        let (status, head, body) = get(&address, &path);
        assert!(status == 200 && body == content, "{head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_given_out_that_is_partly_of_a_liar() {
    let upstream = Upstream::start();
    let content = noise(18 << 20);
    let path = format!("/v2/team/one/blobs/sha256:{}", sha256(&content));
    upstream.put(&path, &content);
    let (_liar, knows) = liar(content.len() as u64).await;
    let (daemon, address) = start(&upstream.address, &knows);
    let (status, _, body) = get(&address, &path);
    // That it breaks off is told by its length.
    assert!(status == 200 && (body == content || body.len() < content.len()));
    let banned = daemon.succeed("peers", &[]);
    assert!(banned.contains("wrong bytes of a blob"), "{banned}");
    assert!(get(&address, &path).2 == content);
    assert_eq!(upstream.asked(&path), 1);
}
