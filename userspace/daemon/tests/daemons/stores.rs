// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Daemons over stores that somebody else has been at: images that lie, and things that are no files.

use std::fs::{self, File};
use std::os::unix::fs::{symlink, FileExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::{soon, store_dir, until, TestDaemon, TestImage};
use nix::errno::Errno;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use peerfs_control::{ask, Reply, Request};
use peerfs_daemon::config::{PinConfig, PullChoice, SourceConfig};
use peerfs_exchange::{Have, Priority, Progress};
use peerfs_format::upcall::FETCH_AGAIN;
use peerfs_format::Digest;
use peerfs_store::{Pack, Reference, Store};

const CHUNKS: u32 = 20;

async fn daemon_with_image() -> (TestDaemon, TestImage, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let store = store_dir(root.path());
    let image = TestImage::build(&store, CHUNKS);
    let daemon = TestDaemon::start_with(root, Vec::new(), |config| {
        config.request_timeout = Duration::from_secs(2);
    });
    (daemon.await, image, store)
}

fn names(directory: &Path) -> usize {
    fs::read_dir(directory).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_lies_about_a_pack_does_not_take_it_from_others() {
    let (a, image, store) = daemon_with_image().await;
    let lie = image.pack_by_a_lie(&store);
    let kernel = a.kernel();
    let pack = store.join(format!("blobs/sha256/{}", image.pack.digest));
    for _ in 0..3 {
        let refused = kernel.fetch_chunks_of(&lie, &image, 0, 3, FETCH_AGAIN);
        assert_eq!(refused.await.unwrap_err(), Errno::EIO);
    }
    assert!(fs::read(&pack).unwrap() == image.chunks.concat());
    assert_eq!(names(&store.join("partial")), 0);
    kernel
        .fetch_chunks(&image, 0, CHUNKS, FETCH_AGAIN)
        .await
        .unwrap();

    // Nor while it is being filled.
    let b = TestDaemon::start_with(tempfile::tempdir().unwrap(), a.addresses(), |config| {
        config.request_timeout = Duration::from_secs(5);
    });
    let b = b.await;
    let kernel = Arc::new(b.kernel());
    kernel.fetch_chunks(&image, 12, 1, 0).await.unwrap();
    image.pack_by_a_lie(&store_dir(b.root.path()));
    let refused = kernel.fetch_chunks_of(&lie, &image, 0, 3, FETCH_AGAIN);
    assert_ne!(refused.await.unwrap_err(), Errno::UnknownErrno);
    let before = b.daemon.traffic().bytes_of("peers");
    let file = kernel.fetch_chunks(&image, 12, 1, 0).await.unwrap();
    assert_eq!(file.metadata().unwrap().len(), image.pack.stored_length);
    assert_eq!(b.daemon.traffic().bytes_of("peers"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_peer_asks_changes_nothing_in_the_store() {
    let (a, image, store) = daemon_with_image().await;
    let lie = image.pack_by_a_lie(&store);
    let elsewhere = tempfile::tempdir().unwrap();
    let other = TestDaemon::start_with(elsewhere, a.addresses(), |_| ()).await;
    let (node, peer) = (other.daemon.node(), a.daemon.node().peer_id());
    until("they are connected", || {
        node.peers().iter().any(|other| other.id == peer)
    })
    .await;
    // Of a pack that is whole and of one of which nothing is here, by an index that is here.
    fs::rename(
        store.join(format!("blobs/sha256/{}", image.shard)),
        store.join("tmp/shard"),
    )
    .unwrap();
    for pack in [image.pack.digest, image.shard] {
        for index in [image.pack.index_digest, lie.index_digest] {
            let (priority, progress) = (Priority::Demand, Progress::default());
            let mut replies = node.fetch_chunks(peer, pack, index, &[0, 1], priority, &progress);
            while let Some(reply) = soon(replies.next()).await {
                let (_, bytes) = reply.unwrap();
                let is_right = pack == image.pack.digest && index == image.pack.index_digest;
                assert_eq!(bytes.is_some(), is_right);
            }
        }
    }
    assert_eq!(names(&store.join("partial")), 0);
    assert!(Store::open(&store).unwrap().has_blob(&image.pack.digest));
}

/// Waits until a daemon tells another one that it has a pack, but for these chunks.
async fn is_offered(of: &TestDaemon, to: &TestDaemon, image: &TestImage, damaged: &[u32]) {
    let (node, peer) = (to.daemon.node(), of.daemon.node().peer_id());
    let expected: Vec<u32> = (0..CHUNKS)
        .filter(|number| !damaged.contains(number))
        .collect();
    let mut told = Vec::new();
    for _ in 0..300 {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(3);
        let have = node.have(peer, image.pack.digest, deadline).await;
        let have = have.unwrap_or(Have::Absent);
        assert!(!damaged.is_empty() || !matches!(have, Have::Partial(_)));
        told = (0..CHUNKS).filter(|number| have.chunk(*number)).collect();
        if told == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("without {damaged:?}, and not {told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_of_a_whole_pack_is_not_offered() {
    let (a, image, store) = daemon_with_image().await;
    let other = TestDaemon::start(a.addresses()).await;
    is_offered(&a, &other, &image, &[]).await;
    damage(&store, &image, 7);
    damage(&store, &image, 9);

    // A peer finds out.
    let (node, peer) = (other.daemon.node(), a.daemon.node().peer_id());
    let (pack, index) = (image.pack.digest, image.pack.index_digest);
    let (priority, progress) = (Priority::Demand, Progress::default());
    let mut replies = node.fetch_chunks(peer, pack, index, &[7], priority, &progress);
    assert!(soon(replies.next()).await.unwrap().unwrap().1.is_none());
    is_offered(&a, &other, &image, &[7]).await;

    // The kernel does; then all of it is read.
    let fetched = a.kernel().fetch_chunks(&image, 9, 1, FETCH_AGAIN).await;
    assert!(fetched.is_err(), "nobody has it");
    is_offered(&a, &other, &image, &[7, 9]).await;

    // A daemon that starts over such a store.
    let root = a.root;
    a.daemon.shut_down().await;
    let a = TestDaemon::start_with(root, other.addresses(), |_| ()).await;
    is_offered(&a, &other, &image, &[7, 9]).await;
}

/// Changes a chunk of a whole pack, on the disk.
fn damage(store: &Path, image: &TestImage, chunk: u32) {
    let path = Store::open(store).unwrap().blob_path(&image.pack.digest);
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(b"damage", image.offset(chunk) + 5)
        .unwrap();
}

/// How the image is doing that a daemon is to keep complete.
async fn state_of_the_pin(daemon: &TestDaemon) -> String {
    let socket = daemon.root.path().join("control");
    let asked = move || ask(&socket, &Request::Status, Duration::from_secs(10));
    match tokio::task::spawn_blocking(asked).await.unwrap().unwrap() {
        Reply::Status(status) => status.pins[0].state.clone(),
        other => panic!("{other:?}"),
    }
}

async fn pinning(root: tempfile::TempDir, manifest: Digest, source: &Path) -> TestDaemon {
    TestDaemon::start_with(root, Vec::new(), |config| {
        config.pin = vec![PinConfig {
            image: Reference::Digest(manifest),
        }];
        config.source = vec![SourceConfig::Directory(source.to_owned())];
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_pack_is_not_all_of_a_pinned_image() {
    let elsewhere = tempfile::tempdir().unwrap();
    let source = store_dir(elsewhere.path());
    TestImage::build(&source, CHUNKS);
    let root = tempfile::tempdir().unwrap();
    let store = store_dir(root.path());
    let image = TestImage::build(&store, CHUNKS);
    damage(&store, &image, 7);
    let daemon = pinning(root, image.manifest, &source).await;
    let path = Store::open(&store).unwrap().blob_path(&image.pack.digest);
    let expected = image.chunks.concat();
    until("it is mended", || fs::read(&path).unwrap() == expected).await;
    assert_eq!(
        daemon
            .daemon
            .traffic()
            .bytes_of(&source.display().to_string()),
        image.chunks[7].len() as u64
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_with_the_index_of_another_pack_is_not_fetched_for_ever() {
    let scratch = tempfile::tempdir().unwrap();
    let image = TestImage::build(&store_dir(scratch.path()), CHUNKS);
    let elsewhere = tempfile::tempdir().unwrap();
    let source = store_dir(elsewhere.path());
    let (manifest, record, chunks) = image.image_by_a_lie(&source);
    // The source has all that the index says; the second daemon has the pack, which is something else.
    let filled: Arc<Pack> = {
        let store = Store::open(&source).unwrap();
        let index = store.read_metadata(&record.index_digest, 1 << 20).unwrap();
        store.pack(&record, index).unwrap()
    };
    for (number, chunk) in chunks.iter().enumerate() {
        filled.write_chunk(number as u32, chunk).unwrap();
    }
    let (empty, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    TestImage::build(&store_dir(whole.path()), CHUNKS);
    for root in [empty, whole] {
        let daemon = pinning(root, manifest, &source).await;
        let begun = Instant::now();
        let state = loop {
            let state = state_of_the_pin(&daemon).await;
            if state != "being fetched" {
                break state;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{state}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        assert!(
            state.starts_with("not complete: ") && state.contains("its index"),
            "{state}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_may_come_later() {
    let elsewhere = tempfile::tempdir().unwrap();
    let directory = store_dir(elsewhere.path());
    let b = TestDaemon::start_with(tempfile::tempdir().unwrap(), Vec::new(), |config| {
        config.source = vec![SourceConfig::Directory(directory.clone())];
    })
    .await;
    let waiting = tokio::spawn({
        let kernel = b.kernel();
        let scratch = tempfile::tempdir().unwrap();
        let image = TestImage::build(&store_dir(scratch.path()), CHUNKS);
        async move { kernel.fetch_chunks(&image, 3, 2, 0).await.map(drop) }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!waiting.is_finished());
    TestImage::build(&directory, CHUNKS);
    waiting.await.unwrap().unwrap();
}

/// Puts something there in the place of what is there, which is put aside.
fn plant(kind: &str, path: &Path, victim: &Path) {
    if path.symlink_metadata().is_ok() {
        fs::rename(path, victim.with_extension("aside")).unwrap();
    }
    match kind {
        "fifo" => mkfifo(path, Mode::from_bits_truncate(0o666)).unwrap(),
        "directory" => fs::create_dir(path).unwrap(),
        "link" => symlink(victim, path).unwrap(),
        "socket" => {
            // A socket's path must be short, and its name outlives it.
            let short = victim.with_extension("socket");
            drop(UnixListener::bind(&short).unwrap());
            fs::rename(short, path).unwrap();
        }
        _ => panic!("{kind}"),
    }
}

/// Takes away what was planted, unless it was replaced; a directory comes back.
fn take_away(path: &Path, victim: &Path) {
    let is_directory = path.symlink_metadata().is_ok_and(|found| found.is_dir());
    if is_directory {
        fs::remove_dir_all(path).unwrap();
    } else {
        let _ = fs::remove_file(path);
    }
    let aside = victim.with_extension("aside");
    if aside.is_dir() {
        fs::rename(aside, path).unwrap();
    } else {
        let _ = fs::remove_file(aside);
    }
}

/// Whatever is at whatever place of a store that a daemon serves: each request is answered in time, and nothing
/// outside is changed.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_in_a_store_holds_the_daemon_up() {
    let (a, image, _) = daemon_with_image().await;
    let (pack, index) = (image.pack.digest, image.pack.index_digest);
    let places = [
        "index.json".to_owned(),
        "tmp".to_owned(),
        "partial".to_owned(),
        "blobs/sha256".to_owned(),
        format!("blobs/sha256/{}", image.manifest),
        format!("blobs/sha256/{index}"),
        format!("blobs/sha256/{pack}"),
        format!("partial/{pack}-{index}"),
        format!("partial/{pack}-{index}.map"),
    ];
    for kind in ["fifo", "socket", "directory", "link"] {
        let root = tempfile::tempdir().unwrap();
        let store = store_dir(root.path());
        drop(Store::create(&store).unwrap());
        let victim = root.path().join("victim");
        fs::write(&victim, b"precious").unwrap();
        let b = TestDaemon::start_with(root, a.addresses(), |config| {
            config.request_timeout = Duration::from_secs(1);
        })
        .await;
        let kernel = b.kernel();
        for place in &places {
            let path = store.join(place);
            let is_directory = path.is_dir();
            if is_directory && kind == "directory" {
                continue;
            }
            plant(kind, &path, &victim);
            let start = Instant::now();
            let blob = kernel.fetch_blob(&image, image.manifest).await;
            let chunks = kernel.fetch_chunks(&image, 1, 1, FETCH_AGAIN).await;
            let took = start.elapsed();
            assert!(
                took < Duration::from_secs(20),
                "{kind} for {place}: {took:?}"
            );
            // What is in the place of a blob is replaced by the blob, where that can be done.
            if place.starts_with("blobs/sha256/") && kind != "directory" {
                assert!(
                    blob.is_ok() && chunks.is_ok(),
                    "{kind} for {place}: {blob:?} {chunks:?}"
                );
            }
            let socket = b.root.path().join("control");
            let answer = tokio::task::spawn_blocking(move || {
                ask(&socket, &Request::Status, Duration::from_secs(20))
            });
            let answer = answer.await.unwrap();
            assert!(
                matches!(answer, Ok(Reply::Status(_) | Reply::Error(_))),
                "{kind} for {place}: {answer:?}"
            );
            assert_eq!(
                fs::read(&victim).unwrap(),
                b"precious",
                "{kind} for {place}"
            );
            take_away(&path, &victim);
            drop(Store::create(&store));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_stays_within_its_size_and_what_has_gone_comes_again() {
    let (a, first, store) = daemon_with_image().await;
    let all: Vec<u32> = (0..CHUNKS).collect();
    let second = TestImage::build_edited(&store, CHUNKS, &all);
    let size = first.pack.stored_length;
    let b = TestDaemon::start_with(tempfile::tempdir().unwrap(), a.addresses(), |config| {
        config.limits.cache_bytes = std::num::NonZeroU64::new(size * 3 / 2);
        // It reads what is here, which then was not read for the longest time any more.
        config.pull = PullChoice::Never;
    });
    let b = b.await;
    let kernel = b.kernel();
    let blob = |image: &TestImage| {
        store_dir(b.root.path()).join(format!("blobs/sha256/{}", image.pack.digest))
    };
    kernel.fetch_blob(&first, first.manifest).await.unwrap();
    let open = kernel.fetch_chunks(&first, 0, CHUNKS, 0).await.unwrap();
    until("the first pack is whole", || blob(&first).exists()).await;
    // Times of files are not finer on some filesystems.
    tokio::time::sleep(Duration::from_millis(20)).await;
    kernel.fetch_blob(&second, second.manifest).await.unwrap();
    kernel.fetch_chunks(&second, 0, CHUNKS, 0).await.unwrap();
    until("the first pack was given up", || !blob(&first).exists()).await;
    until("the second pack is whole", || blob(&second).exists()).await;
    // A kernel that has it open finds it wrong, and says so.
    let mut bytes = vec![1; 100];
    open.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes != first.chunks[0][..100]);
    let before = b.daemon.traffic().bytes_of("peers");
    let answered = kernel
        .fetch_places(&first, 3, 2, FETCH_AGAIN)
        .await
        .unwrap();
    answered.check(&first, 3..5);
    assert!(b.daemon.traffic().bytes_of("peers") > before);
    let store = Store::open(&store_dir(b.root.path())).unwrap();
    assert_eq!(store.images().unwrap().len(), 2);
    // What was built here is no cache.
    assert!(store_dir(a.root.path())
        .join(format!("blobs/sha256/{}", first.pack.digest))
        .exists());
}
