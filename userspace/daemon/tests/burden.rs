// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a peer can make a daemon read.

#![forbid(unsafe_code)]

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use peerfs_control::{ask, Reply, Request};
use peerfs_daemon::config::PinConfig;
use peerfs_exchange::{Have, Priority, Progress};
use peerfs_format::{Digest, METADATA_MAX};
use peerfs_peer::{BlobPiece, Identity, Node, NodeConfig, Provider, RequestError, Work};
use peerfs_store::{Reference, Store};
use support::{store_dir, until, TestDaemon, TestImage};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// What is read is counted for the whole process, so one test runs at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Bytes that this process has read from files until now.
fn bytes_read() -> u64 {
    let counters = std::fs::read_to_string("/proc/self/io").unwrap();
    let line = counters.lines().find(|line| line.starts_with("rchar: "));
    line.unwrap()["rchar: ".len()..].parse().unwrap()
}

/// A peer that has nothing.
struct Nothing;

#[async_trait]
impl Provider for Nothing {
    async fn blob_length(&self, _: &Digest, _: &Work) -> Option<u64> {
        None
    }

    fn blob_max(&self) -> u64 {
        0
    }

    async fn read_blob(&self, _: &Digest, _: bool, _: u64, _: &Work) -> Option<BlobPiece> {
        None
    }

    async fn have(&self, _: &Digest, _: &Work) -> Have {
        Have::Absent
    }

    async fn read_chunk(&self, _: &Digest, _: &Digest, _: u32, _: &Work) -> Option<Bytes> {
        None
    }
}

async fn peer_of(daemon: &TestDaemon) -> Node {
    let mut config = NodeConfig::new(Identity::generate());
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    config.mdns = false;
    config.bootstrap = daemon.addresses();
    let peer = Node::start(config, Arc::new(Nothing)).await.unwrap();
    until("the peer is connected", || !peer.peers().is_empty()).await;
    peer
}

/// Fetches these chunks many times; how many came, and what that made the daemon read.
async fn fetch_many_times(
    peer: &Node,
    daemon: &TestDaemon,
    pack: Digest,
    index: Digest,
    numbers: &[u32],
) -> (usize, u64) {
    let (server, mut came) = (daemon.daemon.node().peer_id(), 0);
    let before = bytes_read();
    for _ in 0..50 {
        let mut chunks = peer.fetch_chunks(
            server,
            pack,
            index,
            numbers,
            Priority::Demand,
            &Progress::default(),
        );
        while let Some(reply) = chunks.next().await {
            came += usize::from(reply.unwrap().1.is_some());
        }
    }
    (came, bytes_read() - before)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_is_refused_by_its_length_and_not_read() {
    let _alone = ALONE.lock().await;
    let root = tempfile::tempdir().unwrap();
    let store = Store::create(&store_dir(root.path())).unwrap();
    let length = METADATA_MAX as usize + 1;
    let pack = store.add_blob(&vec![7; length]).unwrap();
    let daemon = TestDaemon::start_with(root, Vec::new(), |_| ()).await;
    let peer = peer_of(&daemon).await;
    let (server, before) = (daemon.daemon.node().peer_id(), bytes_read());
    for _ in 0..2000 {
        let deadline = Instant::now() + Duration::from_secs(10);
        let refused = peer
            .fetch_blob(
                server,
                pack,
                u64::MAX,
                Priority::Demand,
                deadline,
                &Progress::default(),
            )
            .await
            .unwrap_err();
        assert!(
            matches!(refused, RequestError::TooLarge { length: told, .. } if told == length as u64),
            "{refused}"
        );
    }
    let read = bytes_read() - before;
    assert!(read < 1024 * 1024, "{read} bytes were read for nothing");
}

/// Metadata is sent as a zstd frame where that is shorter, made once; and whoever takes it has paid for it.
#[tokio::test(flavor = "multi_thread")]
async fn metadata_is_compressed_once_and_on_the_account_of_nobody_who_takes_it() {
    const LENGTH: usize = 8 * 1024 * 1024;
    let _alone = ALONE.lock().await;
    let root = tempfile::tempdir().unwrap();
    let store = Store::create(&store_dir(root.path())).unwrap();
    let mut state = 1_u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    // Every other byte says nothing; so many that they would be worth several debts.
    let mut half = || {
        (0..LENGTH)
            .map(|place| if place % 2 == 0 { random() } else { 0 })
            .collect()
    };
    let blobs: Vec<Vec<u8>> = std::iter::repeat_with(&mut half).take(8).collect();
    let digests: Vec<Digest> = blobs
        .iter()
        .map(|blob| store.add_blob(blob).unwrap())
        .collect();
    let noise: Vec<u8> = std::iter::repeat_with(random).take(LENGTH).collect();
    let noise_digest = store.add_blob(&noise).unwrap();
    let daemon = TestDaemon::start_with(root, Vec::new(), |_| ()).await;
    let peer = peer_of(&daemon).await;
    let server = daemon.daemon.node().peer_id();
    let received = || peer.peers()[0].bytes_received as usize;
    let fetch = async |digest: Digest| {
        let before = received();
        let deadline = Instant::now() + Duration::from_secs(60);
        let (priority, progress) = (Priority::Background, Progress::default());
        let fetched = peer
            .fetch_blob(server, digest, METADATA_MAX, priority, deadline, &progress)
            .await;
        (fetched.unwrap(), received() - before)
    };
    for (digest, blob) in digests.iter().zip(&blobs) {
        let (fetched, sent) = fetch(*digest).await;
        assert!(fetched == *blob);
        assert!(sent < LENGTH * 7 / 8, "{sent} bytes were sent");
    }
    let (fetched, sent) = fetch(noise_digest).await;
    assert!(fetched == noise);
    assert_eq!(sent, LENGTH);
    // It is neither read again, nor compressed in vain again.
    let before = bytes_read();
    for digest in [digests[7], noise_digest] {
        fetch(digest).await;
    }
    let read = bytes_read() - before;
    assert!(read < 1 << 20, "{read} bytes were read");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_index_and_a_damaged_chunk_are_read_once() {
    let _alone = ALONE.lock().await;
    let root = tempfile::tempdir().unwrap();
    let other = TestImage::build(&store_dir(root.path()), 90);
    let image = TestImage::build(&store_dir(root.path()), 100);
    let path = Store::open(&store_dir(root.path()))
        .unwrap()
        .blob_path(&image.pack.digest);
    let daemon = TestDaemon::start_with(root, Vec::new(), |_| ()).await;
    let peer = peer_of(&daemon).await;

    // Chunk 0 is the same in both, the others lie elsewhere in the other pack, as far as it goes.
    let (pack, wrong) = (other.pack.digest, image.pack.index_digest);
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"damage", image.offset(7) + 5).unwrap();
    let beyond: Vec<u32> = (90..100).collect();
    let (came, read) = fetch_many_times(&peer, &daemon, pack, wrong, &beyond).await;
    assert_eq!(came, 0);
    assert!(read < 512 * 1024, "{read} bytes for a wrong index");

    let right = image.pack.index_digest;
    let (came, read) = fetch_many_times(&peer, &daemon, image.pack.digest, right, &[7]).await;
    assert_eq!(came, 0);
    assert!(read < 256 * 1024, "{read} bytes for a damaged chunk");
    let (came, _) = fetch_many_times(&peer, &daemon, image.pack.digest, right, &[8]).await;
    assert_eq!(came, 50, "the others are served");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_that_nobody_has_is_told() {
    let _alone = ALONE.lock().await;
    let daemon = TestDaemon::start_with(tempfile::tempdir().unwrap(), Vec::new(), |config| {
        let image = Reference::Digest(Digest([9; 32]));
        config.pin = vec![PinConfig { image }];
    })
    .await;
    let socket = daemon.root.path().join("control");
    for expected in ["being fetched", "waiting: nobody that can be reached sends"] {
        let begun = Instant::now();
        loop {
            let socket = socket.clone();
            let asked = move || ask(&socket, &Request::Status, Duration::from_secs(10));
            let reply = tokio::task::spawn_blocking(asked).await.unwrap().unwrap();
            let Reply::Status(status) = reply else {
                panic!("no status");
            };
            let [pin] = &status.pins[..] else {
                panic!("{:?}", status.pins);
            };
            assert_eq!(pin.image, "09".repeat(32));
            if pin.state.starts_with(expected) {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{pin:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
