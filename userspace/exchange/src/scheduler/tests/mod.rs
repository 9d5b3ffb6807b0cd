// SPDX-License-Identifier: GPL-2.0 OR MIT

mod properties;
mod sharing;
mod suggesting;
mod through;
mod troubles;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::{ChunkMap, Have};
use peerfs_format::Digest;

use super::*;

const PACK: ContentId = pack(1, 1);
const OTHER_PACK: ContentId = pack(2, 2);
const MEASURED: ContentId = pack(4, 4);
const BLOB: ContentId = ContentId::Blob(Digest([3; 32]));

const CHUNK: u64 = 64 * 1024;
const EXTENT: Extent = Extent {
    parts: 4096,
    part_length: CHUNK,
};

const fn pack(pack: u8, index: u8) -> ContentId {
    ContentId::Pack {
        pack: Digest([pack; 32]),
        index: Digest([index; 32]),
    }
}

/// A scheduler, a clock that only the test moves, and what was decided so far.
struct Bench {
    scheduler: Scheduler<&'static str, ()>,
    now: Instant,
    running: Vec<(TransferId, &'static str, ContentId, Vec<Part>)>,
    stopped: Vec<TransferId>,
    sought: Vec<ContentId>,
    finished: Vec<(Ticket, Outcome)>,
    /// Who was asked what to ask for, and for how many chunks.
    consulted: Vec<(&'static str, usize)>,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        Bench {
            scheduler: Scheduler::new(limits, 1, 0),
            now: Instant::now(),
            running: Vec::new(),
            stopped: Vec::new(),
            sought: Vec::new(),
            finished: Vec::new(),
            consulted: Vec::new(),
        }
    }

    fn order(&mut self, content: ContentId, parts: Vec<Part>, priority: Priority) -> Ticket {
        self.scheduler
            .order(Order {
                content,
                parts,
                priority,
                deadline: self.now + Duration::from_secs(25),
                extent: EXTENT,
                subject: (),
            })
            .unwrap()
    }

    fn chunks(
        &mut self,
        pack: ContentId,
        chunks: std::ops::Range<u32>,
        priority: Priority,
    ) -> Ticket {
        self.order(pack, chunks.map(Part::Chunk).collect(), priority)
    }

    fn wait(&mut self, duration: Duration) {
        self.now += duration;
        self.poll();
    }

    fn poll(&mut self) {
        for action in self.scheduler.poll(self.now) {
            match action {
                Action::Seek { content, .. } => self.sought.push(content),
                Action::Suggest { source, count, .. } => self.consulted.push((source, count)),
                Action::Start {
                    transfer,
                    source,
                    content,
                    parts,
                    ..
                } => self.running.push((transfer, source, content, parts)),
                Action::Stop { transfer } => {
                    self.running.retain(|(id, ..)| *id != transfer);
                    self.stopped.push(transfer);
                }
                Action::Finish { ticket, outcome } => self.finished.push((ticket, outcome)),
            }
        }
    }

    /// The parts that a source is asked for at this time.
    fn asked(&self, source: &str) -> Vec<Part> {
        self.running
            .iter()
            .filter(|(_, name, ..)| *name == source)
            .flat_map(|(_, _, _, parts)| parts.clone())
            .collect()
    }

    /// The source brings all that it is asked for, and so on until it is asked for no more; returns all of it.
    fn deliver(&mut self, source: &str) -> Vec<Part> {
        self.deliver_each(source, Duration::ZERO)
    }

    /// The same, where a part takes so long.
    fn deliver_each(&mut self, source: &str, pause: Duration) -> Vec<Part> {
        let mut brought = Vec::new();
        self.poll();
        while let Some(place) = self
            .running
            .iter()
            .position(|(_, name, ..)| *name == source)
        {
            let (transfer, _, content, parts) = self.running.remove(place);
            for part in parts {
                self.now += pause;
                self.scheduler.arrived(transfer, part, CHUNK, self.now);
                self.scheduler.received(transfer, content, part, self.now);
                brought.push(part);
            }
            self.scheduler.ended(transfer, End::Answered, self.now);
            self.poll();
        }
        brought
    }

    /// The source has brought a part in so long a time, some of them.
    fn measure(&mut self, source: &'static str, round_trip: Duration, part: Duration) {
        self.scheduler.measured(source, round_trip);
        let parts = (0..16).map(Part::Chunk).collect();
        let ticket = self.order(MEASURED, parts, Priority::Background);
        self.scheduler.offer(MEASURED, source, Have::Complete);
        self.deliver_each(source, part);
        self.scheduler.offer(MEASURED, source, Have::Absent);
        assert_eq!(self.finished.pop(), Some((ticket, Outcome::Complete)));
        self.sought.clear();
    }

    fn fail(&mut self, source: &str, end: End) {
        let place = self
            .running
            .iter()
            .position(|(_, name, ..)| *name == source)
            .unwrap();
        let (transfer, ..) = self.running.remove(place);
        self.scheduler.ended(transfer, end, self.now);
        self.poll();
    }
}

fn one_slot() -> Limits {
    Limits {
        transfers: 1,
        parts_per_transfer: 1,
        ..Limits::default()
    }
}

#[test]
fn demand_goes_before_readahead_before_background() {
    let mut bench = Bench::new(one_slot());
    bench.chunks(PACK, 0..1, Priority::Background);
    bench.chunks(PACK, 1..2, Priority::Readahead);
    bench.chunks(OTHER_PACK, 2..3, Priority::Demand);
    bench.scheduler.offer(PACK, "a", Have::Complete);
    bench.scheduler.offer(OTHER_PACK, "a", Have::Complete);
    let mut order = Vec::new();
    bench.poll();
    while let Some((transfer, _, content, parts)) = bench.running.pop() {
        order.extend(parts.iter().copied());
        bench
            .scheduler
            .received(transfer, content, parts[0], bench.now);
        bench.scheduler.ended(transfer, End::Answered, bench.now);
        bench.poll();
    }
    assert_eq!(order, [Part::Chunk(2), Part::Chunk(1), Part::Chunk(0)]);
}

#[test]
fn a_source_keeps_one_transfer_for_demand() {
    let mut bench = Bench::new(Limits {
        transfers_per_source: 2,
        parts_per_transfer: 1,
        ..Limits::default()
    });
    bench.chunks(PACK, 0..8, Priority::Readahead);
    bench.scheduler.offer(PACK, "a", Have::Complete);
    bench.poll();
    assert_eq!(bench.asked("a"), [Part::Chunk(0)]);
    bench.chunks(PACK, 6..7, Priority::Demand);
    bench.poll();
    assert_eq!(bench.asked("a"), [Part::Chunk(0), Part::Chunk(6)]);
}

#[test]
fn equal_wants_are_fetched_once() {
    let mut bench = Bench::new(Limits::default());
    let first = bench.chunks(PACK, 0..4, Priority::Readahead);
    let second = bench.chunks(PACK, 2..6, Priority::Demand);
    bench.scheduler.offer(PACK, "a", Have::Complete);
    let mut brought = bench.deliver("a");
    brought.sort();
    assert_eq!(brought, (0..6).map(Part::Chunk).collect::<Vec<_>>());
    bench.finished.sort_by_key(|(ticket, _)| *ticket);
    assert_eq!(
        bench.finished,
        [(first, Outcome::Complete), (second, Outcome::Complete)]
    );
    assert_eq!(bench.scheduler.orders.len(), 0);
}

#[test]
fn a_lying_source_is_dropped_and_never_asked_again() {
    let mut bench = Bench::new(Limits::default());
    let ticket = bench.chunks(PACK, 0..4, Priority::Demand);
    bench.scheduler.offer(PACK, "liar", Have::Complete);
    bench.poll();
    assert_eq!(bench.asked("liar").len(), 4);
    assert!(bench.scheduler.ban("liar"));
    assert!(!bench.scheduler.ban("liar"), "known already");
    bench.scheduler.offer(PACK, "liar", Have::Complete);
    bench.poll();
    assert_eq!(bench.stopped.len(), 1);
    assert_eq!(bench.asked("liar"), []);
    bench.scheduler.offer(PACK, "honest", Have::Complete);
    bench.deliver("honest");
    assert_eq!(bench.finished, [(ticket, Outcome::Complete)]);
}

#[test]
fn what_is_wanted_is_known() {
    let mut bench = Bench::new(Limits::default());
    bench.chunks(PACK, 0..1, Priority::Demand);
    bench.chunks(OTHER_PACK, 0..1, Priority::Demand);
    bench.scheduler.offer(PACK, "a", Have::Complete);
    bench.deliver("a");
    assert_eq!(bench.scheduler.wanted(), [(OTHER_PACK, ())]);
}

#[test]
fn what_a_source_does_not_have_is_asked_of_another() {
    let mut bench = Bench::new(Limits::default());
    let ticket = bench.order(BLOB, vec![Part::Whole], Priority::Demand);
    bench.scheduler.offer(BLOB, "without", Have::Complete);
    bench.poll();
    bench.fail("without", End::Answered);
    assert_eq!(bench.asked("without"), []);
    bench.scheduler.offer(BLOB, "with", Have::Complete);
    bench.deliver("with");
    assert_eq!(bench.finished, [(ticket, Outcome::Complete)]);
}

#[test]
fn demand_waits_for_a_source_that_appears_late() {
    let mut bench = Bench::new(Limits::default());
    let ticket = bench.chunks(PACK, 0..2, Priority::Demand);
    bench.poll();
    assert_eq!(bench.sought, [PACK]);
    bench.wait(Duration::from_secs(5));
    assert_eq!(bench.sought.len(), 1, "one search at a time");
    for searches in 2..6 {
        bench.scheduler.sought(PACK, bench.now);
        bench.wait(Duration::from_secs(1));
        assert_eq!(bench.sought.len(), searches);
    }
    bench.scheduler.offer(PACK, "late", Have::Complete);
    bench.deliver("late");
    assert_eq!(bench.finished, [(ticket, Outcome::Complete)]);
}

#[test]
fn an_order_fails_at_its_deadline() {
    let mut bench = Bench::new(Limits::default());
    let nowhere = bench.chunks(PACK, 0..1, Priority::Demand);
    let stalled = bench.chunks(OTHER_PACK, 0..1, Priority::Demand);
    bench.poll();
    bench.wait(Duration::from_secs(24));
    bench.scheduler.offer(OTHER_PACK, "slow", Have::Complete);
    bench.poll();
    bench.wait(Duration::from_secs(1));
    assert_eq!(
        bench.finished,
        [
            (nowhere, Outcome::Unreachable),
            (stalled, Outcome::TimedOut)
        ]
    );
    assert_eq!(bench.stopped.len(), 1);
    assert_eq!(bench.scheduler.orders.len(), 0);
}

#[test]
fn what_nobody_wants_any_more_is_stopped() {
    let mut bench = Bench::new(Limits::default());
    let first = bench.chunks(PACK, 0..2, Priority::Readahead);
    let second = bench.chunks(PACK, 1..3, Priority::Readahead);
    bench.scheduler.offer(PACK, "a", Have::Complete);
    bench.poll();
    bench.scheduler.cancel(first);
    bench.poll();
    assert!(!bench.asked("a").contains(&Part::Chunk(0)));
    assert!(
        bench.asked("a").contains(&Part::Chunk(1)),
        "the other wants it"
    );
    bench.scheduler.cancel(second);
    bench.poll();
    assert_eq!(bench.running, []);
    bench.scheduler.cancel(second);
    bench.poll();
    assert_eq!(bench.finished, []);
}

#[test]
fn what_cannot_be_stored_fails_at_once() {
    let mut bench = Bench::new(Limits::default());
    let ticket = bench.chunks(PACK, 0..3, Priority::Demand);
    bench.scheduler.offer(PACK, "a", Have::Complete);
    bench.poll();
    bench.scheduler.unstorable(PACK, Part::Chunk(1), 28);
    bench.poll();
    assert_eq!(bench.finished, [(ticket, Outcome::Unstorable(28))]);
    assert_eq!(bench.running, []);
}

#[test]
fn orders_are_bounded_and_half_of_them_kept_for_demand() {
    let mut bench = Bench::new(Limits {
        orders: 4,
        ..Limits::default()
    });
    let mut order = |priority| {
        bench.scheduler.order(Order {
            content: PACK,
            parts: vec![Part::Chunk(0)],
            priority,
            deadline: bench.now,
            extent: EXTENT,
            subject: (),
        })
    };
    order(Priority::Readahead).unwrap();
    order(Priority::Background).unwrap();
    assert_eq!(order(Priority::Readahead), Err(Full));
    order(Priority::Demand).unwrap();
    order(Priority::Demand).unwrap();
    assert_eq!(order(Priority::Demand), Err(Full));
}

#[test]
fn contents_that_are_not_wanted_are_forgotten() {
    let mut bench = Bench::new(Limits {
        contents: 8,
        ..Limits::default()
    });
    for number in 0..100 {
        let pack = pack(number, 1);
        bench.chunks(pack, 0..1, Priority::Demand);
        bench.scheduler.offer(pack, "a", Have::Complete);
        bench.deliver("a");
        bench.scheduler.sought(pack, bench.now);
    }
    assert!(bench.scheduler.contents.len() <= 8);
    assert_eq!(bench.finished.len(), 100);
}

#[test]
fn the_chunks_of_one_pack_by_two_indexes_are_different_chunks() {
    let mut bench = Bench::new(Limits::default());
    let other = pack(1, 9);
    let first = bench.chunks(PACK, 0..1, Priority::Demand);
    let second = bench.chunks(other, 0..1, Priority::Demand);
    bench.scheduler.offer(PACK, "a", Have::Complete);
    bench.deliver("a");
    assert_eq!(bench.finished, [(first, Outcome::Complete)]);
    assert_eq!(bench.sought, [PACK, other]);
    bench.scheduler.offer(other, "b", Have::Complete);
    bench.deliver("b");
    assert_eq!(bench.finished.last(), Some(&(second, Outcome::Complete)));
}

#[test]
fn a_source_tells_of_more() {
    let mut bench = Bench::new(Limits::default());
    let ticket = bench.chunks(PACK, 0..8, Priority::Demand);
    let map = ChunkMap::new(8, vec![0x01].into()).unwrap();
    bench.scheduler.offer(PACK, "a", Have::Partial(map));
    bench.deliver("a");
    bench.scheduler.gained(PACK, "a", &[1..3, 5..8], bench.now);
    bench
        .scheduler
        .gained(PACK, "new", &[3..4, 4..5], bench.now);
    bench.deliver("a");
    bench.deliver("new");
    assert_eq!(bench.finished, [(ticket, Outcome::Complete)]);
}

#[test]
fn who_is_gone_is_asked_again_when_it_comes_back() {
    let mut bench = Bench::new(Limits::default());
    bench.chunks(PACK, 0..2, Priority::Demand);
    bench.scheduler.offer(PACK, "a", Have::Complete);
    bench.poll();
    bench.scheduler.gone("a");
    bench.poll();
    assert_eq!(bench.stopped.len(), 1);
    assert_eq!(bench.asked("a"), []);
    bench.scheduler.offer(PACK, "a", Have::Complete);
    bench.poll();
    assert_eq!(bench.asked("a").len(), 2);
}
