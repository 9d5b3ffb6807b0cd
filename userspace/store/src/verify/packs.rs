// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Checking that chunks are what the index of their pack says.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use peerfs_format::{ChunkRecord, Codec, Digest, Iv, PackIndexLayout, Table};
use peerfs_realm::RealmKey;
use peerfs_text::Causes;

use super::tree::are_reserved_bytes_zero;
use super::VerifyProgress;
use crate::chunk::decode;
use crate::{sha256, Error, Pack};

/// A problem with a pack.
pub(super) enum PackProblem {
    /// Something in the index.
    Index(String),
    /// Something in the contents.
    Contents(String),
    /// So many chunks do not have their digests, or do not decode.
    Chunks(u32),
}

/// The digest of what a chunk's stored bytes decode to, which have the digest that the record says, as the contents of
/// packs have it.
fn content_digest(
    record: &ChunkRecord,
    stored: Vec<u8>,
    key: Option<(&RealmKey, Iv)>,
) -> Option<Digest> {
    let digest = match record.codec()? {
        // They are the content.
        Codec::Raw if key.is_none() => record.digest,
        _ => sha256(&decode(record, stored, key)?),
    };
    Some(key.map_or(digest, |(key, _)| key.hide(&digest)))
}

/// Reads and decodes all chunks of a pack that are there, on all processors, and compares them with the pack's
/// `contents`, if these are there. What is encrypted is only read, unless there is a key.
pub(super) fn check_chunks(
    pack: &Pack,
    key: Option<&RealmKey>,
    contents: Option<&Table<'_, Digest>>,
    progress: &VerifyProgress,
) -> Result<(), PackProblem> {
    let error = |error| {
        PackProblem::Index(Causes(&Error::format(pack.record().index_digest)(error)).to_string())
    };
    let layout = PackIndexLayout::parse(pack.index(), pack.record()).map_err(error)?;
    let index = layout.view(pack.index());
    if !are_reserved_bytes_zero(&index.chunks) {
        let problem = "a chunk record's reserved bytes are not zero";
        return Err(PackProblem::Index(problem.to_owned()));
    }
    progress
        .total_bytes
        .fetch_add(pack.present_bytes(), Ordering::Relaxed);
    let is_readable = !index.is_encrypted() || key.is_some();
    let contents = contents.filter(|_| is_readable);
    let next = AtomicU32::new(0);
    let bad = AtomicU32::new(0);
    let is_other_content = AtomicBool::new(false);
    let check = || loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= pack.record().chunk_count {
            return;
        }
        let key = key.zip(index.iv(number));
        let digest = match (pack.read_chunk(number), pack.chunk(number)) {
            (Ok(None), _) => continue,
            (Ok(Some(stored)), Ok(record)) => {
                let length = stored.len() as u64;
                progress.read_bytes.fetch_add(length, Ordering::Relaxed);
                match is_readable {
                    true => content_digest(&record, stored, key),
                    false => Some(record.digest),
                }
            }
            _ => None,
        };
        if digest.is_none() {
            bad.fetch_add(1, Ordering::Relaxed);
        } else if contents.is_some_and(|contents| contents.get(number as usize) != digest) {
            is_other_content.store(true, Ordering::Relaxed);
        }
    };
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    thread::scope(|scope| {
        for _ in 1..threads.min(pack.record().chunk_count as usize) {
            // One that can't be had is done without.
            let _ = thread::Builder::new().spawn_scoped(scope, check);
        }
        check();
    });
    match bad.into_inner() {
        0 if is_other_content.into_inner() => {
            let problem = "a content digest is not that of its chunk";
            Err(PackProblem::Contents(problem.to_owned()))
        }
        0 => Ok(()),
        count => Err(PackProblem::Chunks(count)),
    }
}
