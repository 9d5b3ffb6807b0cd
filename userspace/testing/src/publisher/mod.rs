// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A malicious publisher: images that are damaged in one place or a few and whose digests all fit, so
//! that nothing but the kernel's readers stands between them and the kernel. Each is mounted, looked
//! at and unmounted, alone or beside another one. What the damage does not touch must be right, or an error; and
//! who has the image mounted that they are made of must not notice.

mod bloat;
mod blob;
mod frame;
mod image;
mod mutation;
mod reference;
mod refusal;
mod table;
mod victim;
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
pub(crate) use bloat::{bloat, Table};
use frame::Frames;
use image::{Image, Published};
use reference::Fingerprints;
pub(crate) use refusal::Rule;
use victim::Victim;

/// The longest that a mutant may take before it is called a hang.
const HANG: Duration = Duration::from_secs(20);

/// The options of a run. The module must have been loaded with `upcall=0`: nobody is there to wait for.
#[derive(clap::Args)]
pub(crate) struct Settings {
    /// A complete store of a small image, to which the mutants' blobs are added.
    store: PathBuf,
    /// The image's manifest.
    manifest: Digest,
    /// An empty folder to mount on.
    mount: PathBuf,
    /// Decides everything; round `n` of a seed is also the first one of `seed + n`.
    #[arg(long)]
    seed: u64,
    /// The most rounds, of a mutant or two.
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
    /// The entry of every path.
    entries: BTreeMap<PathBuf, String>,
}

#[derive(Debug, Default)]
struct Totals {
    rounds: u64,
    mutants: u64,
    mounted: u64,
    visited: u64,
    visit_errors: u64,
    untouched: u64,
    untouched_errors: u64,
    slowest: Duration,
}

/// An image that is mounted and looked at: what was done to what.
struct Mutant<'a> {
    original: &'a Original,
    image: Image,
    /// The folder that it is mounted on.
    directory: &'a Path,
}

/// Writes an image that breaks a rule into a store, and prints its manifest's digest.
pub(crate) fn break_rule(store: &Path, rule: Rule) -> Result<()> {
    bloat::add(store, &refusal::image(rule))
}

/// Makes, mounts and looks at mutants, until one does harm.
pub(crate) fn run(settings: &Settings) -> Result<()> {
    let frames = Frames::new().map_err(Error::io("compress", Path::new("a frame")))?;
    let [first, second, other] =
        ["first", "second", "victim"].map(|name| settings.mount.join(name));
    for directory in [&first, &second, &other] {
        fs::create_dir_all(directory).map_err(Error::io("create", directory))?;
    }
    let publisher = Publisher {
        settings,
        directories: [&first, &second],
    };
    let image = Image::read(&settings.store, &settings.manifest)?;
    let originals = [
        publisher.original(image.clone())?,
        publisher.original(image.spread())?,
    ];
    let victim = Victim::new(&settings.store, &settings.manifest, other, &originals[0])?;
    let watch = watch_for_hangs();
    let mut totals = Totals::default();
    let deadline = Instant::now() + Duration::from_secs(settings.seconds);
    while totals.rounds < settings.mutants && Instant::now() < deadline {
        let seed = settings.seed.wrapping_add(totals.rounds);
        let mut rng = Rng::with_seed(seed);
        let (mutants, whats) = publisher.mutants(&originals, &frames, &mut rng)?;
        let what = format!("mutant {seed}: {whats}");
        // Before it is mounted: the last line is what a kernel that is no more was given.
        println!("{what}");
        std::io::stdout()
            .flush()
            .map_err(Error::io("write", Path::new("output")))?;
        // The watch is gone only if a mutant took too long, which it has reported.
        let _ = watch.send(Some(what.clone()));
        let began = Instant::now();
        publisher
            .round(&mutants, (&victim, &originals[0]), &mut rng, &mut totals)
            .map_err(|error| Error::Finding(format!("{what}: {error}")))?;
        let _ = watch.send(None);
        totals.rounds += 1;
        totals.slowest = totals.slowest.max(began.elapsed());
    }
    victim.leave()?;
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
    /// The folder that mutants are mounted on.
    directories: [&'a Path; 2],
}

impl Publisher<'_> {
    /// Mounts an image that is right, to learn what its paths are.
    fn original(&self, image: Image) -> Result<Original> {
        let published = image.publish();
        self.write(&published)?;
        let directory = self.directories[0];
        self.mount(&published.manifest, directory)
            .map_err(Error::io("mount", directory))?;
        let failed = |path: &Path| Error::io("read", path);
        let mut entries = BTreeMap::new();
        for path in walk(directory).map_err(failed(directory))? {
            let full = directory.join(&path);
            let entry = Entry::read(&full).map_err(failed(&full))?;
            entries.insert(path, entry.to_string());
        }
        unmount(directory)?;
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

    /// One mutant, or two to be mounted side by side, and what they are.
    fn mutants<'a>(
        &'a self,
        originals: &'a [Original; 2],
        frames: &Frames,
        rng: &mut Rng,
    ) -> Result<(Vec<Mutant<'a>>, String)> {
        let mut mutants = Vec::new();
        let mut whats = Vec::new();
        for directory in &self.directories[..rng.usize(1..=2)] {
            let original = &originals[rng.usize(..2)];
            let mut image = original.image.clone();
            for _ in 0..[1, 1, 1, 2, 3][rng.usize(..5)] {
                let what = mutation::mutate(&mut image, frames, rng);
                let what = what.map_err(Error::io("compress", Path::new("a frame")))?;
                whats.push(what.unwrap_or_else(|| "nothing".to_owned()));
            }
            mutants.push(Mutant {
                original,
                image,
                directory,
            });
            whats.push("beside".to_owned());
        }
        whats.pop();
        Ok((mutants, whats.join("; ")))
    }

    /// Mounts mutants, looks at them, and at what others have mounted: in one half of the rounds these read
    /// their files first, in the other half the mutants are the ones that fill what pages both share.
    fn round(
        &self,
        mutants: &[Mutant<'_>],
        (victim, unharmed): (&Victim, &Original),
        rng: &mut Rng,
        totals: &mut Totals,
    ) -> Result<()> {
        victim.forget()?;
        if rng.bool() {
            victim.check(unharmed)?;
        }
        let mut added = Vec::new();
        let mut mounted = Vec::new();
        for mutant in mutants {
            let published = mutant.image.publish();
            added.extend(self.write(&published)?);
            totals.mutants += 1;
            if self.mount(&published.manifest, mutant.directory).is_ok() {
                mounted.push(mutant);
                totals.mounted += 1;
            }
        }
        let looked = mounted
            .iter()
            .try_for_each(|mutant| look(mutant, rng, totals))
            .and_then(|()| victim.check(unharmed));
        for mutant in mounted {
            unmount(mutant.directory)?;
        }
        looked?;
        for path in added {
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
        Ok(())
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

    fn mount(&self, manifest: &Digest, directory: &Path) -> Result<(), Errno> {
        mount_image(&self.settings.store, manifest, directory, 1)
    }
}

fn unmount(directory: &Path) -> Result<()> {
    unmount_image(directory).map_err(Error::io("unmount", directory))
}

/// Looks at what is mounted: at what is untouched first or last.
fn look(mutant: &Mutant<'_>, rng: &mut Rng, totals: &mut Totals) -> Result<()> {
    let Mutant {
        original,
        image,
        directory,
    } = mutant;
    let visit = |rng: &mut Rng, totals: &mut Totals| {
        let visited = visit::visit(directory, rng)?;
        totals.visited += visited.paths;
        totals.visit_errors += visited.errors;
        Ok(())
    };
    let is_first = rng.bool();
    if !is_first {
        visit(rng, totals)?;
    }
    for (path, fingerprint) in &reference::fingerprints(image) {
        if original.fingerprints.get(path) != Some(fingerprint) {
            continue;
        }
        totals.untouched += 1;
        match Entry::read(&directory.join(path)) {
            Ok(entry) => {
                let (found, expected) = (entry.to_string(), &original.entries[path]);
                ensure(found == *expected, || {
                    let path = path.display();
                    format!(
                        "{path} is untouched and wrong\n  expected {expected}\n  found    {found}"
                    )
                })?;
            }
            Err(error) => {
                println!("  {} is untouched: {error}", path.display());
                totals.untouched_errors += 1;
            }
        }
    }
    match is_first {
        true => visit(rng, totals),
        false => Ok(()),
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
