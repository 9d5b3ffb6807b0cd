// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A seed says what it is to be asked for.

use super::*;
use crate::Suggestion;

const MS: Duration = Duration::from_millis(1);
const MANY: u32 = 256;

fn chunks(runs: &[std::ops::Range<u32>]) -> Suggestion {
    Suggestion::Chunks(runs.to_vec())
}

fn parts(numbers: impl IntoIterator<Item = u32>) -> Vec<Part> {
    numbers.into_iter().map(Part::Chunk).collect()
}

impl Bench {
    /// Many chunks are wanted that nobody has but a seed, which was asked what to ask for and has brought what it was
    /// asked for meanwhile.
    fn with_seed() -> Self {
        let mut bench = Bench::new(Limits::default());
        bench.scheduler.identify("seed", 7);
        bench.chunks(PACK, 0..MANY, Priority::Background);
        bench.scheduler.offer(PACK, "seed", Have::Complete);
        bench.poll();
        assert_eq!(bench.consulted.len(), 1, "asked what to ask for");
        bench
    }

    fn suggested(&mut self, suggestion: Suggestion) {
        let now = self.now;
        self.scheduler.suggested(PACK, "seed", suggestion, now);
        self.poll();
    }
}

#[test]
fn a_seed_is_asked_for_what_it_suggests_and_nobody_else_has_by_then() {
    let mut bench = Bench::with_seed();
    // One, so that the time to it and back is not lost.
    assert_eq!(bench.asked("seed").len(), 1);
    let first = bench.deliver("seed");
    assert!(first.len() <= 2, "no more without its word: {first:?}");
    bench.scheduler.identify("other", 8);
    let now = bench.now;
    bench
        .scheduler
        .gained(PACK, "other", std::slice::from_ref(&(101..102)), now);
    bench.suggested(chunks(&[100..103, 200..201]));
    let brought: BTreeSet<Part> = bench.deliver("seed").into_iter().collect();
    let expected = parts([100, 102, 200]).into_iter();
    let expected = expected.filter(|part| !first.contains(part));
    assert!(brought.is_subset(&expected.collect()), "{brought:?}");
    assert!(brought.len() >= 2, "{brought:?}");
    assert!(bench.consulted.len() >= 2, "asked for more in time");
    assert_eq!(bench.asked("seed"), []);
}

/// Who has what is looked for again every few seconds, and a seed says again that it has all. It suggests those chunks to nobody
/// else for seconds: forgotten here, they would not be sent, and all would wait.
#[test]
fn what_a_seed_has_suggested_is_asked_for_although_it_is_found_again() {
    let mut bench = Bench::with_seed();
    let first = bench.deliver("seed");
    bench.suggested(chunks(&[100..139, 139..140]));
    let consulted = bench.consulted.len();
    bench.scheduler.offer(PACK, "seed", Have::Complete);
    bench.poll();
    assert_eq!(bench.consulted.len(), consulted);
    let brought = bench.deliver("seed");
    let expected = parts(100..140).into_iter();
    let expected: Vec<Part> = expected.filter(|part| !first.contains(part)).collect();
    assert_eq!(brought[..expected.len()], expected);
}

#[test]
fn what_a_seed_has_suggested_is_asked_for_again_when_it_did_not_come() {
    for end in [
        End::Failed,
        End::Busy {
            retry_after: 100 * MS,
        },
    ] {
        let mut bench = Bench::with_seed();
        bench.deliver("seed");
        bench.suggested(chunks(&[100..101, 120..121]));
        let asked = bench.asked("seed");
        assert!(!asked.is_empty());
        bench.suggested(Suggestion::Later(Duration::from_secs(8)));
        for (transfer, ..) in std::mem::take(&mut bench.running) {
            bench.scheduler.ended(transfer, end, bench.now);
        }
        bench.wait(Duration::from_secs(1));
        let again = bench.deliver("seed");
        assert!(asked.iter().all(|part| again.contains(part)), "{again:?}");
    }
}

/// As long as others are being sent what is left, nothing of it is asked for; but not for ever.
#[test]
fn what_a_seed_has_suggested_to_others_is_left_to_them_for_a_while() {
    let mut bench = Bench::with_seed();
    bench.deliver("seed");
    let begun = bench.now;
    bench.suggested(Suggestion::Later(500 * MS));
    let mut waited = bench.consulted.len();
    while bench.asked("seed").is_empty() {
        assert!(bench.now - begun < Duration::from_secs(10));
        bench.wait(100 * MS);
        if bench.consulted.len() > waited {
            waited = bench.consulted.len();
            bench.suggested(Suggestion::Later(500 * MS));
        }
    }
    assert!(bench.now - begun >= Duration::from_secs(2));
    assert!(waited >= 4, "asked {waited} times");
}

#[test]
fn a_seed_that_suggests_nothing_is_asked_for_anything() {
    // It does not know the question; it has nothing to say; it names what is not wanted; it does not answer.
    for answer in [
        Some(Suggestion::Any),
        Some(chunks(&[1000..1004, 1010..1011])),
        Some(chunks(&[4_000_000..4_000_001, 4_000_003..4_000_004])),
        None,
    ] {
        let mut bench = Bench::with_seed();
        bench.deliver("seed");
        match answer {
            Some(answer) => bench.suggested(answer),
            None => bench.wait(10_000 * MS),
        }
        let brought = bench.deliver("seed");
        assert!(brought.len() as u32 > MANY - 8, "{}", brought.len());
        assert!(bench.consulted.len() <= 2, "{:?}", bench.consulted);
    }
}

/// Neither an origin nor who has not all is asked what to ask for.
#[test]
fn only_seeds_suggest() {
    let mut bench = Bench::new(Limits::default());
    bench.scheduler.classify("origin", Class::Origin);
    bench.chunks(PACK, 0..MANY, Priority::Background);
    bench.scheduler.identify("some", 8);
    bench.scheduler.offer(PACK, "origin", Have::Complete);
    let now = bench.now;
    bench
        .scheduler
        .gained(PACK, "some", std::slice::from_ref(&(0..9)), now);
    bench.poll();
    assert_eq!(bench.consulted, []);
    assert!(!bench.asked("some").is_empty());
}
