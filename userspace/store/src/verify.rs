// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Checking a whole store.
//!
//! Whatever a store holds, the check takes time in proportion to its bytes and to what its packs decode to, and
//! memory in proportion to the inodes of one image (12 bytes each) besides the blobs that it looks at.

mod image;
mod marks;
mod packs;
mod tree;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use peerfs_format::Digest;
use peerfs_realm::RealmKey;

use crate::digest::sha256_file;
use crate::{images, index_file, printable, Result, Store};

use image::ImageCheck;

/// The progress of a verification, for whoever watches it.
#[derive(Debug, Default)]
pub struct VerifyProgress {
    /// Bytes to read, as far as they are known: of the complete blobs, and once more of the packs.
    pub total_bytes: AtomicU64,
    /// Those of them that were read.
    pub read_bytes: AtomicU64,
}

/// The findings of a verification.
#[derive(Clone, Debug, Default)]
pub struct VerifyReport {
    /// Complete blobs that were read.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Chunks of partial packs that were read.
    pub partial_chunks: u64,
    /// The damages.
    pub damages: Vec<Damage>,
    /// Images that are not all there, and how many blobs and chunks they miss. Not damage: peerfsd
    /// fetches what is needed.
    pub incomplete: BTreeMap<String, u64>,
    /// Images of which pack contents are not there, and those of how many packs. Not damage: they can be read, and
    /// only chunks of these packs can't be used again by images that are built upon them.
    pub without_contents: BTreeMap<String, u64>,
    /// Encrypted images, each with what the key is called that was not given: that their bytes are right is all that was
    /// found out, and not what is in them.
    pub encrypted: BTreeMap<String, String>,
}

/// Something in a store that is damaged.
#[derive(Clone, Debug)]
pub struct Damage {
    /// The blob, for a partial pack the pack.
    pub blob: Digest,
    /// The problem.
    pub problem: String,
    /// The images that need it: tags, or manifests of those that have none.
    pub images: BTreeSet<String>,
    /// The remedy.
    pub advice: String,
}

/// Reads every blob, walks every image, and reads every chunk of the partial packs. Of encrypted images, if none of the keys
/// is theirs, only whether the bytes are right.
///
/// # Errors
/// [`crate::Error::Layout`] if `index.json` is not valid, [`crate::Error::Io`] if the store can't be listed. What
/// is damaged inside is no error but in the report.
pub fn verify(
    store: &Arc<Store>,
    keys: &[RealmKey],
    progress: &VerifyProgress,
) -> Result<VerifyReport> {
    let mut report = VerifyReport::default();
    // First: whoever adds an image while the blobs are read has added its blobs before.
    let index = index_file::read(store.directory())?;
    let blobs = Blobs::read(store, progress, &mut report)?;
    let mut users: HashMap<Digest, BTreeSet<String>> = HashMap::new();
    let mut checked_packs = BTreeSet::new();
    for entry in index.entries() {
        let Some(digest) = entry.digest else {
            continue;
        };
        let name = entry.tag.map_or_else(|| digest.to_string(), str::to_owned);
        users.entry(digest).or_default().insert(name);
    }
    for problem in images::problems(store, &index) {
        // The others were found when they were hashed.
        if !blobs.damaged.contains_key(&problem.blob) {
            report.damages.push(Damage {
                blob: problem.blob,
                problem: problem.problem,
                images: problem.images,
                advice:
                    "build the image again under its tag, or mount it by the digest of its manifest"
                        .to_owned(),
            });
        }
    }
    // What leads nowhere is among the problems.
    for image in images::images(store, &index, |_| ()) {
        let names: BTreeSet<String> = if image.tags.is_empty() {
            BTreeSet::from([image.manifest.to_string()])
        } else {
            image.tags.into_iter().collect()
        };
        let mut check = ImageCheck::new(
            (store, keys),
            &blobs,
            progress,
            &names,
            &mut users,
            &mut report,
        );
        check.run(&image.manifest, &mut checked_packs);
        let (missing, missing_contents) = (check.missing(), check.missing_contents());
        for name in names {
            if missing_contents > 0 {
                report
                    .without_contents
                    .insert(name.clone(), missing_contents);
            }
            if missing > 0 {
                report.incomplete.insert(name, missing);
            }
        }
    }
    for (blob, problem) in blobs.damaged {
        report.damages.push(Damage {
            blob,
            problem,
            images: users.get(&blob).cloned().unwrap_or_default(),
            advice: format!(
                "remove {} and build the image again, or let peerfsd fetch it from a peer",
                printable(&store.blob_path(&blob))
            ),
        });
    }
    report.damages.sort_by_key(|damage| damage.blob);
    Ok(report)
}

/// The complete blobs of a store.
struct Blobs {
    /// All of them, sorted: an image may name hundreds of thousands that are not there.
    present: Vec<Digest>,
    /// Those that do not have their digests, and why not.
    damaged: BTreeMap<Digest, String>,
}

impl Blobs {
    /// Hashes every complete blob, on all processors.
    fn read(store: &Store, progress: &VerifyProgress, report: &mut VerifyReport) -> Result<Self> {
        let mut present = store.blobs()?;
        present.sort_unstable();
        report.blobs = present.len() as u64;
        let usage = store.usage()?;
        progress
            .total_bytes
            .store(usage.blob_bytes, Ordering::Relaxed);
        let next = AtomicUsize::new(0);
        let damaged = Mutex::new(BTreeMap::new());
        let hash = || {
            while let Some(blob) = present.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Some(problem) = blob_problem(store, blob, progress) {
                    damaged
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(*blob, problem);
                }
            }
        };
        thread::scope(|scope| {
            for _ in 1..thread::available_parallelism().map_or(1, usize::from) {
                // With as many threads as there can be, if only with this one.
                if thread::Builder::new().spawn_scoped(scope, hash).is_err() {
                    break;
                }
            }
            hash();
        });
        report.bytes = progress.read_bytes.load(Ordering::Relaxed);
        Ok(Blobs {
            present,
            damaged: damaged.into_inner().unwrap_or_else(PoisonError::into_inner),
        })
    }

    /// Whether a blob is there, damaged or not.
    fn has(&self, blob: &Digest) -> bool {
        self.present.binary_search(blob).is_ok()
    }
}

fn blob_problem(store: &Store, blob: &Digest, progress: &VerifyProgress) -> Option<String> {
    // One that vanished since it was listed is not damaged.
    let hash = store.open_blob(blob).map(|file| {
        file.map(|file| {
            let length = file.metadata()?.len();
            sha256_file(&file, length, |count| {
                progress.read_bytes.fetch_add(count, Ordering::Relaxed);
            })
        })
    });
    match hash {
        Ok(None) => None,
        Ok(Some(Ok(Some(digest)))) if digest == *blob => None,
        Ok(Some(Ok(Some(digest)))) => Some(format!("its content has the digest {digest}")),
        Ok(Some(Ok(None))) => Some("it grows while it is read".to_owned()),
        Ok(Some(Err(error))) => Some(format!("it can't be read: {error}")),
        Err(error) => Some(error.to_string()),
    }
}
