// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a peer has got is known at once, and not when it is asked the next time.

use std::time::{Duration, Instant};

use peerfs_daemon::config::{PullChoice, SourceConfig};

use crate::support::{store_dir, TestDaemon, TestImage};
use crate::{assert_chunks, seed, whole_pack, CHUNKS};

/// Asks for what a mount does, and for a chunk.
async fn mounted(node: &TestDaemon, image: &TestImage) {
    let kernel = node.kernel();
    for blob in [image.manifest, image.blob_table, image.shard] {
        kernel.fetch_blob(image, blob).await.unwrap();
    }
    kernel.fetch_chunks(image, 0, 1, 0).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_chunk_has_it_when_the_neighbour_has() {
    const ROUNDS: u32 = 8;
    let (elsewhere, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let image = TestImage::build(&store_dir(elsewhere.path()), CHUNKS);
    let b = TestDaemon::start_with(root, Vec::new(), |config| {
        config.source = vec![SourceConfig::Directory(store_dir(elsewhere.path()))];
    })
    .await;
    let kernel = b.kernel();
    mounted(&b, &image).await;
    // Its only peer is one that lacks what it wants.
    let c = TestDaemon::start(b.addresses()).await;
    mounted(&c, &image).await;
    let mut late = Duration::ZERO;
    for round in 1..=ROUNDS {
        let number = 10 * round;
        let wait = async {
            let pack = c.kernel().fetch_chunks(&image, number, 1, 0).await.unwrap();
            assert_chunks(&pack, &image, number..number + 1);
            Instant::now()
        };
        let bring = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            kernel.fetch_chunks(&image, number, 1, 0).await.unwrap();
            Instant::now()
        };
        let (had, brought) = tokio::join!(wait, bring);
        late += had.saturating_duration_since(brought);
    }
    // Who asks once a second has to wait for half of one, as a rule.
    let most = Duration::from_millis(150) * ROUNDS;
    assert!(late < most, "{late:?} late in {ROUNDS} rounds");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_which_a_quarter_was_read_comes_whole_if_nobody_minds() {
    let (a, image) = seed().await;
    let auto = TestDaemon::start(a.addresses()).await;
    let never = TestDaemon::start_with(tempfile::tempdir().unwrap(), a.addresses(), |config| {
        config.pull = PullChoice::Never;
    })
    .await;
    for node in [&auto, &never] {
        mounted(node, &image).await;
        let pack = node.kernel().fetch_chunks(&image, 0, 40, 0).await.unwrap();
        assert_chunks(&pack, &image, 0..40);
    }
    let bytes = never.daemon.traffic().bytes_of("peers");
    whole_pack(&auto, &image).await;
    assert_eq!(never.daemon.traffic().bytes_of("peers"), bytes);
}

/// Who goes through a file waits for nothing as long as all is asked for ahead, and needs all of the line for that.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_fetched_beside_a_reader_who_never_waits() {
    let (a, image) = seed().await;
    let b = TestDaemon::start(a.addresses()).await;
    mounted(&b, &image).await;
    let kernel = b.kernel();
    kernel.read_ahead(&image, 0..40).await.unwrap();
    let bytes = || b.daemon.traffic().bytes_of("peers");
    let before = bytes();
    // For longer than a pull waits for quiet, and for the next look at what is here.
    const ROUNDS: u32 = 30;
    for chunk in 40..40 + ROUNDS {
        kernel.read_ahead(&image, chunk..chunk + 1).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let chunk_length = image.chunks[0].len() as u64;
    assert_eq!(bytes() - before, u64::from(ROUNDS) * chunk_length);
    whole_pack(&b, &image).await;
}
