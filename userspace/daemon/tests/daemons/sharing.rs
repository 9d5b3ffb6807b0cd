// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Images that share chunks, of publishers that never saw each other's store.

use crate::support::{store_dir, TestDaemon, TestImage};
use crate::{seed, CHUNKS};

#[tokio::test(flavor = "multi_thread")]
async fn of_a_second_image_no_more_is_fetched_than_what_the_first_one_lacks() {
    let (a, first) = seed().await;
    let node = TestDaemon::start(a.addresses()).await;
    let kernel = node.kernel();
    let bytes = || node.daemon.traffic().bytes_of("peers");
    let fetch = async |image: &TestImage, chunks: u32| {
        let before = bytes();
        kernel.fetch_blob(image, image.manifest).await.unwrap();
        for run in [0..64, 64..CHUNKS] {
            let count = run.end - run.start;
            kernel
                .fetch_places(image, run.start, count, 0)
                .await
                .unwrap()
                .check(image, run);
        }
        let fetched = bytes() - before;
        // And the metadata.
        let most = u64::from(chunks) * 20_000 + 12_000;
        assert!(fetched <= most, "{fetched} bytes for {chunks} chunks");
    };
    fetch(&first, CHUNKS).await;
    // Only now: of two who have a chunk both may be asked for it, the second one when the first is slow.
    let root = tempfile::tempdir().unwrap();
    let second = TestImage::build_edited(&store_dir(root.path()), CHUNKS, &[7, 50]);
    let b = TestDaemon::start_with(root, node.addresses(), |_| ()).await;
    fetch(&second, 2).await;
    // It serves both to others, though one of them is no file of its own.
    drop((a, b));
    let third = TestDaemon::start(node.addresses()).await;
    let kernel = third.kernel();
    for image in [&second, &first] {
        let places = kernel.fetch_places(image, 0, 64, 0).await.unwrap();
        places.check(image, 0..64);
    }
}
