// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Images that share chunks, of publishers that never saw each other's store.

use crate::support::{store_dir, TestDaemon, TestImage};
use crate::{seed, CHUNKS};

#[tokio::test(flavor = "multi_thread")]
async fn of_a_second_image_no_more_is_fetched_than_what_the_first_one_lacks() {
    let (a, first) = seed().await;
    let root = tempfile::tempdir().unwrap();
    let second = TestImage::build_edited(&store_dir(root.path()), CHUNKS, &[7, 50]);
    let b = TestDaemon::start_with(root, Vec::new(), |_| ()).await;
    let addresses = [a.addresses(), b.addresses()].concat();
    let node = TestDaemon::start(addresses).await;
    let kernel = node.kernel();
    let bytes = || node.daemon.traffic().bytes_of("peers");
    for (image, chunks) in [(&first, CHUNKS), (&second, 2)] {
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
        // And the metadata; and what was asked of a second node, as it has it of the other image: 4 chunks and a twentieth.
        let most = u64::from(chunks + 4 + chunks / 20) * 20_000 + 12_000;
        assert!(fetched <= most, "{fetched} bytes for {chunks} chunks");
    }
    // It serves both to others, though one of them is no file of its own.
    drop((a, b));
    let third = TestDaemon::start(node.addresses()).await;
    let kernel = third.kernel();
    for image in [&second, &first] {
        let places = kernel.fetch_places(image, 0, 64, 0).await.unwrap();
        places.check(image, 0..64);
    }
}
