// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Everything at once: readers who compare every byte, mounts that come and go, caches that are dropped,
//! chunks that are taken away, daemons that die and daemons that lie.

mod action;
mod content;
mod reader;
mod service;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use peerfs_format::Digest;

use crate::mounting::{mount_image, unmount_image};
use crate::{ensure, Error, Result};
use action::Director;
use content::Content;
use service::{Behaviours, Service};

/// Seconds that a reader waits for a daemon.
const TIMEOUT: u32 = 2;
/// A reader who has not ended a read for so long hangs.
const HANG: Duration = Duration::from_secs(60);

/// The options of a run.
#[derive(clap::Args)]
pub(crate) struct Settings {
    /// The tree that the image was built from.
    #[arg(long)]
    tree: PathBuf,
    /// The complete store that daemons serve from.
    #[arg(long)]
    pristine: PathBuf,
    /// The store that is mounted: an empty one.
    #[arg(long)]
    store: PathBuf,
    /// The image.
    #[arg(long)]
    manifest: Digest,
    /// A folder to mount in.
    #[arg(long)]
    mounts: PathBuf,
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    seconds: u64,
    /// Readers of the mount that stays; half as many have mounts of their own, which come and go.
    #[arg(long, default_value_t = 6)]
    readers: usize,
    /// Have the kernel fail allocations of readers, as debugfs's fault injection says.
    #[arg(long)]
    failing_allocations: bool,
}

/// The state that the readers and the director share.
struct Shared<'a> {
    settings: &'a Settings,
    content: Content,
    is_over: AtomicBool,
    right: AtomicU64,
    errors: AtomicU64,
    mounts: AtomicU64,
    refused_mounts: AtomicU64,
    /// The first thing that is wrong.
    finding: Mutex<Option<String>>,
    began: Instant,
    /// When each reader ended its last read: milliseconds from the beginning.
    progress: Vec<AtomicU64>,
}

impl Shared<'_> {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Ends everything because of something wrong.
    fn report(&self, finding: String) {
        let mut first = self
            .finding
            .lock()
            .unwrap_or_else(|error| error.into_inner());
        first.get_or_insert(finding);
        self.is_over.store(true, Ordering::Relaxed);
    }

    fn note_progress(&self, reader: usize) {
        let now = self.began.elapsed().as_millis() as u64;
        self.progress[reader].store(now, Ordering::Relaxed);
    }

    /// A reader who seems to hang.
    fn stuck(&self) -> Option<usize> {
        let now = self.began.elapsed().as_millis() as u64;
        let is_late = |time: &AtomicU64| {
            now.saturating_sub(time.load(Ordering::Relaxed)) > HANG.as_millis() as u64
        };
        self.progress.iter().position(is_late)
    }
}

/// Runs until the time is over or something is wrong; in the end everything must be right again.
pub(crate) fn run(settings: &Settings) -> Result<()> {
    let cyclers = settings.readers / 2;
    let shared = Shared {
        settings,
        content: Content::read(&settings.tree)?,
        is_over: AtomicBool::new(false),
        right: AtomicU64::new(0),
        errors: AtomicU64::new(0),
        mounts: AtomicU64::new(0),
        refused_mounts: AtomicU64::new(0),
        finding: Mutex::new(None),
        began: Instant::now(),
        progress: (0..settings.readers + cyclers)
            .map(|_| AtomicU64::new(0))
            .collect(),
    };
    let mut service = Service::new(&settings.store, &settings.pristine);
    service.start(Behaviours::honest())?;
    let main = settings.mounts.join("main");
    std::fs::create_dir_all(&main).map_err(Error::io("create", &main))?;
    mount_image(&settings.store, &settings.manifest, &main, TIMEOUT)
        .map_err(Error::io("mount", &main))?;
    let mut director = Director::new(Rng::with_seed(settings.seed), service);
    let directed = thread::scope(|scope| {
        for reader in 0..settings.readers {
            let (shared, main) = (&shared, &main);
            scope.spawn(move || reader::stay(shared, reader, main));
        }
        for reader in settings.readers..settings.readers + cyclers {
            let shared = &shared;
            scope.spawn(move || reader::come_and_go(shared, reader));
        }
        let directed = director.direct(&shared, &main);
        shared.is_over.store(true, Ordering::Relaxed);
        // The readers may be waiting for what only an honest daemon can give.
        let served = director.service.start(Behaviours::honest());
        directed.and(served)
    });
    let counts = |count: &AtomicU64| count.load(Ordering::Relaxed);
    println!(
        "seed {}: {} right reads, {} errors, {} mounts, {} refused; {}",
        settings.seed,
        counts(&shared.right),
        counts(&shared.errors),
        counts(&shared.mounts),
        counts(&shared.refused_mounts),
        director.summary(),
    );
    directed?;
    if let Some(finding) = shared
        .finding
        .lock()
        .unwrap_or_else(|error| error.into_inner())
        .take()
    {
        return Err(Error::Finding(finding));
    }
    // All is quiet, and the daemon is honest.
    shared.content.check_all(&main)?;
    unmount_image(&main).map_err(Error::io("unmount", &main))?;
    director.service.stop();
    ensure(director.did_everything(), || {
        "some action was never taken".to_owned()
    })?;
    ensure(counts(&shared.right) > counts(&shared.errors), || {
        "more errors than right reads".to_owned()
    })?;
    ensure(counts(&shared.mounts) > 3, || "too few mounts".to_owned())
}
