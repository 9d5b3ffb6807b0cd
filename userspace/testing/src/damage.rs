// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Damaged stores, and manifests that nobody can use.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use capnp::message::ReaderOptions;
use clap::ValueEnum;
use fastrand::Rng;
use peerfs_format::{peerfs_capnp, BlobTable, Digest, Manifest, PackIndex, PackRecord};
use sha2::Sha256;

use crate::{Error, Result};

/// The damage to do to a store.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Kind {
    /// Change a byte of a blob.
    Flip,
    /// Cut a blob off.
    Truncate,
    /// Make a chunk of a pack zeros.
    ZeroChunk,
    /// Exchange two blobs.
    Swap,
}

/// A way to make a manifest useless, under a digest that is right.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Forgery {
    /// A format version of the future.
    Version,
    /// A feature that nobody knows.
    Feature,
    /// Its first half.
    Half,
    /// Nothing.
    Empty,
    /// Random bytes.
    Noise,
}

/// A blob of an image.
struct Blob {
    what: &'static str,
    digest: Digest,
    path: PathBuf,
}

fn blob_path(store: &Path, digest: &Digest) -> PathBuf {
    store.join("blobs/sha256").join(digest.to_string())
}

fn read(store: &Path, digest: &Digest) -> Result<Vec<u8>> {
    let path = blob_path(store, digest);
    fs::read(&path).map_err(Error::io("read", &path))
}

/// The manifest of an image, and the bytes of its blob table.
fn read_blob_table(store: &Path, manifest: &Digest) -> Result<(Manifest, Vec<u8>)> {
    let bytes = read(store, manifest)?;
    let parsed = Manifest::parse(&bytes).map_err(Error::format(&blob_path(store, manifest)))?;
    let table = read(store, &parsed.blob_table)?;
    Ok((parsed, table))
}

/// All that the kernel reads of an image.
fn blobs(store: &Path, manifest: &Digest) -> Result<Vec<Blob>> {
    let (parsed, table) = read_blob_table(store, manifest)?;
    let table = BlobTable::parse(&table, parsed.inode_count).map_err(Error::format(store))?;
    let mut found = vec![("manifest", *manifest), ("blob-table", parsed.blob_table)];
    for pack in table.packs.iter() {
        found.push(("index", pack.index_digest));
        found.push(("pack", pack.digest));
    }
    found.extend(table.shards.iter().map(|shard| ("shard", shard.digest)));
    let blob = |(what, digest): (&'static str, Digest)| Blob {
        what,
        digest,
        path: blob_path(store, &digest),
    };
    Ok(found.into_iter().map(blob).collect())
}

/// Damages one thing, and prints for each blob that changed what it is, its digest, and the damage.
pub(crate) fn damage(store: &Path, manifest: &Digest, kind: Kind, seed: u64) -> Result<()> {
    let mut rng = Rng::with_seed(seed);
    let blobs = blobs(store, manifest)?;
    // By kind first: an image has few packs, and they are no less worth damaging.
    let kinds: Vec<&str> = ["manifest", "blob-table", "index", "pack", "shard"]
        .into_iter()
        .filter(|kind| blobs.iter().any(|blob| blob.what == *kind))
        .collect();
    let mut choose = || {
        let what = kinds[rng.usize(..kinds.len())];
        let same: Vec<&Blob> = blobs.iter().filter(|blob| blob.what == what).collect();
        same[rng.usize(..same.len())]
    };
    let blob = choose();
    let changing = Error::io("change", &blob.path);
    match kind {
        Kind::Flip => {
            let (offset, bit) = flip(&mut rng, &blob.path).map_err(changing)?;
            println!("{} {} bit {bit} of byte {offset}", blob.what, blob.digest);
        }
        Kind::Truncate => {
            let mut cut = || -> std::io::Result<(u64, u64)> {
                let file = OpenOptions::new().write(true).open(&blob.path)?;
                let length = file.metadata()?.len();
                let kept = rng.u64(..length);
                file.set_len(kept)?;
                Ok((kept, length))
            };
            let (kept, length) = cut().map_err(changing)?;
            println!(
                "{} {} cut to {kept} of {length} bytes",
                blob.what, blob.digest
            );
        }
        Kind::ZeroChunk => zero_chunk(store, manifest, &mut rng)?,
        Kind::Swap => {
            let other = loop {
                let other = choose();
                if other.digest != blob.digest {
                    break other;
                }
            };
            let spare = store.join("swapped");
            fs::rename(&blob.path, &spare)
                .and_then(|()| fs::rename(&other.path, &blob.path))
                .and_then(|()| fs::rename(&spare, &other.path))
                .map_err(changing)?;
            println!("{} {} exchanged", blob.what, blob.digest);
            println!("{} {} exchanged", other.what, other.digest);
        }
    }
    Ok(())
}

fn flip(rng: &mut Rng, path: &Path) -> std::io::Result<(u64, u32)> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let offset = rng.u64(..file.metadata()?.len());
    let bit = rng.u32(..8);
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    file.write_all_at(&[byte[0] ^ (1 << bit)], offset)?;
    Ok((offset, bit))
}

fn zero_chunk(store: &Path, manifest: &Digest, rng: &mut Rng) -> Result<()> {
    let (parsed, table) = read_blob_table(store, manifest)?;
    let table = BlobTable::parse(&table, parsed.inode_count).map_err(Error::format(store))?;
    let packs: Vec<PackRecord> = table.packs.iter().collect();
    let pack = &packs[rng.usize(..packs.len())];
    let index = read(store, &pack.index_digest)?;
    let index = PackIndex::parse(&index, pack).map_err(Error::format(store))?;
    let number = rng.u32(..pack.chunk_count);
    let chunk = index.chunk(number).map_err(Error::format(store))?;
    let path = blob_path(store, &pack.digest);
    let zeros = vec![0; chunk.stored_length as usize];
    OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|file| file.write_all_at(&zeros, chunk.stored_offset.into()))
        .map_err(Error::io("change", &path))?;
    println!("pack {} chunk {number} zeros", pack.digest);
    Ok(())
}

/// Adds a manifest to the store that is not usable.
pub(crate) fn forge(store: &Path, manifest: &Digest, kind: Forgery) -> Result<()> {
    let bytes = read(store, manifest)?;
    let forged = match kind {
        Forgery::Version => rebuild(&bytes, |root| root.set_format_version(1000))?,
        Forgery::Feature => rebuild(&bytes, |root| root.set_incompatible_features(1 << 63))?,
        Forgery::Half => bytes[..bytes.len() / 2].to_vec(),
        Forgery::Empty => Vec::new(),
        Forgery::Noise => {
            let mut noise = vec![0; 5000];
            Rng::with_seed(5).fill(&mut noise);
            noise
        }
    };
    let digest = Digest(<Sha256 as sha2::Digest>::digest(&forged).into());
    let path = blob_path(store, &digest);
    File::create(&path)
        .and_then(|file| file.write_all_at(&forged, 0))
        .map_err(Error::io("write", &path))?;
    println!("{digest}");
    Ok(())
}

fn rebuild(
    manifest: &[u8],
    change: impl FnOnce(&mut peerfs_capnp::manifest::Builder<'_>),
) -> Result<Vec<u8>> {
    let malformed = |error: capnp::Error| Error::Finding(format!("the manifest: {error}"));
    let message =
        capnp::serialize::read_message(manifest, ReaderOptions::new()).map_err(malformed)?;
    let root: peerfs_capnp::manifest::Reader<'_> = message.get_root().map_err(malformed)?;
    let mut builder = capnp::message::Builder::new_default();
    builder.set_root(root).map_err(malformed)?;
    let mut root = builder.get_root().map_err(malformed)?;
    change(&mut root);
    Ok(capnp::serialize::write_message_to_words(&builder))
}
