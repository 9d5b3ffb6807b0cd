// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is missed of an image is noted, and comes early the next time.

use std::time::Duration;

use peerfs_format::upcall::Workload;
use peerfs_store::Store;
use peerfs_trace::{Part, Step, Trace, STEPS_MAX};

use crate::seed;
use crate::support::{store_dir, until, TestDaemon, TestImage};

fn store(daemon: &TestDaemon) -> Store {
    Store::open(&store_dir(daemon.root.path())).unwrap()
}

/// The chunks of an image that are in a daemon's store.
fn here(store: &Store, image: &TestImage) -> u32 {
    let Ok(inventory) = store.inventory(&image.manifest) else {
        return 0;
    };
    let blobs = inventory.blobs.iter();
    blobs.map(|blob| blob.present_chunks).sum()
}

fn run(pack: u32, first: u32, count: u32) -> Step {
    let after = Duration::ZERO;
    let part = Part::Chunks { pack, first, count };
    Step { after, part }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_on_one_machine_comes_early_on_another() {
    let (a, image) = seed().await;
    let root = tempfile::tempdir().unwrap();
    let other = TestImage::build_edited(&store_dir(root.path()), 30, &[3]);
    let also = TestDaemon::start_with(root, a.addresses(), |_| ()).await;
    let sources = || [a.addresses(), also.addresses()].concat();
    let b = TestDaemon::start(sources()).await;
    let kernel = b.kernel();
    for (image, runs) in [(&image, [(10, 4), (50, 2)]), (&other, [(3, 1), (3, 2)])] {
        kernel.fetch_blob(image, image.manifest).await.unwrap();
        for (first, count) in runs {
            kernel.fetch_places(image, first, count, 0).await.unwrap();
        }
    }
    let noted = store(&b);
    let none = Workload::default();
    let trace = |image: &TestImage| noted.trace(&image.manifest, none).ok().flatten();
    let chunks = |image: &TestImage| trace(image).map(|trace| trace.chunks());
    until("both are noted", || {
        (chunks(&image), chunks(&other)) == (Some(6), Some(2))
    })
    .await;

    // Its kernel asks for the manifest of one of them, and for nothing else.
    let c = TestDaemon::start(sources()).await;
    for image in [&image, &other] {
        store(&c).add_trace(&trace(image).unwrap()).unwrap();
    }
    c.kernel().fetch_blob(&image, image.manifest).await.unwrap();
    until("what the trace names is here", || {
        here(&store(&c), &image) == 6
    })
    .await;
    assert_eq!(here(&store(&c), &other), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_that_lies_costs_no_reader_anything() {
    let (a, image) = seed().await;
    let b = TestDaemon::start(a.addresses()).await;
    let nonsense = [
        run(7, 0, 1),
        run(0, 90, 1 << 27),
        run(0, 1 << 28, 1),
        Step {
            after: Duration::ZERO,
            part: Part::Shard(u32::MAX),
        },
    ];
    let many = (0..STEPS_MAX as u32).map(|number| run(number, number, 64));
    let trace = Trace {
        steps: nonsense.into_iter().chain(many).take(STEPS_MAX).collect(),
        ..Trace::new(image.manifest, Workload::default())
    };
    store(&b).add_trace(&trace).unwrap();
    let kernel = b.kernel();
    kernel.fetch_blob(&image, image.manifest).await.unwrap();
    let chunks = kernel.fetch_places(&image, 20, 30, 0).await.unwrap();
    chunks.check(&image, 20..50);
    // What there is of what it names has come, or will.
    until("the last chunks", || here(&store(&b), &image) >= 40).await;
}
