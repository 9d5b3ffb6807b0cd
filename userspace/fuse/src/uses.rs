// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Which chunks were read, until the daemon is told: it keeps what is used, and gives up what is not.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use peerfs_control::FetchLine;
use peerfs_format::{Digest, PackRecord};

/// How often the daemon is told: as often as it asks the kernel.
pub(crate) const INTERVAL: Duration = Duration::from_secs(5);
/// Chunks that are noted between two times, as many as are told at once; of more nothing is said. They take some MiB.
const NOTED_MAX: usize = 65_536;

/// Chunks that were read, of one mount.
#[derive(Clone, Default)]
pub(crate) struct Uses(Arc<Mutex<Noted>>);

#[derive(Default)]
struct Noted {
    /// By the digests of pack and index.
    packs: HashMap<(Digest, Digest), BTreeSet<u32>>,
    /// Chunks of all of them.
    count: usize,
}

impl Uses {
    /// A chunk of a pack was read.
    pub(crate) fn note(&self, pack: &PackRecord, chunk: u32) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.count < NOTED_MAX {
            let chunks = noted.packs.entry((pack.digest, pack.index_digest));
            let is_new = chunks.or_default().insert(chunk);
            noted.count += usize::from(is_new);
        }
    }

    /// What is to be told, and is forgotten here.
    pub(crate) fn take(&self) -> Vec<FetchLine> {
        let noted = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let mut lines = Vec::new();
        for ((pack, index), chunks) in noted.packs {
            for runs in runs(chunks).chunks(FetchLine::USED_RUNS_MAX) {
                lines.push(FetchLine::Used {
                    pack: pack.to_string(),
                    index: index.to_string(),
                    runs: runs.to_vec(),
                });
            }
        }
        lines
    }
}

/// The first number of each run, and how many it has.
fn runs(numbers: BTreeSet<u32>) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((first, count)) if number - *first == *count => *count += 1,
            _ => runs.push((number, 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use peerfs_control::REQUEST_MAX;
    use proptest::prelude::*;

    use super::*;

    fn pack(number: u8) -> PackRecord {
        PackRecord {
            digest: Digest([number; 32]),
            index_digest: Digest([9; 32]),
            contents_digest: Digest([0; 32]),
            stored_length: 0,
            logical_length: 0,
            index_length: 0,
            chunk_count: 0,
        }
    }

    proptest! {
        #[test]
        fn what_was_read_is_told_once_in_lines_that_are_taken(
            mut reads: Vec<(bool, u32)>, lone in 0..1000_u32,
        ) {
            let uses = Uses::default();
            reads.extend((0..lone).map(|number| (true, u32::MAX - 2 * number)));
            for &(first, chunk) in &reads {
                uses.note(&pack(first.into()), chunk);
            }
            let mut told = Vec::new();
            for line in uses.take() {
                prop_assert!((serde_json::to_vec(&line).unwrap().len() as u64) < REQUEST_MAX);
                let FetchLine::Used { pack, runs, .. } = line else {
                    panic!("{line:?}");
                };
                let is_first = pack == Digest([1; 32]).to_string();
                for (first, count) in runs {
                    told.extend((0..count).map(|place| (is_first, first + place)));
                }
            }
            reads.sort_unstable();
            reads.dedup();
            told.sort_unstable();
            prop_assert_eq!(told, reads);
            prop_assert!(uses.take().is_empty());
        }
    }

    #[test]
    fn what_is_noted_is_bounded() {
        let uses = Uses::default();
        for chunk in 0..NOTED_MAX as u32 + 9 {
            uses.note(&pack(1), chunk);
        }
        let whole = vec![(0, NOTED_MAX as u32)];
        assert!(matches!(&uses.take()[..], [FetchLine::Used { runs, .. }] if *runs == whole));
    }
}
