// SPDX-License-Identifier: GPL-2.0 OR MIT

//! When chunks were used last, and which of them go first.

use std::collections::HashMap;

use peerfs_format::{ChunkRecord, Digest, Record, METADATA_MAX};

/// Chunks whose use is remembered: 16 MiB of memory, and some 256 GiB of chunks.
const CHUNKS_MAX: usize = 4 * 1024 * 1024;
/// Chunks that a pack has at the most: as many as an index can list.
const PACK_CHUNKS_MAX: u32 = (METADATA_MAX / ChunkRecord::SIZE as u64) as u32;

/// How much of what a cache may take is left when it had to be made smaller: nine tenths, so that it need not be again at
/// once.
const LOW_WATERMARK: (u64, u64) = (9, 10);

/// When chunks of packs were used, as far as somebody has said so. It is a hint, in memory alone: a pack that is not
/// remembered counts as used when its files were.
#[derive(Clone, Debug, Default)]
pub struct Recency {
    /// Of each chunk the second in which it was used last; 0 if that is not known. By the digests of pack and index.
    packs: HashMap<(Digest, Digest), Vec<u32>>,
    /// Chunks of all of them.
    chunks: usize,
}

impl Recency {
    /// A chunk was used, `now` seconds after some moment that is the same for all, at least one.
    pub fn used(&mut self, pack: &Digest, index: &Digest, chunk: u32, now: u32) {
        if chunk >= PACK_CHUNKS_MAX {
            return;
        }
        let known = self.packs.entry((*pack, *index)).or_default();
        let place = chunk as usize;
        if known.len() <= place {
            self.chunks += place + 1 - known.len();
            known.resize(place + 1, 0);
        }
        if let Some(last) = known.get_mut(place) {
            *last = now.max(*last);
        }
        while self.chunks > CHUNKS_MAX && self.packs.len() > 1 {
            self.forget_oldest();
        }
    }

    /// When a chunk was used last; 0 if that is not known.
    pub fn last_used(&self, pack: &Digest, index: &Digest, chunk: u32) -> u32 {
        let known = self.packs.get(&(*pack, *index));
        let last = known.and_then(|known| known.get(chunk as usize));
        last.copied().unwrap_or_default()
    }

    /// Forgets the pack of which nothing was used for the longest time.
    fn forget_oldest(&mut self) {
        let newest = |known: &Vec<u32>| known.iter().copied().max();
        let oldest = self.packs.iter().min_by_key(|(_, known)| newest(known));
        if let Some(known) = oldest
            .map(|(pack, _)| *pack)
            .and_then(|pack| self.packs.remove(&pack))
        {
            self.chunks -= known.len();
        }
    }
}

/// When something was used last: what is known of the chunk comes before what is known of the pack's files.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct LastUse {
    /// As [`Recency`] has it.
    pub(super) chunk: u32,
    /// The newest time of the pack's files: seconds and nanoseconds.
    pub(super) files: (i64, i64),
}

/// A place in a data file, which has a number here.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct CachedPlace {
    pub(super) file: usize,
    pub(super) offset: u64,
}

/// A chunk that can be fetched again, where it lies: it is one for all packs that have it there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct CachedChunk {
    pub(super) place: CachedPlace,
    pub(super) bytes: u64,
    pub(super) last_used: LastUse,
}

/// The chunks that go so that nine tenths of `cache_max` bytes are left: those that were not used for the longest time. None
/// if all do not take more than `cache_max`. Of those that were used at the same time neighbours go together, since less than
/// a block of a file is not free.
pub(super) fn least_recently_used(
    mut chunks: Vec<CachedChunk>,
    cache_max: u64,
) -> Vec<CachedChunk> {
    let (part, whole) = LOW_WATERMARK;
    let low = cache_max / whole * part;
    let mut left: u64 = chunks.iter().map(|chunk| chunk.bytes).sum();
    if left <= cache_max {
        return Vec::new();
    }
    chunks.sort_unstable_by_key(|chunk| (chunk.last_used, chunk.place));
    let count = chunks.iter().take_while(|chunk| {
        let goes = left > low;
        left = left.saturating_sub(chunk.bytes);
        goes
    });
    let count = count.count();
    chunks.truncate(count);
    chunks
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn digest(number: u16) -> Digest {
        let mut digest = Digest::default();
        digest.0[..2].copy_from_slice(&number.to_le_bytes());
        digest
    }

    fn cached() -> impl Strategy<Value = Vec<CachedChunk>> {
        let chunk = (1..300_000_u64, 0..4_u32, 0..3_i64, 0..3_usize);
        vec(chunk, 0..60).prop_map(|chunks| {
            let chunks = (0..).zip(chunks);
            let chunks = chunks.map(|(number, (bytes, chunk, seconds, file))| CachedChunk {
                place: CachedPlace {
                    file,
                    offset: number * 300_000,
                },
                bytes,
                last_used: LastUse {
                    chunk,
                    files: (seconds, 0),
                },
            });
            chunks.collect()
        })
    }

    fn bytes(chunks: &[CachedChunk]) -> u64 {
        chunks.iter().map(|chunk| chunk.bytes).sum()
    }

    proptest! {
        #[test]
        fn as_little_goes_as_has_to_and_what_was_used_last_stays(
            chunks in cached(), cache_max in 0..10_000_000_u64,
        ) {
            let going = least_recently_used(chunks.clone(), cache_max);
            let low = cache_max / 10 * 9;
            let left = bytes(&chunks) - bytes(&going);
            if bytes(&chunks) <= cache_max {
                prop_assert!(going.is_empty());
                return Ok(());
            }
            prop_assert!(left <= low);
            let last = going.last().unwrap();
            prop_assert!(left + last.bytes > low);
            for chunk in &chunks {
                let goes = going.contains(chunk);
                prop_assert!(goes || chunk.last_used >= last.last_used);
                // The order in which they are found says nothing.
                prop_assert!(goes == (
                    (chunk.last_used, chunk.place) <= (last.last_used, last.place)
                ));
            }
        }

        #[test]
        fn the_last_use_is_known_whatever_the_order(uses in vec((0..3_u16, 0..20_u32, 1..9_u32), 0..60)) {
            let mut recency = Recency::default();
            let mut expected = HashMap::new();
            for (pack, chunk, now) in uses {
                recency.used(&digest(pack), &digest(9), chunk, now);
                let last = expected.entry((pack, chunk)).or_insert(0);
                *last = now.max(*last);
            }
            for pack in 0..3 {
                for chunk in 0..20 {
                    let last = expected.get(&(pack, chunk)).copied().unwrap_or_default();
                    prop_assert_eq!(recency.last_used(&digest(pack), &digest(9), chunk), last);
                    prop_assert_eq!(recency.last_used(&digest(pack), &digest(8), chunk), 0);
                }
            }
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_was_used_first_is_forgotten() {
        let mut recency = Recency::default();
        let last = PACK_CHUNKS_MAX - 1;
        recency.used(&digest(0), &digest(0), u32::MAX, 1);
        assert_eq!(recency.chunks, 0);
        let packs = (CHUNKS_MAX as u32 / PACK_CHUNKS_MAX) as u16 + 3;
        for pack in 0..packs {
            recency.used(&digest(pack), &digest(0), last, u32::from(pack) + 1);
        }
        assert!(recency.chunks <= CHUNKS_MAX && recency.packs.len() > 2);
        assert_eq!(recency.last_used(&digest(0), &digest(0), last), 0);
        let newest = packs - 1;
        let known = recency.last_used(&digest(newest), &digest(0), last);
        assert_eq!(known, u32::from(newest) + 1);
    }
}
