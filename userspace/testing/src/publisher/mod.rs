// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A malicious publisher: images that are damaged in one place or a few and whose digests all fit, so
//! that nothing but the kernel's readers stands between them and the kernel. Each is mounted, looked
//! at and unmounted. What the damage does not touch must be right, or an error.

mod blob;
mod frame;
mod image;
mod mutation;
mod reference;
mod table;
mod visit;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use peerfs_format::Digest;
use rustix::io::Errno;

use crate::entry::{walk, Entry};
use crate::mounting::{mount_image, unmount_image};
use crate::{ensure, Error, Result};
use frame::Frames;
use image::{Image, Published};
use reference::Fingerprints;
use visit::Visited;

/// How long a mutant may take before it is called a hang.
const HANG: Duration = Duration::from_secs(20);

/// How to run. The module must have been loaded with `upcall=0`: nobody is there to wait for.
#[derive(clap::Args)]
pub(crate) struct Settings {
    /// A complete store of a small image, to which the mutants' blobs are added.
    store: PathBuf,
    /// The image's manifest.
    manifest: Digest,
    /// An empty folder to mount on.
    mount: PathBuf,
    /// Decides everything; the mutant `n` of a seed is also the first one of `seed + n`.
    #[arg(long)]
    seed: u64,
    /// The most mutants.
    #[arg(long, default_value_t = u64::MAX)]
    mutants: u64,
    /// Ends after so many seconds.
    #[arg(long, default_value_t = 200)]
    seconds: u64,
}

/// An image that the mutants are made of, and what is known about it.
struct Original {
    image: Image,
    fingerprints: Fingerprints,
    /// What every path is.
    entries: BTreeMap<PathBuf, String>,
}

#[derive(Debug, Default)]
struct Totals {
    mutants: u64,
    mounted: u64,
    visited: u64,
    visit_errors: u64,
    untouched: u64,
    untouched_errors: u64,
    slowest: Duration,
}

/// Makes, mounts and looks at mutants, until one does harm.
pub(crate) fn run(settings: &Settings) -> Result<()> {
    let frames = Frames::new().map_err(Error::io("compress", Path::new("a frame")))?;
    let publisher = Publisher { settings };
    let image = Image::read(&settings.store, &settings.manifest)?;
    let originals = [
        publisher.original(image.clone())?,
        publisher.original(image.spread())?,
    ];
    let watch = watch_for_hangs();
    let mut totals = Totals::default();
    let deadline = Instant::now() + Duration::from_secs(settings.seconds);
    while totals.mutants < settings.mutants && Instant::now() < deadline {
        let seed = settings.seed.wrapping_add(totals.mutants);
        let mut rng = Rng::with_seed(seed);
        let original = &originals[rng.usize(..2)];
        let mut image = original.image.clone();
        let mut whats = Vec::new();
        let wanted = [1, 1, 1, 2, 3][rng.usize(..5)];
        while whats.len() < wanted {
            let what = mutation::mutate(&mut image, &frames, &mut rng);
            let what = what.map_err(Error::io("compress", Path::new("a frame")))?;
            whats.push(what.unwrap_or_else(|| "nothing".to_owned()));
        }
        let what = format!("mutant {seed}: {}", whats.join("; "));
        // Before it is mounted: the last line is what a kernel that is no more was given.
        println!("{what}");
        std::io::stdout()
            .flush()
            .map_err(Error::io("write", Path::new("output")))?;
        // The watch is gone only if a mutant took too long, which it has reported.
        let _ = watch.send(Some(what.clone()));
        let began = Instant::now();
        publisher
            .mutant(original, &image, &mut rng, &mut totals)
            .map_err(|error| Error::Finding(format!("{what}: {error}")))?;
        let _ = watch.send(None);
        totals.mutants += 1;
        totals.slowest = totals.slowest.max(began.elapsed());
    }
    println!("{totals:?}");
    ensure(2 * totals.mounted > totals.mutants, || {
        "too few could be mounted".to_owned()
    })?;
    ensure(totals.untouched > totals.mutants, || {
        "too little was compared".to_owned()
    })
}

struct Publisher<'a> {
    settings: &'a Settings,
}

impl Publisher<'_> {
    /// Mounts an image that is right, to learn what its paths are.
    fn original(&self, image: Image) -> Result<Original> {
        let published = image.publish();
        self.write(&published)?;
        let directory = &self.settings.mount;
        self.mount(&published.manifest)
            .map_err(Error::io("mount", directory))?;
        let failed = |path: &Path| Error::io("read", path);
        let mut entries = BTreeMap::new();
        for path in walk(directory).map_err(failed(directory))? {
            let full = directory.join(&path);
            let entry = Entry::read(&full).map_err(failed(&full))?;
            entries.insert(path, entry.to_string());
        }
        self.unmount()?;
        let fingerprints = reference::fingerprints(&image);
        ensure(fingerprints.keys().eq(entries.keys()), || {
            "the plain reader does not find the same paths as the kernel".to_owned()
        })?;
        Ok(Original {
            image,
            fingerprints,
            entries,
        })
    }

    fn mutant(
        &self,
        original: &Original,
        image: &Image,
        rng: &mut Rng,
        totals: &mut Totals,
    ) -> Result<()> {
        let published = image.publish();
        let added = self.write(&published)?;
        if self.mount(&published.manifest).is_ok() {
            totals.mounted += 1;
            let looked = self.look(original, image, rng, totals);
            self.unmount()?;
            let visited = looked?;
            totals.visited += visited.paths;
            totals.visit_errors += visited.errors;
        }
        for path in added {
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
        Ok(())
    }

    /// Looks at what is mounted: at what is untouched first or last.
    fn look(
        &self,
        original: &Original,
        image: &Image,
        rng: &mut Rng,
        totals: &mut Totals,
    ) -> Result<Visited> {
        let fingerprints = reference::fingerprints(image);
        let is_first = rng.bool();
        let mut visited = Visited::default();
        if !is_first {
            visited = visit::visit(&self.settings.mount, rng)?;
        }
        for (path, fingerprint) in &fingerprints {
            if original.fingerprints.get(path) != Some(fingerprint) {
                continue;
            }
            totals.untouched += 1;
            match Entry::read(&self.settings.mount.join(path)) {
                Ok(entry) => {
                    let (found, expected) = (entry.to_string(), &original.entries[path]);
                    ensure(found == *expected, || {
                        let path = path.display();
                        format!("{path} is untouched and wrong\n  expected {expected}\n  found    {found}")
                    })?;
                }
                Err(error) => {
                    println!("  {} is untouched: {error}", path.display());
                    totals.untouched_errors += 1;
                }
            }
        }
        if is_first {
            visited = visit::visit(&self.settings.mount, rng)?;
        }
        Ok(visited)
    }

    /// Adds the blobs that the store does not have; where they are.
    fn write(&self, published: &Published) -> Result<Vec<PathBuf>> {
        let mut added = Vec::new();
        for (digest, bytes) in &published.blobs {
            let path = self
                .settings
                .store
                .join("blobs/sha256")
                .join(digest.to_string());
            if !path.exists() {
                fs::write(&path, bytes).map_err(Error::io("write", &path))?;
                added.push(path);
            }
        }
        Ok(added)
    }

    fn mount(&self, manifest: &Digest) -> Result<(), Errno> {
        mount_image(&self.settings.store, manifest, &self.settings.mount, 1)
    }

    fn unmount(&self) -> Result<()> {
        let directory = &self.settings.mount;
        unmount_image(directory).map_err(Error::io("unmount", directory))
    }
}

/// Starts a thread that is told when a mutant begins and ends, and that ends everything when one takes
/// too long, if the kernel still lets it.
fn watch_for_hangs() -> mpsc::Sender<Option<String>> {
    let (sender, receiver) = mpsc::channel::<Option<String>>();
    thread::spawn(move || {
        let mut current: Option<String> = None;
        loop {
            match receiver.recv_timeout(HANG) {
                Ok(next) => current = next,
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(what) = &current {
                        eprintln!("peerfs-testing: no end after {HANG:?}: {what}");
                        std::process::exit(1);
                    }
                }
            }
        }
    });
    sender
}
