// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A daemon whose source is a copied store behind an HTTP server: one that is honest, and ones that are not.

#![forbid(unsafe_code)]

mod support;

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use nix::errno::Errno;
use peerfs_daemon::config::{PullChoice, SourceConfig};
use support::{soon, store_dir, until, TestDaemon, TestImage};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

const CHUNKS: u32 = 40;

/// What a server does with packs; the metadata it gives out as it should.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Habit {
    Honest,
    /// Does not know ranges, and sends all of the file.
    NoRanges,
    /// Says that it is elsewhere.
    Redirects,
    /// Says that the range has another place, and sends that.
    OtherRange,
    /// Ends before the end.
    Short,
    /// Sends right lengths and wrong bytes.
    Lies,
    /// Takes the question and says nothing.
    Hangs,
    /// Sends for ever.
    Endless,
}

/// A server of the files in a folder, on the loopback interface.
struct Server {
    url: String,
    /// Bytes of bodies that were taken from it.
    sent: Arc<AtomicU64>,
    /// Questions for packs.
    asked: Arc<AtomicU64>,
}

impl Server {
    async fn start(root: PathBuf, pack: String, habit: Habit) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sent, asked) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let server = Server {
            url,
            sent: Arc::clone(&sent),
            asked: Arc::clone(&asked),
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = Connection {
                    root: root.clone(),
                    pack: pack.clone(),
                    habit,
                    sent: Arc::clone(&sent),
                    asked: Arc::clone(&asked),
                };
                // Whoever asks may break off.
                tokio::spawn(async move { connection.serve(stream).await });
            }
        });
        server
    }
}

struct Connection {
    root: PathBuf,
    pack: String,
    habit: Habit,
    sent: Arc<AtomicU64>,
    asked: Arc<AtomicU64>,
}

impl Connection {
    async fn serve(self, stream: TcpStream) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let (mut head, mut line) = (Vec::new(), String::new());
            while stream.read_line(&mut line).await? > 2 {
                head.push(std::mem::take(&mut line).to_lowercase());
            }
            let Some(first) = head.first() else {
                return Ok(());
            };
            let mut words = first.split(' ');
            let (method, path) = (words.next().unwrap(), words.next().unwrap());
            let range = head.iter().find_map(|line| {
                let (first, last) = line.strip_prefix("range: bytes=")?.trim().split_once('-')?;
                Some((first.parse().unwrap(), last.parse::<usize>().unwrap() + 1))
            });
            let is_pack = path.ends_with(&self.pack);
            if is_pack && method == "get" {
                self.asked.fetch_add(1, Ordering::Relaxed);
            }
            let Ok(file) = std::fs::read(self.root.join(path.trim_start_matches('/'))) else {
                stream
                    .write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                    .await?;
                continue;
            };
            if method == "head" || !is_pack {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", file.len());
                stream.write_all(head.as_bytes()).await?;
                if method == "get" {
                    self.send(&mut stream, &file).await?;
                }
                continue;
            }
            self.pack(&mut stream, &file, range.unwrap()).await?;
        }
    }

    async fn send(&self, stream: &mut BufReader<TcpStream>, bytes: &[u8]) -> std::io::Result<()> {
        stream.write_all(bytes).await?;
        self.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    async fn pack(
        &self,
        stream: &mut BufReader<TcpStream>,
        file: &[u8],
        (start, end): (usize, usize),
    ) -> std::io::Result<()> {
        let total = file.len();
        let partial = |start: usize, end: usize, length: usize| {
            format!(
                "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes {start}-{}/{total}\r\ncontent-length: {length}\r\n\r\n",
                end - 1
            )
        };
        let part = &file[start..end];
        let (head, body) = match self.habit {
            Habit::Honest => (partial(start, end, part.len()), part.to_vec()),
            Habit::NoRanges => {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {total}\r\n\r\n");
                (head, file.to_vec())
            }
            Habit::Redirects => {
                let head = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
                (head.to_owned(), Vec::new())
            }
            Habit::OtherRange => (
                partial(0, part.len(), part.len()),
                file[..part.len()].to_vec(),
            ),
            Habit::Short => {
                let half = part.len() / 2;
                (partial(start, end, half), part[..half].to_vec())
            }
            Habit::Lies => (partial(start, end, part.len()), vec![7; part.len()]),
            Habit::Hangs => std::future::pending().await,
            Habit::Endless => {
                let head = partial(start, end, part.len());
                let head = head.split("content-length").next().unwrap().to_owned();
                stream.write_all(format!("{head}\r\n").as_bytes()).await?;
                loop {
                    self.send(stream, &[7; 4096]).await?;
                }
            }
        };
        stream.write_all(head.as_bytes()).await?;
        self.send(stream, &body).await
    }
}

/// A store that is copied, its server, and a daemon that knows nobody else.
async fn with_server(habit: Habit) -> (TestDaemon, TestImage, Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let root = store_dir(folder.path());
    let image = TestImage::build(&root, CHUNKS);
    let server = Server::start(root, image.pack.digest.to_string(), habit).await;
    let url = server.url.clone();
    let daemon = TestDaemon::start_with(tempfile::tempdir().unwrap(), Vec::new(), |config| {
        config.request_timeout = Duration::from_secs(3);
        config.source = vec![SourceConfig::Url(url)];
    });
    (daemon.await, image, server, folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_store_behind_a_server_is_a_source() {
    let (daemon, image, server, _folder) = with_server(Habit::Honest).await;
    let kernel = daemon.kernel();
    kernel.fetch_blob(&image, image.manifest).await.unwrap();
    let pack = kernel.fetch_chunks(&image, 5, 20, 0).await.unwrap();
    for number in 5..25 {
        let expected = &image.chunks[number as usize];
        let mut bytes = vec![0; expected.len()];
        pack.read_exact_at(&mut bytes, image.offset(number))
            .unwrap();
        assert!(bytes == *expected, "chunk {number}");
    }
    // Neighbours are asked for at once: 16 chunks at most in a transfer.
    assert!(server.asked.load(Ordering::Relaxed) <= 4);
    until("it is counted", || {
        daemon.daemon.traffic().bytes_of(&server.url) >= 20 * 20_000
    })
    .await;
    assert_eq!(daemon.daemon.traffic().lies(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_pack_is_taken_as_a_whole_from_who_knows_no_ranges() {
    let (daemon, image, server, _folder) = with_server(Habit::NoRanges).await;
    let kernel = daemon.kernel();
    kernel.fetch_blob(&image, image.manifest).await.unwrap();
    let pack = soon(kernel.fetch_chunks(&image, 5, 20, 0)).await.unwrap();
    let mut bytes = vec![0; image.chunks[24].len()];
    pack.read_exact_at(&mut bytes, image.offset(24)).unwrap();
    assert!(bytes == image.chunks[24]);
    assert_eq!(daemon.daemon.traffic().lies(), 0);
    assert!(server.asked.load(Ordering::Relaxed) <= 4);
}

/// Each of them reads all of it, chunk by chunk and at the same time: as where one image is started on many machines.
#[tokio::test(flavor = "multi_thread")]
async fn who_reads_the_same_at_once_takes_it_once_from_the_server() {
    const NODES: usize = 4;
    let (first, image, server, _folder) = with_server(Habit::Honest).await;
    let mut nodes = vec![first];
    for _ in 1..NODES {
        let (url, known) = (server.url.clone(), nodes[0].addresses());
        let node = TestDaemon::start_with(tempfile::tempdir().unwrap(), known, |config| {
            config.source = vec![SourceConfig::Url(url)];
            config.pull = PullChoice::Never;
        });
        nodes.push(node.await);
    }
    // What a mount reads, and a chunk, so that they know of each other.
    for node in &nodes {
        let kernel = node.kernel();
        for blob in [image.manifest, image.blob_table, image.shard] {
            kernel.fetch_blob(&image, blob).await.unwrap();
        }
        kernel.fetch_chunks(&image, 0, 1, 0).await.unwrap();
    }
    until("all are connected", || {
        let peers = |node: &TestDaemon| node.daemon.node().peers().len();
        nodes.iter().all(|node| peers(node) == NODES - 1)
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = server.asked.load(Ordering::Relaxed);
    let readers = nodes.iter().map(|node| async {
        let kernel = node.kernel();
        for number in 1..CHUNKS {
            let pack = soon(kernel.fetch_chunks(&image, number, 1, 0)).await;
            let (pack, expected) = (pack.unwrap(), &image.chunks[number as usize]);
            let mut bytes = vec![0; expected.len()];
            pack.read_exact_at(&mut bytes, image.offset(number))
                .unwrap();
            assert!(bytes == *expected, "chunk {number}");
        }
    });
    join_all(readers).await;
    let asked = server.asked.load(Ordering::Relaxed) - before;
    let most = u64::from(CHUNKS) * 5 / 4;
    assert!(asked <= most, "{asked} questions for {CHUNKS} chunks");
}

async fn costs_little(habit: Habit) {
    let (daemon, image, server, _folder) = with_server(habit).await;
    let kernel = daemon.kernel();
    kernel.fetch_blob(&image, image.manifest).await.unwrap();
    let begun = Instant::now();
    let answer = soon(kernel.fetch_chunks(&image, 5, 20, 0)).await;
    let errno = answer.map(drop).unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(20), "{habit:?}");
    let unreachable = [Errno::EHOSTUNREACH, Errno::ETIMEDOUT];
    assert!(unreachable.contains(&errno), "{habit:?}: {errno}");
    // No wrong byte is in the store, and a liar is known as one.
    let lies = matches!(habit, Habit::Lies | Habit::Endless);
    assert_eq!(daemon.daemon.traffic().lies(), u64::from(lies), "{habit:?}");
    // It is asked again, but not without pause; and no more is taken than what the sockets hold.
    let asked = server.asked.load(Ordering::Relaxed);
    assert!(asked <= 30, "{habit:?}: asked {asked} times");
    let sent = server.sent.load(Ordering::Relaxed);
    assert!(sent < 64 << 20, "{habit:?}: {sent} bytes");

    // Another one that has it is asked as well.
    let other = tempfile::tempdir().unwrap();
    TestImage::build(&store_dir(other.path()), CHUNKS);
    let peer = TestDaemon::start_with(other, daemon.addresses(), |_| ()).await;
    let mut fetched = Err(Errno::EIO);
    for _ in 0..5 {
        fetched = soon(kernel.fetch_chunks(&image, 5, 20, 0)).await;
        if fetched.is_ok() {
            break;
        }
    }
    assert!(fetched.is_ok(), "{habit:?}: {fetched:?}");
    peer.daemon.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_do_as_it_should_costs_little() {
    let habits = [
        Habit::Redirects,
        Habit::OtherRange,
        Habit::Short,
        Habit::Lies,
        Habit::Hangs,
        Habit::Endless,
    ];
    join_all(habits.map(costs_little)).await;
}
