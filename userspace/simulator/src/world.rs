// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The nodes, the time, and what is on its way.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use peerfs_exchange::scheduler::{
    Action, Class, ContentId, End, Extent, Limits, Order, Outcome, Part, Ticket, TransferId,
};
use peerfs_exchange::{Have, Priority, Suggestion};
use peerfs_format::Digest;

use crate::graph::Graph;
use crate::link::{Piece, Sending, Time, MILLISECOND};
use crate::node::Node;

/// Between two words of a node to its neighbours on what it has.
const WORD_INTERVAL: Time = 100 * MILLISECOND;
/// The pack that all want.
const PACK: ContentId = ContentId::Pack {
    pack: Digest([1; 32]),
    index: Digest([2; 32]),
};

enum Event {
    /// A node asks another one.
    Asked {
        to: u32,
        from: u32,
        transfer: TransferId,
        chunks: Box<[u32]>,
        is_demand: bool,
    },
    Cancelled {
        to: u32,
        from: u32,
        transfer: TransferId,
    },
    /// A node asks what to ask for, and is answered.
    AskedWhat { to: u32, from: u32, count: usize },
    Suggested {
        to: u32,
        from: u32,
        suggestion: Suggestion,
    },
    /// A node's line is free for the next piece.
    LineFree { node: u32 },
    /// A piece came to the other end, and waits there for its turn.
    Arrived { from: u32, piece: Piece },
    /// The last piece of a chunk is through.
    Delivered { from: u32, piece: Piece },
    /// A node says what it has.
    WordDue { node: u32 },
    Told {
        to: u32,
        from: u32,
        runs: Rc<[Range<u32>]>,
    },
    /// A node decides.
    Wake { node: u32, at: Time },
    /// A node is gone, and with it what it was asked for.
    Leaves { node: u32 },
    /// A reader comes.
    Reads { node: u32 },
}

struct Scheduled {
    at: Time,
    /// What was scheduled first happens first.
    sequence: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

/// What all nodes have in common.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) chunks: u32,
    pub(crate) chunk_length: u32,
    /// Of each line, in each direction: bytes a second.
    pub(crate) rate: u64,
}

/// Reads of single chunks, one after the other.
pub(crate) struct Reader {
    pub(crate) node: u32,
    /// From one read to the next.
    pub(crate) interval: Time,
    /// Reads that are still to come.
    pub(crate) left: u32,
    open: Option<(Ticket, Time)>,
    pub(crate) took: Vec<Time>,
}

/// What was counted.
#[derive(Default)]
pub(crate) struct Counts {
    /// Chunks that came, once and again.
    pub(crate) delivered: u64,
    pub(crate) duplicates: u64,
    /// Chunks that were asked for as demand, once and again.
    pub(crate) demands: u64,
    pub(crate) messages: u64,
}

pub(crate) struct World {
    setting: Setting,
    base: Instant,
    pub(crate) now: Time,
    pub(crate) nodes: Vec<Node>,
    graph: Graph,
    /// The server that all know, if there is one: it is behind the nodes.
    origin: Option<u32>,
    events: BinaryHeap<Scheduled>,
    sequence: u64,
    random: fastrand::Rng,
    pub(crate) reader: Option<Reader>,
    pub(crate) counts: Counts,
    /// Nodes that are to have all and don't yet.
    pub(crate) missing: usize,
}

/// What all nodes know a node by.
fn identity(node: u32) -> u64 {
    u64::from(node) + 1
}

impl World {
    pub(crate) fn new(setting: Setting, graph: Graph, random: fastrand::Rng) -> Self {
        let mut random = random;
        let nodes = (0..).zip(&graph.neighbours).map(|(id, _)| {
            let seed = random.u64(..);
            let limits = Limits::default();
            Node::new(setting.chunks, setting.rate, limits, seed, identity(id))
        });
        World {
            base: Instant::now(),
            now: 0,
            nodes: nodes.collect(),
            graph,
            origin: None,
            events: BinaryHeap::new(),
            sequence: 0,
            reader: None,
            counts: Counts::default(),
            missing: 0,
            random,
            setting,
        }
    }

    fn instant(&self) -> Instant {
        self.base + Duration::from_nanos(self.now)
    }

    fn schedule(&mut self, at: Time, event: Event) {
        self.sequence += 1;
        let sequence = self.sequence;
        self.events.push(Scheduled {
            at,
            sequence,
            event,
        });
    }

    /// Schedules what happens at another node because of this one, after the way there.
    fn send(&mut self, from: u32, to: u32, event: Event) {
        self.counts.messages += 1;
        let at = self.now + self.graph.latency(from, to);
        self.schedule(at, event);
    }

    fn node(&mut self, node: u32) -> &mut Node {
        &mut self.nodes[node as usize]
    }

    /// The node has all from the beginning.
    pub(crate) fn fill(&mut self, node: u32) {
        let chunks = self.setting.chunks;
        let node = self.node(node);
        for chunk in 0..chunks {
            node.take(chunk);
        }
        node.take_gained();
    }

    /// A server that has all, behind the nodes.
    pub(crate) fn add_origin(&mut self) -> u32 {
        let origin = self.nodes.len() as u32;
        let setting = &self.setting;
        let node = Node::new(setting.chunks, setting.rate, Limits::default(), 0, 0);
        self.nodes.push(node);
        self.fill(origin);
        self.origin = Some(origin);
        origin
    }

    pub(crate) fn leaves_at(&mut self, node: u32, at: Time) {
        self.schedule(at, Event::Leaves { node });
    }

    /// The node wants all from now on.
    pub(crate) fn pull(&mut self, node: u32) {
        let parts = (0..self.setting.chunks).map(Part::Chunk).collect();
        self.order(node, parts, Priority::Background);
        self.missing += 1;
        self.meet(node);
        self.decide(node);
    }

    /// The node reads single chunks from now on.
    pub(crate) fn read(&mut self, node: u32, interval: Time, reads: u32) {
        self.reader = Some(Reader {
            node,
            interval,
            left: reads,
            open: None,
            took: Vec::new(),
        });
        self.schedule(self.now + interval, Event::Reads { node });
    }

    fn order(&mut self, node: u32, parts: Vec<Part>, priority: Priority) -> Option<Ticket> {
        let deadline = self.instant() + Duration::from_secs(24 * 3600);
        let extent = Extent {
            parts: self.setting.chunks,
            part_length: self.setting.chunk_length.into(),
        };
        let order = Order {
            content: PACK,
            parts,
            priority,
            deadline,
            extent,
            subject: (),
        };
        self.node(node).scheduler.order(order).ok()
    }

    /// Asks all neighbours what they have, and measures how far away they are.
    fn meet(&mut self, node: u32) {
        let neighbours = self.graph.neighbours[node as usize].clone();
        for other in neighbours.into_iter().chain(self.origin) {
            let round_trip = Duration::from_nanos(2 * self.graph.latency(node, other));
            let is_origin = self.origin == Some(other);
            let from = &self.nodes[other as usize];
            let all = from.present == self.setting.chunks || from.is_liar;
            let scheduler = &mut self.nodes[node as usize].scheduler;
            if is_origin {
                scheduler.classify(other, Class::Origin);
            }
            scheduler.measured(other, round_trip);
            if all {
                scheduler.offer(PACK, other, Have::Complete);
                if !is_origin {
                    scheduler.identify(other, identity(other));
                }
            }
        }
    }

    /// Goes on until all have all that they want, or nothing happens any more.
    pub(crate) fn run(&mut self) {
        while self.missing > 0 {
            let Some(next) = self.events.pop() else {
                break;
            };
            self.now = next.at;
            self.happen(next.event);
        }
    }

    /// The same until nobody reads any more; returns how long each read took.
    pub(crate) fn run_reader(&mut self) -> Vec<Time> {
        while self.reader.as_ref().is_some_and(|reader| reader.left > 0) {
            let Some(next) = self.events.pop() else {
                break;
            };
            self.now = next.at;
            self.happen(next.event);
        }
        self.reader
            .take()
            .map(|reader| reader.took)
            .unwrap_or_default()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Asked {
                to,
                from,
                transfer,
                chunks,
                is_demand,
            } => {
                let left = self.setting.chunk_length;
                let server = self.node(to);
                if server.is_gone || server.is_stopped {
                    return;
                }
                for &chunk in &chunks {
                    let sending = Sending {
                        transfer,
                        chunk,
                        left,
                    };
                    server.up.push(from, sending, is_demand);
                }
                if !server.up.is_sending {
                    self.send_piece(to);
                }
            }
            Event::AskedWhat { to, from, count } => {
                let (now, chunks) = (self.instant(), self.setting.chunks);
                let server = self.node(to);
                if server.is_gone || server.is_stopped || server.present < chunks {
                    return;
                }
                let suggestion = server
                    .allotments
                    .suggest(&PACK.digest(), chunks, count, now);
                let (from, to) = (to, from);
                self.send(
                    from,
                    to,
                    Event::Suggested {
                        to,
                        from,
                        suggestion,
                    },
                );
            }
            Event::Suggested {
                to,
                from,
                suggestion,
            } => {
                let now = self.instant();
                let node = self.node(to);
                if !node.is_gone && node.done_at.is_none() {
                    node.scheduler.suggested(PACK, from, suggestion, now);
                    self.decide(to);
                }
            }
            Event::Cancelled { to, from, transfer } => self.node(to).up.cancel(from, transfer),
            Event::LineFree { node } => self.send_piece(node),
            Event::Arrived { from, piece } => {
                let now = self.now;
                let through = self.node(piece.to).down.take(piece.bytes, now);
                if piece.is_last {
                    self.schedule(through, Event::Delivered { from, piece });
                }
            }
            Event::Delivered { from, piece } => self.deliver(from, piece),
            Event::WordDue { node } => self.tell(node),
            Event::Told { to, from, runs } => {
                let now = self.instant();
                let node = self.node(to);
                if !node.is_gone && node.done_at.is_none() {
                    node.scheduler.identify(from, identity(from));
                    node.scheduler.gained(PACK, from, &runs, now);
                    self.decide(to);
                }
            }
            Event::Wake { node, at } => {
                if self.node(node).wakes_at == Some(at) {
                    self.node(node).wakes_at = None;
                    self.decide(node);
                }
            }
            Event::Leaves { node } => self.leave(node),
            Event::Reads { node } => self.begin_read(node),
        }
    }

    fn send_piece(&mut self, from: u32) {
        let now = self.instant();
        let node = self.node(from);
        node.up.is_sending = false;
        if node.is_gone {
            return;
        }
        if let Some((piece, takes)) = node.up.next() {
            node.allotments.sent(&PACK.digest(), piece.chunk, now);
            node.up.is_sending = true;
            let sent = self.now + takes;
            self.schedule(sent, Event::LineFree { node: from });
            let at = sent + self.graph.latency(from, piece.to);
            self.schedule(at, Event::Arrived { from, piece });
        }
    }

    fn deliver(&mut self, from: u32, piece: Piece) {
        let (now, length) = (self.instant(), self.setting.chunk_length.into());
        let is_liar = self.node(from).is_liar;
        let at = self.now;
        self.counts.delivered += 1;
        let node = &mut self.nodes[piece.to as usize];
        if node.is_gone {
            return;
        }
        if is_liar {
            if node.scheduler.ban(from) {
                self.decide(piece.to);
            }
            return;
        }
        let (transfer, part) = (piece.transfer, Part::Chunk(piece.chunk));
        let Some((_, left)) = node.running.get_mut(&transfer) else {
            // It was broken off meanwhile.
            self.counts.duplicates += 1;
            return;
        };
        *left -= 1;
        let is_last = *left == 0;
        node.scheduler.arrived(transfer, part, length, now);
        node.scheduler.received(transfer, PACK, part, now);
        if is_last {
            node.running.remove(&transfer);
            node.scheduler.ended(transfer, End::Answered, now);
        }
        if !node.take(piece.chunk) {
            self.counts.duplicates += 1;
        } else if !node.is_due {
            node.is_due = true;
            let due = at.max(node.told_at.map_or(0, |told| told + WORD_INTERVAL));
            let node = piece.to;
            self.schedule(due, Event::WordDue { node });
        }
        self.decide(piece.to);
    }

    /// A node tells its neighbours what has come since its last word.
    fn tell(&mut self, from: u32) {
        let now = self.now;
        let node = self.node(from);
        node.is_due = false;
        if node.is_gone || node.gained() == 0 {
            return;
        }
        let runs: Rc<[Range<u32>]> = node.take_gained().into();
        node.told_at = Some(now);
        for to in self.graph.neighbours[from as usize].clone() {
            let runs = Rc::clone(&runs);
            self.send(from, to, Event::Told { to, from, runs });
        }
    }

    fn leave(&mut self, gone: u32) {
        let node = self.node(gone);
        if std::mem::replace(&mut node.is_gone, true) {
            return;
        }
        let was_missing = node.done_at.is_none() && !node.is_liar;
        self.missing -= usize::from(was_missing);
        for other in self.graph.neighbours[gone as usize].clone() {
            self.node(other).scheduler.gone(gone);
            self.decide(other);
        }
    }

    fn begin_read(&mut self, node: u32) {
        let chunks = self.setting.chunks;
        let chunk = self.random.u32(..chunks);
        let Some(reader) = &mut self.reader else {
            return;
        };
        reader.left = reader.left.saturating_sub(1);
        let next = self.now + reader.interval;
        let is_free = reader.open.is_none();
        if is_free && !self.node(node).has(chunk) {
            let ticket = self.order(node, vec![Part::Chunk(chunk)], Priority::Demand);
            let now = self.now;
            if let (Some(reader), Some(ticket)) = (&mut self.reader, ticket) {
                reader.open = Some((ticket, now));
            }
            self.meet(node);
            self.decide(node);
        }
        self.schedule(next, Event::Reads { node });
    }

    /// Has a node's scheduler decide, and carries it out.
    fn decide(&mut self, id: u32) {
        let now = self.instant();
        for action in self.node(id).scheduler.poll(now) {
            match action {
                // All that there are were met.
                Action::Seek { content, .. } => self.node(id).scheduler.sought(content, now),
                Action::Start {
                    transfer,
                    source,
                    parts,
                    priority,
                    ..
                } => {
                    let chunk = |part: &Part| match part {
                        Part::Chunk(number) => *number,
                        Part::Whole => 0,
                    };
                    let chunks: Box<[u32]> = parts.iter().map(chunk).collect();
                    let is_demand = priority == Priority::Demand;
                    self.counts.demands += u64::from(is_demand) * chunks.len() as u64;
                    let running = (source, chunks.len());
                    self.node(id).running.insert(transfer, running);
                    let asked = Event::Asked {
                        to: source,
                        from: id,
                        transfer,
                        chunks,
                        is_demand,
                    };
                    self.send(id, source, asked);
                }
                Action::Suggest { source, count, .. } => {
                    let (to, from) = (source, id);
                    self.send(id, to, Event::AskedWhat { to, from, count });
                }
                Action::Stop { transfer } => {
                    if let Some((to, _)) = self.node(id).running.remove(&transfer) {
                        let from = id;
                        self.send(id, to, Event::Cancelled { to, from, transfer });
                    }
                }
                Action::Finish { ticket, outcome } => self.finish(id, ticket, outcome),
            }
        }
        let wakeup = self.node(id).scheduler.next_wakeup();
        let wakeup = wakeup.map(|at| at.saturating_duration_since(self.base).as_nanos() as Time);
        let node = self.node(id);
        let Some(at) = wakeup.filter(|at| node.wakes_at.is_none_or(|wakes| *at < wakes)) else {
            return;
        };
        if node.done_at.is_none() {
            node.wakes_at = Some(at);
            self.schedule(at, Event::Wake { node: id, at });
        }
    }

    fn finish(&mut self, id: u32, ticket: Ticket, outcome: Outcome) {
        let (now, chunks) = (self.now, self.setting.chunks);
        if let Some(reader) = self.reader.as_mut().filter(|reader| reader.node == id) {
            if let Some((_, begun)) = reader.open.take_if(|(open, _)| *open == ticket) {
                reader.took.push(now - begun);
                return;
            }
        }
        let node = self.node(id);
        if outcome == Outcome::Complete && node.present == chunks && node.done_at.is_none() {
            node.done_at = Some(now);
            self.missing -= 1;
        }
    }
}
