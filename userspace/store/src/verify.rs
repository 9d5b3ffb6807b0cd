// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Checking a whole store.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use peerfs_format::{Digest, Error as FormatError, FileType, ROOT_INODE};

use crate::digest::sha256_file;
use crate::tags::TagIndex;
use crate::{printable, Error, Image, Result, Store};

/// How far a verification is, for whoever watches it.
#[derive(Debug, Default)]
pub struct VerifyProgress {
    /// Bytes of the complete blobs; 0 until they are known.
    pub total_bytes: AtomicU64,
    /// Those of them that were read.
    pub read_bytes: AtomicU64,
}

/// What a verification found.
#[derive(Clone, Debug, Default)]
pub struct VerifyReport {
    /// Complete blobs that were read.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Chunks of partial packs that were read.
    pub partial_chunks: u64,
    /// What is damaged.
    pub damages: Vec<Damage>,
    /// Images that are not all there, and how many blobs and chunks they miss. Not damage: peerfsd
    /// fetches what is needed.
    pub incomplete: BTreeMap<String, u64>,
}

/// Something in a store that is damaged.
#[derive(Clone, Debug)]
pub struct Damage {
    /// The blob, for a partial pack the pack.
    pub blob: Digest,
    /// What is wrong.
    pub problem: String,
    /// The images that need it: tags, or manifests of those that have none.
    pub images: BTreeSet<String>,
    /// What to do about it.
    pub advice: String,
}

/// Reads every blob, walks every image, and reads every chunk of the partial packs.
///
/// # Errors
/// [`Error::Layout`] if `index.json` is not valid, [`Error::Io`] if the store can't be listed. What
/// is damaged inside is no error but in the report.
pub fn verify(store: &Arc<Store>, progress: &VerifyProgress) -> Result<VerifyReport> {
    let mut report = VerifyReport::default();
    let damaged = verify_blobs(store, progress, &mut report)?;
    let mut users: HashMap<Digest, BTreeSet<String>> = HashMap::new();
    let mut checked_packs = BTreeSet::new();
    let index = TagIndex::read(store.directory())?;
    for (digest, tag) in index.entries() {
        let name = tag.map_or_else(|| digest.to_string(), str::to_owned);
        users.entry(digest).or_default().insert(name);
    }
    for problem in index.problems(store) {
        // The others were found when they were hashed.
        if !damaged.contains_key(&problem.blob) {
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
    for image in index.images(store)? {
        let names: BTreeSet<String> = if image.tags.is_empty() {
            BTreeSet::from([image.manifest.to_string()])
        } else {
            image.tags.into_iter().collect()
        };
        let mut check = ImageCheck {
            store,
            damaged: &damaged,
            names: &names,
            users: &mut users,
            report: &mut report,
            missing: 0,
        };
        check.run(&image.manifest, &mut checked_packs);
        let missing = check.missing;
        if missing > 0 {
            for name in names {
                report.incomplete.insert(name, missing);
            }
        }
    }
    for (blob, problem) in damaged {
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

/// Hashes every complete blob, on all processors.
fn verify_blobs(
    store: &Store,
    progress: &VerifyProgress,
    report: &mut VerifyReport,
) -> Result<BTreeMap<Digest, String>> {
    let blobs = store.blobs()?;
    report.blobs = blobs.len() as u64;
    let usage = store.usage()?;
    progress
        .total_bytes
        .store(usage.blob_bytes, Ordering::Relaxed);
    let next = AtomicUsize::new(0);
    let damaged = Mutex::new(BTreeMap::new());
    let hash = || {
        while let Some(blob) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
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
    Ok(damaged.into_inner().unwrap_or_else(PoisonError::into_inner))
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

/// The check of one image.
struct ImageCheck<'a> {
    store: &'a Arc<Store>,
    damaged: &'a BTreeMap<Digest, String>,
    names: &'a BTreeSet<String>,
    users: &'a mut HashMap<Digest, BTreeSet<String>>,
    report: &'a mut VerifyReport,
    missing: u64,
}

impl ImageCheck<'_> {
    fn run(&mut self, manifest: &Digest, checked_packs: &mut BTreeSet<Digest>) {
        if !self.is_readable(manifest) {
            return;
        }
        let table = match self.store.read_manifest(manifest) {
            Ok(manifest) => manifest.blob_table,
            Err(error) => return self.add_damage(*manifest, &error),
        };
        if !self.is_readable(&table) {
            return;
        }
        let image = match Image::open(self.store.clone(), manifest) {
            Ok(image) => image,
            Err(error) => return self.add_damage(table, &error),
        };
        let table = image.blob_table();
        for shard in 0..table.shards.len() as u32 {
            match table.shard(shard) {
                Ok(record) if self.is_readable(&record.digest) => {
                    if let Err(error) = check_shard(&image, shard) {
                        self.add_damage(record.digest, &error);
                    }
                }
                Ok(_) => (),
                Err(source) => {
                    let digest = image.manifest().blob_table;
                    self.add_damage(digest, &Error::Format { digest, source });
                }
            }
        }
        for pack in 0..table.packs.len() as u32 {
            self.check_pack(&image, pack, checked_packs);
        }
    }

    fn check_pack(&mut self, image: &Image, number: u32, checked: &mut BTreeSet<Digest>) {
        let record = match image.blob_table().pack(number) {
            Ok(record) => record,
            Err(source) => {
                let digest = image.manifest().blob_table;
                return self.add_damage(digest, &Error::Format { digest, source });
            }
        };
        if !self.is_readable(&record.index_digest) {
            return;
        }
        if self.store.has_blob(&record.digest) {
            // Damage was found when the blob was hashed.
            self.is_readable(&record.digest);
            return;
        }
        let pack = match image.pack(number) {
            Ok(pack) => pack,
            Err(Error::BlobMissing(_)) => {
                self.missing += 1;
                return;
            }
            Err(error) => return self.add_damage(record.index_digest, &error),
        };
        self.add_user(&record.digest);
        let is_first = checked.insert(record.digest);
        let mut bad = 0;
        for chunk in 0..record.chunk_count {
            if !pack.has(chunk) {
                self.missing += 1;
            } else if is_first {
                self.report.partial_chunks += 1;
                bad += u32::from(!matches!(pack.read_chunk(chunk), Ok(Some(_))));
            }
        }
        if bad > 0 {
            self.report.damages.push(Damage {
                blob: record.digest,
                problem: format!("{bad} chunks of the partial pack are damaged"),
                images: self.names.clone(),
                advice: "nothing needs to be done: peerfsd fetches them anew when they are read"
                    .to_owned(),
            });
        }
    }

    /// Whether a blob of the image is there and whole; notes that the image needs it.
    fn is_readable(&mut self, blob: &Digest) -> bool {
        self.add_user(blob);
        if self.damaged.contains_key(blob) {
            return false;
        }
        let is_there = self.store.has_blob(blob);
        self.missing += u64::from(!is_there);
        is_there
    }

    fn add_user(&mut self, blob: &Digest) {
        self.users
            .entry(*blob)
            .or_default()
            .extend(self.names.iter().cloned());
    }

    fn add_damage(&mut self, blob: Digest, error: &Error) {
        self.report.damages.push(Damage {
            blob,
            problem: match std::error::Error::source(error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            },
            images: self.names.clone(),
            advice: "its digest is right, so it was built wrong: build the image again".to_owned(),
        });
    }
}

/// Reads every record of a shard.
fn check_shard(image: &Image, shard: u32) -> Result<()> {
    let shard = image.shard(shard)?;
    let numbers = shard.view().inode_numbers();
    let packs = image.blob_table().packs;
    if numbers.contains(&ROOT_INODE)
        && shard.view().inode(ROOT_INODE, &packs) != Ok(image.manifest().root)
    {
        return Err(Error::format(shard.digest)(FormatError::Malformed(
            "root directory",
        )));
    }
    for number in numbers {
        let inode = image.inode(number)?;
        inode.xattrs()?;
        match inode.file_type() {
            FileType::Regular => {
                inode.content_digest()?;
                for extent in inode.extents()? {
                    image
                        .blob_table()
                        .pack(extent.pack)
                        .map_err(Error::format(inode.shard.digest))?;
                }
            }
            FileType::SymbolicLink => {
                inode.symlink_target()?;
            }
            FileType::Directory => {
                inode.check_spans()?;
            }
            _ => (),
        }
    }
    Ok(())
}
