// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What peers have that are followed, as they say, and what of it is to be passed on.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use peerfs_exchange::scheduler::ContentId;
use peerfs_exchange::{ChunkMap, Have};
use tokio::sync::Notify;

use super::{News, SourceId};

/// Runs of chunks that wait to be passed on; beyond it all that a source has is.
const RUNS_MAX: usize = 256;

/// What is known. Whoever takes the news late gets fewer of them, which say as much: so it is bounded by what there
/// is to know.
#[derive(Default)]
pub(super) struct Board {
    notes: Mutex<Notes>,
    changed: Notify,
}

#[derive(Default)]
struct Notes {
    known: BTreeMap<(ContentId, SourceId), Have>,
    untold: BTreeMap<(ContentId, SourceId), Untold>,
    gone: BTreeSet<SourceId>,
    measured: BTreeMap<SourceId, Duration>,
}

/// What of it was not passed on.
enum Untold {
    All,
    Runs(Vec<Range<u32>>),
}

impl Board {
    /// A source has so much of a content.
    pub(super) fn has(&self, content: ContentId, source: SourceId, have: Have) {
        let mut notes = self.lock();
        let key = (content, source);
        match have {
            Have::Absent => notes.known.remove(&key),
            have => notes.known.insert(key, have),
        };
        notes.untold.insert(key, Untold::All);
        self.changed.notify_one();
    }

    /// A source has got more chunks of a content with so many.
    pub(super) fn gained(
        &self,
        content: ContentId,
        source: SourceId,
        chunk_count: u32,
        runs: &[Range<u32>],
    ) {
        let mut notes = self.lock();
        let key = (content, source);
        let is_first = !notes.known.contains_key(&key);
        let known = notes.known.entry(key).or_insert_with(|| {
            let bits = vec![0; chunk_count.div_ceil(8) as usize];
            ChunkMap::new(chunk_count, bits.into()).map_or(Have::Absent, Have::Partial)
        });
        if let Have::Partial(map) = known {
            map.insert(runs);
        }
        let first = match is_first {
            true => Untold::All,
            false => Untold::Runs(Vec::new()),
        };
        let untold = notes.untold.entry(key).or_insert(first);
        match untold {
            Untold::Runs(waiting) if waiting.len() + runs.len() <= RUNS_MAX => {
                waiting.extend_from_slice(runs);
            }
            untold => *untold = Untold::All,
        }
        self.changed.notify_one();
    }

    /// Passes on once more what is known of a content: somebody wants it now.
    pub(super) fn repeat(&self, content: ContentId) {
        let mut notes = self.lock();
        let sources: Vec<SourceId> = notes.of(content).collect();
        for source in sources {
            notes.untold.insert((content, source), Untold::All);
        }
        self.changed.notify_one();
    }

    /// Forgets what a source has of these contents: nobody hears of it any more.
    pub(super) fn forget(&self, source: SourceId, contents: impl IntoIterator<Item = ContentId>) {
        let mut notes = self.lock();
        for content in contents {
            notes.known.remove(&(content, source));
            notes.untold.remove(&(content, source));
        }
    }

    /// A source can't be reached any more.
    pub(super) fn gone(&self, source: SourceId) {
        self.lock().gone.insert(source);
        self.changed.notify_one();
    }

    /// A packet to a source and back took so long.
    pub(super) fn measured(&self, source: SourceId, round_trip: Duration) {
        self.lock().measured.insert(source, round_trip);
        self.changed.notify_one();
    }

    /// The next thing to pass on, when there is one.
    pub(super) async fn next(&self) -> News {
        loop {
            if let Some(news) = self.lock().next() {
                return news;
            }
            self.changed.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Notes> {
        // Notes are valid after every step.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Notes {
    /// The sources that have something of a content.
    fn of(&self, content: ContentId) -> impl Iterator<Item = SourceId> + '_ {
        let known = self.known.range((content, SourceId::FIRST)..);
        known
            .take_while(move |((other, _), _)| *other == content)
            .map(|((_, source), _)| *source)
    }

    fn next(&mut self) -> Option<News> {
        // Before what it says when it is there again.
        if let Some(source) = self.gone.pop_first() {
            return Some(News::Gone(source));
        }
        if let Some((source, round_trip)) = self.measured.pop_first() {
            return Some(News::Measured(source, round_trip));
        }
        let (key, untold) = self.untold.pop_first()?;
        let (content, source) = key;
        Some(match untold {
            Untold::All => {
                let have = self.known.get(&key).cloned().unwrap_or(Have::Absent);
                News::Has(content, source, have)
            }
            Untold::Runs(runs) => News::Gained(content, source, runs),
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use peerfs_format::Digest;

    use super::*;

    fn taken(board: &Board) -> Vec<News> {
        std::iter::from_fn(|| board.next().now_or_never()).collect()
    }

    fn only(chunk: u32) -> Range<u32> {
        chunk..chunk + 1
    }

    fn map(chunks: &[u32]) -> Have {
        let mut map = ChunkMap::new(2000, vec![0; 250].into()).unwrap();
        for chunk in chunks {
            map.insert(&[only(*chunk)]);
        }
        Have::Partial(map)
    }

    #[test]
    fn what_is_taken_late_is_less_and_says_as_much() {
        let board = Board::default();
        let content = ContentId::Blob(Digest([1; 32]));
        let (first, second) = (SourceId::FIRST, SourceId::FIRST.next());
        board.gained(content, first, 2000, &[only(3)]);
        board.has(content, second, Have::Complete);
        let all = |source, have| News::Has(content, source, have);
        let told = [all(first, map(&[3])), all(second, Have::Complete)];
        assert_eq!(taken(&board), told);

        board.gained(content, first, 2000, &[only(5)]);
        board.gained(content, first, 2000, &[only(7)]);
        let runs = vec![5..6, 7..8];
        assert_eq!(taken(&board), [News::Gained(content, first, runs)]);
        // Too many to be worth a list.
        (0..1000).for_each(|chunk| board.gained(content, first, 2000, &[only(2 * chunk)]));
        let even: Vec<u32> = (0..1000).map(|chunk| 2 * chunk).chain([3, 5, 7]).collect();
        assert_eq!(taken(&board), [all(first, map(&even))]);

        board.repeat(content);
        let told = [all(first, map(&even)), all(second, Have::Complete)];
        assert_eq!(taken(&board), told);
        board.has(content, first, Have::Absent);
        board.forget(second, [content]);
        board.gone(second);
        board.repeat(content);
        let told = [News::Gone(second), all(first, Have::Absent)];
        assert_eq!(taken(&board), told);
    }
}
