// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Daemons with real peers over the loopback interface, and a kernel that is played.

#![forbid(unsafe_code)]

#[path = "daemons/following.rs"]
mod following;
#[path = "daemons/sharing.rs"]
mod sharing;
#[path = "daemons/stores.rs"]
mod stores;
mod support;
#[path = "daemons/traces.rs"]
mod traces;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nix::errno::Errno;
use peerfs_daemon::config::{PinConfig, SourceConfig};
use peerfs_exchange::frame::Encoding;
use peerfs_exchange::Have;
use peerfs_format::upcall::FETCH_AGAIN;
use peerfs_format::Digest;
use peerfs_peer::{BlobPiece, Identity, Node, NodeConfig, Provider, Work};
use peerfs_store::{Reference, Store};
use support::{store_dir, until, TestDaemon, TestImage};

const CHUNKS: u32 = 100;

async fn seed() -> (TestDaemon, TestImage) {
    let root = tempfile::tempdir().unwrap();
    let image = TestImage::build(&store_dir(root.path()), CHUNKS);
    (
        TestDaemon::start_with(root, Vec::new(), |_| ()).await,
        image,
    )
}

#[track_caller]
fn assert_chunks(file: &File, image: &TestImage, chunks: std::ops::Range<u32>) {
    for number in chunks {
        let expected = &image.chunks[number as usize];
        let mut bytes = vec![0; expected.len()];
        file.read_exact_at(&mut bytes, image.offset(number))
            .unwrap();
        assert!(bytes == *expected, "chunk {number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_comes_from_a_peer_and_is_passed_on() {
    let (a, image) = seed().await;
    let b = TestDaemon::start(a.addresses()).await;
    let kernel = b.kernel();

    let manifest = kernel.fetch_blob(&image, image.manifest).await.unwrap();
    let length = manifest.metadata().unwrap().len();
    assert!(length > 0);
    // What the first lookup in the mount needs comes without having been asked for.
    let store = Store::open(&store_dir(b.root.path())).unwrap();
    until("the first shard", || store.has_blob(&image.shard)).await;
    let table = store.read_metadata(&image.blob_table, 4096).unwrap();
    kernel.fetch_blob(&image, image.shard).await.unwrap();
    let pack = kernel.fetch_chunks(&image, 10, 20, 0).await.unwrap();
    assert_chunks(&pack, &image, 10..30);
    let metadata = length + table.len() as u64 + u64::from(image.pack.index_length) + 24;
    let chunks = 20 * image.chunks[0].len() as u64;
    assert_eq!(b.daemon.traffic().bytes_of("peers"), metadata + chunks);

    // What is there already is not fetched again.
    kernel.fetch_blob(&image, image.manifest).await.unwrap();
    kernel.fetch_chunks(&image, 20, 10, 0).await.unwrap();
    assert_eq!(b.daemon.traffic().bytes_of("peers"), metadata + chunks);

    // The first daemon goes, and a third one gets from the second what that has.
    a.daemon.shut_down().await;
    let c = TestDaemon::start(b.addresses()).await;
    let pack = c.kernel().fetch_chunks(&image, 15, 3, 0).await.unwrap();
    assert_chunks(&pack, &image, 15..18);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_of_which_all_was_fetched_is_whole() {
    let (a, image) = seed().await;
    let b = TestDaemon::start(a.addresses()).await;
    let kernel = b.kernel();
    let first = kernel.fetch_chunks(&image, 0, 64, 0).await.unwrap();
    let last = kernel.fetch_chunks(&image, 64, 36, 0).await.unwrap();
    for pack in [first, last] {
        assert_chunks(&pack, &image, 0..CHUNKS);
    }
    whole_pack(&b, &image).await;
}

/// The file of a pack of which all is there, when it is a blob: the readers do not wait for that.
async fn whole_pack(daemon: &TestDaemon, image: &TestImage) -> PathBuf {
    let store = Store::open(&store_dir(daemon.root.path())).unwrap();
    until("the pack is a blob", || store.has_blob(&image.pack.digest)).await;
    store.blob_path(&image.pack.digest)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_peers_the_reader_is_told_so() {
    let b = TestDaemon::start_with(tempfile::tempdir().unwrap(), Vec::new(), |config| {
        config.request_timeout = Duration::from_secs(1);
    })
    .await;
    let elsewhere = tempfile::tempdir().unwrap();
    let image = TestImage::build(&store_dir(elsewhere.path()), 1);
    let error = b.kernel().fetch_blob(&image, image.manifest).await;
    assert_eq!(error.unwrap_err(), Errno::EHOSTUNREACH);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_waits_for_a_peer_that_comes_late() {
    let b = TestDaemon::start(Vec::new()).await;
    let root = tempfile::tempdir().unwrap();
    let image = Arc::new(TestImage::build(&store_dir(root.path()), CHUNKS));
    let waiting = tokio::spawn({
        let (kernel, image) = (b.kernel(), Arc::clone(&image));
        async move { kernel.fetch_chunks(&image, 3, 2, 0).await }
    });
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!waiting.is_finished());
    let _a = TestDaemon::start_with(root, b.addresses(), |_| ()).await;
    assert_chunks(&waiting.await.unwrap().unwrap(), &image, 3..5);
}

/// Says that it has everything, and gives out the right metadata and wrong chunks.
struct Liar(Store);

#[async_trait]
impl Provider for Liar {
    async fn blob_length(&self, blob: &Digest, _: &Work) -> Option<u64> {
        Some(self.0.read_metadata(blob, 1 << 20).ok()?.len() as u64)
    }

    fn blob_max(&self) -> u64 {
        1 << 20
    }

    async fn read_blob(&self, blob: &Digest, _: bool, offset: u64, _: &Work) -> Option<BlobPiece> {
        let bytes = self.0.read_metadata(blob, 1 << 20).ok()?;
        BlobPiece::of(Encoding::Plain, &bytes.into(), offset)
    }

    async fn have(&self, _digest: &Digest, _: &Work) -> Have {
        Have::Complete
    }

    async fn read_chunk(
        &self,
        _pack: &Digest,
        _index: &Digest,
        number: u32,
        _: &Work,
    ) -> Option<Bytes> {
        Some(vec![number as u8; 20_000].into())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_lies_is_dropped_and_not_asked_again() {
    let root = tempfile::tempdir().unwrap();
    let image = Arc::new(TestImage::build(&store_dir(root.path()), CHUNKS));
    let mut config = NodeConfig::new(Identity::generate());
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    config.mdns = false;
    let lies = Liar(Store::open(&store_dir(root.path())).unwrap());
    let liar = Node::start(config, Arc::new(lies)).await.unwrap();

    let b = TestDaemon::start(liar.listen_addresses()).await;
    let waiting = tokio::spawn({
        let (kernel, image) = (b.kernel(), Arc::clone(&image));
        async move { kernel.fetch_chunks(&image, 0, 50, 0).await }
    });
    until("the liar is found out", || b.daemon.traffic().lies() == 1).await;
    until("the liar is disconnected", || {
        b.daemon
            .node()
            .peers()
            .iter()
            .all(|peer| peer.id != liar.peer_id())
    })
    .await;
    assert!(!waiting.is_finished());

    let _a = TestDaemon::start_with(root, b.addresses(), |_| ()).await;
    assert_chunks(&waiting.await.unwrap().unwrap(), &image, 0..50);
    assert_eq!(b.daemon.traffic().lies(), 1);
}

/// Gives out all of an image, and notes what it is asked to have.
struct Counting {
    image: Arc<TestImage>,
    store: Store,
    asked: Arc<Mutex<Vec<Digest>>>,
}

#[async_trait]
impl Provider for Counting {
    async fn blob_length(&self, blob: &Digest, _: &Work) -> Option<u64> {
        Some(self.store.read_metadata(blob, 1 << 20).ok()?.len() as u64)
    }

    fn blob_max(&self) -> u64 {
        1 << 20
    }

    async fn read_blob(&self, blob: &Digest, _: bool, offset: u64, _: &Work) -> Option<BlobPiece> {
        let bytes = self.store.read_metadata(blob, 1 << 20).ok()?;
        BlobPiece::of(Encoding::Plain, &bytes.into(), offset)
    }

    async fn have(&self, digest: &Digest, _: &Work) -> Have {
        self.asked.lock().unwrap().push(*digest);
        Have::Complete
    }

    async fn read_chunk(&self, _: &Digest, _: &Digest, number: u32, _: &Work) -> Option<Bytes> {
        let chunk = self.image.chunks.get(number as usize)?;
        Some(chunk.clone().into())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_twice_for_one_miss() {
    let root = tempfile::tempdir().unwrap();
    let image = Arc::new(TestImage::build(&store_dir(root.path()), CHUNKS));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let provider = Counting {
        image: Arc::clone(&image),
        store: Store::open(&store_dir(root.path())).unwrap(),
        asked: Arc::clone(&asked),
    };
    let mut config = NodeConfig::new(Identity::generate());
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    config.mdns = false;
    let peer = Node::start(config, Arc::new(provider)).await.unwrap();
    let b = TestDaemon::start(peer.listen_addresses()).await;
    until("they are connected", || !b.daemon.node().peers().is_empty()).await;
    assert_eq!(asked.lock().unwrap().len(), 0);

    let kernel = b.kernel();
    kernel.fetch_blob(&image, image.manifest).await.unwrap();
    let pack = kernel.fetch_chunks(&image, 10, 20, 0).await.unwrap();
    assert_chunks(&pack, &image, 10..30);
    let store = Store::open(&store_dir(b.root.path())).unwrap();
    until("the first shard", || store.has_blob(&image.shard)).await;
    let mut asked = asked.lock().unwrap().clone();
    let mut expected = vec![
        image.manifest,
        image.blob_table,
        image.shard,
        image.pack.index_digest,
        image.pack.digest,
    ];
    asked.sort_unstable();
    expected.sort_unstable();
    assert_eq!(asked, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_kernel_found_damaged_is_fetched_anew() {
    let (a, image) = seed().await;
    let b = TestDaemon::start(a.addresses()).await;
    let kernel = b.kernel();
    kernel.fetch_chunks(&image, 0, 50, 0).await.unwrap();
    kernel.fetch_chunks(&image, 50, 50, 0).await.unwrap();
    let before = b.daemon.traffic().bytes_of("peers");

    let path = whole_pack(&b, &image).await;
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"damage", image.offset(7) + 5).unwrap();
    let pack = kernel
        .fetch_chunks(&image, 6, 3, FETCH_AGAIN)
        .await
        .unwrap();
    assert_chunks(&pack, &image, 0..CHUNKS);
    let fetched = b.daemon.traffic().bytes_of("peers") - before;
    assert_eq!(
        fetched,
        image.chunks[7].len() as u64,
        "only what is damaged"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_store_is_a_source() {
    let elsewhere = tempfile::tempdir().unwrap();
    let image = TestImage::build(&store_dir(elsewhere.path()), CHUNKS);
    let b = TestDaemon::start_with(tempfile::tempdir().unwrap(), Vec::new(), |config| {
        config.source = vec![SourceConfig::Directory(store_dir(elsewhere.path()))];
    })
    .await;
    let kernel = b.kernel();
    kernel.fetch_blob(&image, image.manifest).await.unwrap();
    let pack = kernel.fetch_chunks(&image, 90, 10, 0).await.unwrap();
    assert_chunks(&pack, &image, 90..100);
    let account = store_dir(elsewhere.path()).display().to_string();
    assert!(b.daemon.traffic().bytes_of(&account) > 10 * 20_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_image_becomes_complete_by_itself() {
    let (a, image) = seed().await;
    let b = TestDaemon::start_with(tempfile::tempdir().unwrap(), a.addresses(), |config| {
        config.pin = vec![PinConfig {
            image: Reference::Digest(image.manifest),
        }];
    })
    .await;
    let store = Store::open(&store_dir(b.root.path())).unwrap();
    until("the image is complete", || {
        let pack = &image.pack;
        let blobs = [
            image.manifest,
            image.shard,
            pack.digest,
            pack.contents_digest,
        ];
        blobs.iter().all(|blob| store.has_blob(blob))
    })
    .await;
}
