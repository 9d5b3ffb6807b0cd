// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the fetch scheduler takes to decide when a part was received: all that a node tells it of the part, and the poll
//! after it. Parts come one at a time, from the sources in turn, and as many as were received are ordered anew.

#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use peerfs_exchange::scheduler::{
    Action, ContentId, End, Extent, Limits, Order, Part, Scheduler, TransferId,
};
use peerfs_exchange::{ChunkMap, Have, Priority, Suggestion};
use peerfs_format::Digest;

/// Parts that are pending, and parts that are received while it is measured.
const PENDING: u32 = 4096;
const RECEIVED: u32 = 8192;
/// Parts of an order that follows the first one.
const ORDERED: u32 = 256;
const CHUNK: u64 = 64 * 1024;

/// What is measured, and how many microseconds the mean may be.
const CASES: [Case; 4] = [
    Case::new("24 sources, each with a half", 24, false, 10.0),
    Case::new("24 sources, each with all", 24, true, 10.0),
    Case::new("500 sources, each with a half", 500, false, 50.0),
    Case::new("500 sources, each with all", 500, true, 50.0),
];

struct Case {
    name: &'static str,
    sources: u32,
    whole: bool,
    bar: f64,
}

impl Case {
    const fn new(name: &'static str, sources: u32, whole: bool, bar: f64) -> Self {
        Case {
            name,
            sources,
            whole,
            bar,
        }
    }
}

/// A node's scheduler, and what it has asked for.
struct Node {
    scheduler: Scheduler<u32, ()>,
    now: Instant,
    /// The parts that are on the way, those that were asked for first at the front, with how many their transfer has left.
    asked: VecDeque<(TransferId, Part)>,
    left: HashMap<TransferId, usize>,
}

fn pack() -> ContentId {
    ContentId::Pack {
        pack: Digest([1; 32]),
        index: Digest([2; 32]),
    }
}

impl Node {
    fn new(case: &Case) -> Self {
        let mut random = fastrand::Rng::with_seed(1);
        let parts = PENDING + RECEIVED;
        let mut node = Node {
            scheduler: Scheduler::new(Limits::default(), 1, 0),
            now: Instant::now(),
            asked: VecDeque::new(),
            left: HashMap::new(),
        };
        node.order(0..PENDING);
        for source in 0..case.sources {
            let have = if case.whole {
                Have::Complete
            } else {
                let bits: Vec<u8> = (0..parts.div_ceil(8)).map(|_| random.u8(..)).collect();
                Have::Partial(ChunkMap::new(parts, bits.into()).expect("as many bits as parts"))
            };
            node.scheduler.identify(source, random.u64(..));
            node.scheduler.measured(source, Duration::from_millis(20));
            node.scheduler.offer(pack(), source, have);
        }
        node.poll();
        node
    }

    fn order(&mut self, parts: std::ops::Range<u32>) {
        let order = Order {
            content: pack(),
            parts: parts.map(Part::Chunk).collect(),
            priority: Priority::Background,
            deadline: self.now + Duration::from_secs(3600),
            extent: Extent {
                parts: PENDING + RECEIVED,
                part_length: CHUNK,
            },
            subject: (),
        };
        self.scheduler
            .order(order)
            .expect("there is room for an order");
    }

    fn poll(&mut self) {
        for action in self.scheduler.poll(self.now) {
            match action {
                Action::Start {
                    transfer, parts, ..
                } => {
                    self.left.insert(transfer, parts.len());
                    self.asked
                        .extend(parts.into_iter().map(|part| (transfer, part)));
                }
                Action::Stop { transfer } => {
                    self.left.remove(&transfer);
                    self.asked.retain(|(other, _)| *other != transfer);
                }
                Action::Suggest {
                    content, source, ..
                } => {
                    let anything = Suggestion::Any;
                    self.scheduler
                        .suggested(content, source, anything, self.now);
                }
                Action::Seek { .. } | Action::Finish { .. } => {}
            }
        }
    }
}

/// How long it took for each part that was received, in ascending order.
fn measure(case: &Case) -> Vec<Duration> {
    let mut node = Node::new(case);
    let mut took = Vec::new();
    for number in 0..RECEIVED {
        if number % ORDERED == 0 {
            node.order(PENDING + number..PENDING + number + ORDERED);
        }
        let Some((transfer, part)) = node.asked.pop_front() else {
            break;
        };
        let left = node.left.get_mut(&transfer).expect("it is on the way");
        *left -= 1;
        let is_last = *left == 0;
        node.now += Duration::from_micros(100);
        let now = node.now;
        let begun = Instant::now();
        node.scheduler.arrived(transfer, part, CHUNK, now);
        node.scheduler.received(transfer, pack(), part, now);
        if is_last {
            node.scheduler.ended(transfer, End::Answered, now);
        }
        node.poll();
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    took
}

fn main() -> ExitCode {
    println!("{PENDING} parts pending: microseconds for one that was received");
    let mut holds = true;
    for case in &CASES {
        let took = measure(case);
        let micros = |duration: Duration| duration.as_secs_f64() * 1e6;
        let mean = micros(took.iter().sum()) / took.len() as f64;
        let part = |share: usize| {
            took.get(took.len() * share / 1000)
                .copied()
                .map_or(0.0, micros)
        };
        let is_met = took.len() == RECEIVED as usize && mean <= case.bar;
        println!(
            "{:<30} mean {mean:5.1}  half {:5.1}  99 % {:6.1}  99.9 % {:6.1}  at most {} {}",
            case.name,
            part(500),
            part(990),
            part(999),
            case.bar,
            if is_met { "holds" } else { "DOES NOT HOLD" }
        );
        holds &= is_met;
    }
    match holds {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
