// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A trace, and how it is written down. The format is in `Documentation/traces.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use peerfs_format::upcall::Workload;
use peerfs_format::Digest;

/// The steps of a trace, at most.
pub const STEPS_MAX: usize = 16 * 1024;
/// The bytes of a trace that is written down, at most.
pub const TRACE_MAX: u64 = (HEADER + STEPS_MAX * STEP) as u64;

const MAGIC: [u8; 8] = *b"PRFSTRC\x01";
/// Magic, image, workload, number of steps, zeros.
const HEADER: usize = 80;
const STEP: usize = 16;
/// The latest that can be written down.
const AFTER_MAX: Duration = Duration::from_millis(u32::MAX as u64);
/// The end of a step's chunks: more than a pack has.
const CHUNKS_MAX: u32 = 1 << 28;

/// What of an image is missed, in order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Trace {
    /// The image, by its manifest.
    pub image: Digest,
    /// What its mount was for.
    pub workload: Workload,
    /// What was missed.
    pub steps: Vec<Step>,
}

/// Something that was missed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Step {
    /// When, after the first one, in whole milliseconds.
    pub after: Duration,
    /// What.
    pub part: Part,
}

/// A part of an image, by the numbers of its blob table, so that a trace can name nothing else.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part {
    /// An inode shard.
    Shard(u32),
    /// A run of a pack's chunks, at least one.
    Chunks {
        /// The pack.
        pack: u32,
        /// The first chunk.
        first: u32,
        /// How many.
        count: u32,
    },
}

/// Why bytes are no trace.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TraceError {
    /// It does not begin as a trace does.
    #[error("it is no trace, or one of a later version of peerfs")]
    NotATrace,
    /// It ends too early, or goes on behind its end.
    #[error("it has not as many bytes as it says")]
    Length,
    /// A workload is not called so.
    #[error("the name of its workload is none")]
    Workload,
    /// A step is none.
    #[error("step {0} is not valid")]
    Step(usize),
}

/// Nothing was noted of an image.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "there is no trace of image {image} for {}; `peerfs trace list` shows those that there are",
    workload.name().map_or("no workload in particular".to_owned(), |name| format!("workload {name}"))
)]
pub struct NoTrace {
    /// The image.
    pub image: Digest,
    /// What it was to be started for.
    pub workload: Workload,
}

impl Trace {
    /// A trace of an image that has no steps.
    pub fn new(image: Digest, workload: Workload) -> Self {
        Trace {
            image,
            workload,
            steps: Vec::new(),
        }
    }

    /// Reads a trace.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, TraceError> {
        let mut reader = Reader(bytes);
        if reader.take() != Some(MAGIC) {
            return Err(TraceError::NotATrace);
        }
        let image = Digest(reader.take().ok_or(TraceError::Length)?);
        let name: [u8; Workload::SIZE] = reader.take().ok_or(TraceError::Length)?;
        let [count, reserved] = reader.words().ok_or(TraceError::Length)?;
        let count = count as usize;
        if reserved != 0 || count > STEPS_MAX || reader.0.len() != count * STEP {
            return Err(TraceError::Length);
        }
        let mut steps: Vec<Step> = Vec::with_capacity(count);
        while let Some([after, number, first, chunks]) = reader.words() {
            let after = Duration::from_millis(after.into());
            let part = match (first, chunks) {
                (0, 0) => Some(Part::Shard(number)),
                (first, 1..=CHUNKS_MAX) if first <= CHUNKS_MAX - chunks => Some(Part::Chunks {
                    pack: number,
                    first,
                    count: chunks,
                }),
                _ => None,
            };
            let is_later = steps.last().is_none_or(|last| last.after <= after);
            let part = part.filter(|_| is_later);
            let part = part.ok_or(TraceError::Step(steps.len()))?;
            steps.push(Step { after, part });
        }
        Ok(Trace {
            image,
            workload: workload(&name).ok_or(TraceError::Workload)?,
            steps,
        })
    }

    /// Writes it down.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.image.0);
        let mut name = [0; Workload::SIZE];
        for (place, byte) in name
            .iter_mut()
            .zip(self.workload.name().unwrap_or_default().bytes())
        {
            *place = byte;
        }
        bytes.extend(name);
        let steps = self.steps.iter().take(STEPS_MAX);
        let mut words = vec![steps.len() as u32, 0];
        for step in steps {
            let after = step.after.min(AFTER_MAX).as_millis() as u32;
            words.extend(match step.part {
                Part::Shard(number) => [after, number, 0, 0],
                Part::Chunks { pack, first, count } => [after, pack, first, count],
            });
        }
        bytes.extend(words.into_iter().flat_map(u32::to_le_bytes));
        bytes
    }

    /// Adds what is missed later, or on another machine: what this one has not, behind what it has. What it has stays, since
    /// what was already there is missed no more. Returns whether something was added.
    pub fn add(&mut self, newer: &Trace) -> bool {
        let mut is_more = false;
        let mut known = Known::default();
        for step in &self.steps {
            known.add(step.part);
        }
        let since = self.steps.last().map_or(Duration::ZERO, |last| last.after);
        let begins = newer.steps.first().map(|first| first.after);
        for step in &newer.steps {
            let after = since + step.after.saturating_sub(begins.unwrap_or_default());
            let after = after.min(AFTER_MAX);
            for part in known.add(step.part) {
                if self.steps.len() < STEPS_MAX {
                    is_more = true;
                    self.push(Step { after, part });
                }
            }
        }
        is_more
    }

    /// Adds a step, to the last one if it goes on there.
    fn push(&mut self, step: Step) {
        if let (
            Some(Step {
                part: Part::Chunks { pack, first, count },
                ..
            }),
            Part::Chunks {
                pack: same,
                first: next,
                count: more,
            },
        ) = (self.steps.last_mut(), step.part)
        {
            if *pack == same && *first + *count == next && *count + more <= CHUNKS_MAX {
                *count += more;
                return;
            }
        }
        self.steps.push(step);
    }

    /// The chunks that it names; how many, if some are named twice.
    pub fn chunks(&self) -> u64 {
        let counts = self.steps.iter().map(|step| match step.part {
            Part::Shard(_) => 0,
            Part::Chunks { count, .. } => u64::from(count),
        });
        counts.sum()
    }
}

/// The parts that were named.
#[derive(Default)]
struct Known {
    shards: BTreeSet<u32>,
    /// By pack and first chunk, the chunk behind the run; runs that do not touch.
    chunks: BTreeMap<(u32, u32), u32>,
}

impl Known {
    /// Adds a part; returns what of it is new, in order.
    fn add(&mut self, part: Part) -> Vec<Part> {
        let (pack, run) = match part {
            Part::Shard(number) => {
                let is_new = self.shards.insert(number);
                return if is_new { vec![part] } else { Vec::new() };
            }
            Part::Chunks { pack, first, count } => (pack, first..first.saturating_add(count)),
        };
        let new = self.gaps(pack, &run);
        self.insert(pack, run);
        let parts = new.into_iter().map(|gap| Part::Chunks {
            pack,
            first: gap.start,
            count: gap.end - gap.start,
        });
        parts.collect()
    }

    /// The runs that touch this one or overlap with it.
    fn neighbours(&self, pack: u32, run: &Range<u32>) -> Vec<Range<u32>> {
        let begins_before = self.chunks.range((pack, 0)..=(pack, run.end)).rev();
        let runs = begins_before.map(|(&(_, start), &end)| start..end);
        let mut neighbours: Vec<_> = runs.take_while(|other| other.end >= run.start).collect();
        neighbours.reverse();
        neighbours
    }

    fn gaps(&self, pack: u32, run: &Range<u32>) -> Vec<Range<u32>> {
        let (mut gaps, mut from) = (Vec::new(), run.start);
        for known in self.neighbours(pack, run) {
            if from < known.start.min(run.end) {
                gaps.push(from..known.start.min(run.end));
            }
            from = from.max(known.end);
        }
        if from < run.end {
            gaps.push(from..run.end);
        }
        gaps
    }

    fn insert(&mut self, pack: u32, mut run: Range<u32>) {
        for known in self.neighbours(pack, &run) {
            self.chunks.remove(&(pack, known.start));
            run = run.start.min(known.start)..run.end.max(known.end);
        }
        self.chunks.insert((pack, run.start), run.end);
    }
}

/// The workload of this name, padded with zeros; all zeros are none.
fn workload(padded: &[u8; Workload::SIZE]) -> Option<Workload> {
    if padded.iter().all(|byte| *byte == 0) {
        return Some(Workload::default());
    }
    let name = std::str::from_utf8(padded).ok()?.trim_end_matches('\0');
    Workload::new(name)
}

/// The bytes that were not read.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn words<const N: usize>(&mut self) -> Option<[u32; N]> {
        let mut words = [0; N];
        let mut ahead = Reader(self.0);
        for word in &mut words {
            *word = u32::from_le_bytes(ahead.take()?);
        }
        self.0 = ahead.0;
        Some(words)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IMAGE: Digest = Digest([7; 32]);

    fn trace(parts: impl IntoIterator<Item = (u64, Part)>) -> Trace {
        let workload = Workload::new("cc1").unwrap();
        let steps = parts.into_iter().map(|(after, part)| Step {
            after: Duration::from_millis(after),
            part,
        });
        Trace {
            steps: steps.collect(),
            ..Trace::new(IMAGE, workload)
        }
    }

    fn run(pack: u32, run: Range<u32>) -> Part {
        let (first, count) = (run.start, run.end - run.start);
        Part::Chunks { pack, first, count }
    }

    #[test]
    fn it_is_written_down_as_documented() {
        let one = trace([(0, Part::Shard(2)), (5, run(1, 3..5))]);
        let bytes = one.encode();
        assert_eq!(&bytes[..8], b"PRFSTRC\x01");
        assert_eq!(&bytes[40..44], b"cc1\0");
        assert_eq!(&bytes[72..80], [2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            &bytes[96..],
            [5, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0]
        );
        assert_eq!(Trace::parse(&bytes), Ok(one));
        let wrong = |place: usize, byte: u8| {
            let mut bytes = bytes.clone();
            bytes[place] = byte;
            Trace::parse(&bytes)
        };
        assert_eq!(wrong(7, 2), Err(TraceError::NotATrace));
        assert_eq!(wrong(40, b'/'), Err(TraceError::Workload));
        assert_eq!(wrong(72, 1), Err(TraceError::Length));
        assert_eq!(wrong(76, 1), Err(TraceError::Length));
        // A shard has no first chunk, a run has one at least, and time goes on.
        assert_eq!(wrong(88, 1), Err(TraceError::Step(0)));
        assert_eq!(wrong(108, 0), Err(TraceError::Step(1)));
        // What is added up would end where no pack does.
        assert_eq!(wrong(107, 0x10), Err(TraceError::Step(1)));
        assert_eq!(wrong(80, 9), Err(TraceError::Step(1)));
        for length in 0..bytes.len() {
            assert!(Trace::parse(&bytes[..length]).is_err());
        }
    }

    #[test]
    fn what_is_known_stays_and_what_is_new_comes_behind_it() {
        let mut sum = trace([(10, Part::Shard(0)), (20, run(0, 4..8))]);
        let again = sum.clone();
        assert!(!sum.add(&again));
        let newer = trace([
            (500, run(0, 2..10)),
            (600, Part::Shard(0)),
            (700, run(1, 2..3)),
            (700, run(1, 3..4)),
        ]);
        assert!(sum.add(&newer));
        // That the last run is longer is something new, too.
        assert!(sum.add(&trace([(0, run(1, 4..5))])));
        let expected = [
            (10, Part::Shard(0)),
            (20, run(0, 4..8)),
            (20, run(0, 2..4)),
            (20, run(0, 8..10)),
            (220, run(1, 2..5)),
        ];
        assert_eq!(sum, trace(expected));
    }

    #[test]
    fn no_more_steps_than_may_be() {
        let steps = (0..2 * STEPS_MAX as u32).map(|number| (0, run(0, 2 * number..2 * number + 1)));
        let many = trace(steps);
        let mut sum = Trace::new(IMAGE, Workload::default());
        assert!(sum.add(&many));
        assert_eq!(sum.encode().len() as u64, TRACE_MAX);
        assert!(Trace::parse(&sum.encode()).is_ok());
        assert!(Trace::parse(&many.encode()).is_ok());
    }

    fn parts() -> impl Strategy<Value = Vec<Part>> {
        let part = prop_oneof![
            (0..4_u32).prop_map(Part::Shard),
            (0..2_u32, 0..40_u32, 1..9_u32).prop_map(|(pack, first, count)| Part::Chunks {
                pack,
                first,
                count
            }),
        ];
        proptest::collection::vec(part, 0..30)
    }

    fn named(steps: &[Step]) -> Vec<(bool, u32, u32)> {
        let all = steps.iter().flat_map(|step| match step.part {
            Part::Shard(number) => vec![(true, number, 0)],
            Part::Chunks { pack, first, count } => (first..first + count)
                .map(|chunk| (false, pack, chunk))
                .collect(),
        });
        all.collect()
    }

    proptest! {
        /// A sum names what either names, each once, the first one's in its order.
        #[test]
        fn a_sum_names_everything_once(one in parts(), other in parts()) {
            let (one, other) = (trace(one.into_iter().map(|part| (3, part))), trace(other.into_iter().map(|part| (4, part))));
            let mut sum = Trace::new(IMAGE, one.workload);
            sum.add(&one);
            let first = named(&sum.steps);
            sum.add(&other);
            let all = named(&sum.steps);
            prop_assert_eq!(&all[..first.len()], &first[..]);
            let set: BTreeSet<_> = all.iter().copied().collect();
            prop_assert_eq!(set.len(), all.len());
            let expected: BTreeSet<_> = named(&one.steps).into_iter().chain(named(&other.steps)).collect();
            prop_assert_eq!(set, expected);
            prop_assert_eq!(Trace::parse(&sum.encode()), Ok(sum));
        }

        #[test]
        fn nothing_is_misread(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = bytes;
            let begun = MAGIC.len().min(bytes.len());
            bytes[..begun].copy_from_slice(&MAGIC[..begun]);
            if let Ok(trace) = Trace::parse(&bytes) {
                prop_assert_eq!(trace.encode(), bytes);
            }
        }
    }
}
