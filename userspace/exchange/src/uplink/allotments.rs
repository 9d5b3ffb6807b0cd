// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Which chunks a node that has all of a pack suggests to those who fetch it: to each others, so that one copy leaves a
//! seed before a second, whoever knows of whom.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::time::{Duration, Instant};

use lru::LruCache;
use peerfs_format::Digest;

use crate::limits::SUGGESTED_MAX;
use crate::{ChunkMap, Suggestion};

/// The packs that are remembered; of the longest one that is 128 KiB.
const PACKS_MAX: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not 0");
/// What was suggested and not sent for so long is suggested to somebody else, when all was suggested: for twice as
/// long as it took lately, within these.
const PATIENCE_MIN: Duration = Duration::from_secs(1);
const PATIENCE_MAX: Duration = Duration::from_secs(8);
/// The suggestions of which it is noted how long it takes until they are sent.
const TIMED_MAX: usize = 64;
/// What nobody fetched for so long is suggested anew to whoever comes then.
const FORGOTTEN: Duration = Duration::from_secs(60);
const BITS: u32 = u64::BITS;

/// What was suggested of each pack. Made with a number that differs from node to node, so that two seeds begin at different
/// places.
pub struct Allotments {
    packs: LruCache<Digest, Allotment>,
    place: u64,
}

struct Allotment {
    chunks: u32,
    /// A bit for each chunk that was sent.
    sent: Vec<u64>,
    /// Those that were not.
    unsent: u32,
    /// The chunk that is suggested next, and the chunks up to the round's end.
    next: u32,
    left: u32,
    /// What was suggested last, and when.
    timed: VecDeque<(u32, Instant)>,
    /// The longest that it took lately from a suggestion to its sending.
    took: Duration,
    /// When something was suggested last, and when the pack was asked about or sent of.
    suggested: Instant,
    used: Instant,
}

impl Allotments {
    /// Nothing was suggested yet.
    pub fn new(place: u64) -> Self {
        Allotments {
            packs: LruCache::new(PACKS_MAX),
            place,
        }
    }

    /// What to fetch next of a pack of so many chunks: `count` chunks at most.
    pub fn suggest(
        &mut self,
        pack: &Digest,
        chunks: u32,
        count: usize,
        now: Instant,
    ) -> Suggestion {
        let chunks = chunks.min(ChunkMap::CHUNKS_MAX);
        let place = self.place;
        let anew = || Allotment::new(chunks, place, now);
        let allotment = self.packs.get_or_insert_mut(*pack, anew);
        let is_forgotten = now.saturating_duration_since(allotment.used) > FORGOTTEN;
        if is_forgotten || allotment.chunks != chunks {
            *allotment = anew();
        }
        allotment.used = now;
        allotment.suggest(count.min(SUGGESTED_MAX), now)
    }

    /// A chunk is sent to somebody.
    pub fn sent(&mut self, pack: &Digest, number: u32, now: Instant) {
        if let Some(allotment) = self.packs.peek_mut(pack) {
            allotment.used = now;
            allotment.sent(number, now);
        }
    }
}

impl Allotment {
    fn new(chunks: u32, place: u64, now: Instant) -> Self {
        Allotment {
            chunks,
            sent: vec![0; chunks.div_ceil(BITS) as usize],
            unsent: chunks,
            next: u32::try_from(place % u64::from(chunks.max(1))).unwrap_or(0),
            left: chunks,
            timed: VecDeque::new(),
            took: Duration::ZERO,
            suggested: now,
            used: now,
        }
    }

    fn sent(&mut self, number: u32, now: Instant) {
        if number >= self.chunks {
            return;
        }
        let place = self.timed.iter().position(|(timed, _)| *timed == number);
        if let Some((_, suggested)) = place.and_then(|place| self.timed.remove(place)) {
            let took = now.saturating_duration_since(suggested);
            self.took = took.max(self.took * 7 / 8);
        }
        if let Some(word) = self.sent.get_mut((number / BITS) as usize) {
            let bit = 1 << (number % BITS);
            self.unsent -= u32::from(*word & bit == 0);
            *word |= bit;
        }
    }

    fn is_sent(&self, number: u32) -> bool {
        let word = self.sent.get((number / BITS) as usize);
        word.is_some_and(|word| word & (1 << (number % BITS)) != 0)
    }

    fn suggest(&mut self, count: usize, now: Instant) -> Suggestion {
        let mut numbers = self.take(count);
        if numbers.is_empty() {
            if self.unsent == 0 {
                return Suggestion::Any;
            }
            let again = self.suggested + (2 * self.took).clamp(PATIENCE_MIN, PATIENCE_MAX);
            if now < again {
                return Suggestion::Later(again - now);
            }
            self.left = self.chunks;
            self.timed.clear();
            numbers = self.take(count);
        }
        self.suggested = now;
        let room = TIMED_MAX.saturating_sub(self.timed.len());
        let timed = numbers.iter().take(room);
        self.timed.extend(timed.map(|&number| (number, now)));
        numbers.sort_unstable();
        let mut runs: Vec<Range<u32>> = Vec::new();
        for number in numbers {
            match runs.last_mut() {
                Some(run) if run.end == number => run.end += 1,
                _ => runs.push(number..number + 1),
            }
        }
        Suggestion::Chunks(runs)
    }

    /// The next chunks of this round that were not sent. A round costs as much as there are chunks, and no more.
    fn take(&mut self, count: usize) -> Vec<u32> {
        let mut taken = Vec::new();
        while taken.len() < count && self.left > 0 {
            let number = self.next;
            self.left -= 1;
            self.next = if number + 1 < self.chunks {
                number + 1
            } else {
                0
            };
            if !self.is_sent(number) {
                taken.push(number);
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACK: Digest = Digest([1; 32]);
    const SECOND: Duration = Duration::from_secs(1);

    fn numbers(suggestion: Suggestion) -> Vec<u32> {
        match suggestion {
            Suggestion::Chunks(runs) => runs.into_iter().flatten().collect(),
            Suggestion::Later(_) | Suggestion::Any => Vec::new(),
        }
    }

    #[test]
    fn each_chunk_is_suggested_once_and_again_when_it_is_not_sent() {
        let (mut allotments, mut now) = (Allotments::new(90), Instant::now());
        let mut suggested = Vec::new();
        for _ in 0..10 {
            suggested.extend(numbers(allotments.suggest(&PACK, 100, 10, now)));
        }
        suggested.sort_unstable();
        assert_eq!(suggested, Vec::from_iter(0..100));
        for number in (0..100).filter(|number| number % 50 != 7) {
            allotments.sent(&PACK, number, now);
        }
        let later = allotments.suggest(&PACK, 100, 10, now);
        assert!(
            matches!(later, Suggestion::Later(after) if after <= SECOND),
            "{later:?}"
        );
        now += SECOND;
        assert_eq!(
            allotments.suggest(&PACK, 100, 10, now),
            Suggestion::Chunks(vec![7..8, 57..58])
        );
        for number in [7, 57, 100, u32::MAX] {
            allotments.sent(&PACK, number, now);
        }
        assert_eq!(allotments.suggest(&PACK, 100, 10, now), Suggestion::Any);
        // Who comes much later finds nobody to share with who was there then.
        now += 100 * SECOND;
        assert_eq!(numbers(allotments.suggest(&PACK, 100, 200, now)).len(), 100);
    }

    #[test]
    fn what_is_asked_is_bounded() {
        let (mut allotments, now) = (Allotments::new(u64::MAX), Instant::now());
        let many = numbers(allotments.suggest(&PACK, u32::MAX, usize::MAX, now));
        assert_eq!(many.len(), SUGGESTED_MAX);
        assert!(many.iter().all(|&number| number < ChunkMap::CHUNKS_MAX));
        assert_eq!(allotments.suggest(&PACK, 0, 1, now), Suggestion::Any);
        for pack in 0..=255 {
            allotments.suggest(&Digest([pack; 32]), 1, 1, now);
        }
        assert_eq!(allotments.packs.len(), PACKS_MAX.get());
    }
}
