// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is simulated, and what came of it.

use std::fmt;

use crate::graph::Graph;
use crate::link::{Time, MILLISECOND, SECOND};
use crate::world::{Setting, World};

/// Who takes part, and over which lines.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nodes; the first one has all from the beginning, where there is no origin.
    pub nodes: u32,
    /// Chunks of the image.
    pub chunks: u32,
    /// Bytes of a chunk.
    pub chunk_length: u32,
    /// Bits a second of each line, in each direction.
    pub rate: u64,
    /// The longest time from one node to another, in milliseconds.
    pub latency: u64,
    /// Of a hundred nodes, those that leave before they have all.
    pub leaving: u32,
    /// Of a hundred nodes, those that say that they have all and send wrong bytes.
    pub liars: u32,
    /// With the same one all is the same.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            nodes: 16,
            chunks: 512,
            chunk_length: 64 * 1024,
            rate: 40_000_000,
            latency: 40,
            leaving: 0,
            liars: 0,
            seed: 1,
        }
    }
}

impl Options {
    fn world(&self, nodes: u32) -> World {
        let mut random = fastrand::Rng::with_seed(self.seed);
        let graph = Graph::new(nodes, self.latency * MILLISECOND, &mut random);
        let setting = Setting {
            chunks: self.chunks,
            chunk_length: self.chunk_length,
            rate: self.rate / 8,
        };
        World::new(setting, graph, random)
    }

    fn image_length(&self) -> u64 {
        u64::from(self.chunks) * u64::from(self.chunk_length)
    }

    /// The seconds that one line needs for the image.
    fn ideal(&self) -> f64 {
        self.image_length() as f64 / (self.rate as f64 / 8.0)
    }

    /// The node with this number is one of so many of a hundred, spread evenly; the first one is none.
    fn is_one_of(node: u32, of_hundred: u32) -> bool {
        node > 0 && node * of_hundred / 100 != (node - 1) * of_hundred / 100
    }
}

/// What came of nodes that all wanted the same image at once.
#[derive(Clone, Debug)]
pub struct Swarm {
    /// Nodes that have all now.
    pub complete: usize,
    /// Nodes that wanted all, stayed, and don't have it.
    pub incomplete: usize,
    /// When the last one had all, as a multiple of the time that a line needs for it.
    pub last: f64,
    /// The same for the one in the middle.
    pub median: f64,
    /// Images that the node or server sent that had all at the beginning.
    pub copies: f64,
    /// Of a hundred chunks that came, those that were there already.
    pub duplicates: f64,
    /// Requests, cancellations and words on what is there, for each node.
    pub messages: f64,
}

impl fmt::Display for Swarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "complete    {}", self.complete)?;
        writeln!(f, "incomplete  {}", self.incomplete)?;
        writeln!(f, "last        {:.3} x ideal", self.last)?;
        writeln!(f, "median      {:.3} x ideal", self.median)?;
        writeln!(f, "copies      {:.3}", self.copies)?;
        writeln!(f, "duplicates  {:.2} %", self.duplicates)?;
        write!(f, "messages    {:.0} a node", self.messages)
    }
}

/// One node has an image, and all others want it at once.
pub fn swarm(options: &Options) -> Swarm {
    let mut world = options.world(options.nodes);
    world.fill(0);
    pull(options, world, 1, 0)
}

/// A server has an image, and all nodes want it at once.
pub fn origin(options: &Options) -> Swarm {
    let mut world = options.world(options.nodes);
    let origin = world.add_origin();
    pull(options, world, 0, origin)
}

fn pull(options: &Options, mut world: World, first: u32, server: u32) -> Swarm {
    let ideal = options.ideal();
    for node in first..options.nodes {
        if Options::is_one_of(node, options.liars) {
            world.nodes[node as usize].is_liar = true;
        } else if Options::is_one_of(node, options.leaving) {
            let part = f64::from(node % 10) / 10.0;
            world.leaves_at(node, (ideal * part * SECOND as f64) as Time);
        }
    }
    let pulling: Vec<u32> = (first..options.nodes)
        .filter(|&node| !world.nodes[node as usize].is_liar)
        .collect();
    for &node in &pulling {
        world.pull(node);
    }
    world.run();
    let mut done: Vec<Time> = Vec::new();
    let mut incomplete = 0;
    for &node in &pulling {
        let node = &world.nodes[node as usize];
        done.extend(node.done_at);
        incomplete += usize::from(node.done_at.is_none() && !node.is_gone);
    }
    done.sort_unstable();
    let ratio =
        |time: Option<&Time>| time.map_or(f64::NAN, |&time| time as f64 / SECOND as f64 / ideal);
    let counts = &world.counts;
    let sent = world.nodes[server as usize].up.sent;
    Swarm {
        complete: done.len(),
        incomplete,
        last: ratio(done.last()),
        median: ratio(done.get(done.len() / 2)),
        copies: sent as f64 / options.image_length() as f64,
        duplicates: 100.0 * counts.duplicates as f64 / (counts.delivered as f64).max(1.0),
        messages: counts.messages as f64 / f64::from(options.nodes),
    }
}

/// What else is going on while somebody reads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Burden {
    /// The reader gets all of the image as well.
    pub pulls: bool,
    /// So many of the others have stopped, and nobody knows.
    pub stopped: u32,
}

/// What came of somebody who reads single chunks, which all others have.
#[derive(Clone, Debug)]
pub struct Demand {
    /// Milliseconds that half of the reads took at most.
    pub p50: f64,
    /// The same for 95 of a hundred.
    pub p95: f64,
    /// The same for 99 of a hundred.
    pub p99: f64,
    /// Reads.
    pub reads: usize,
    /// Of a hundred chunks that were read, those that were asked for once more.
    pub hedged: f64,
    /// The milliseconds that a chunk is on the line, and to the other end and back.
    pub ideal: f64,
}

impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "reads   {}", self.reads)?;
        writeln!(f, "ideal   {:.1} ms", self.ideal)?;
        writeln!(f, "p50     {:.1} ms", self.p50)?;
        writeln!(f, "p95     {:.1} ms", self.p95)?;
        writeln!(f, "p99     {:.1} ms", self.p99)?;
        write!(f, "hedged  {:.2} %", self.hedged)
    }
}

/// All nodes have an image, and one more reads chunks of it, ten a second and one at a time.
pub fn demand(options: &Options, burden: Burden) -> Demand {
    let reader = options.nodes;
    let mut world = options.world(options.nodes + 1);
    for node in 0..options.nodes {
        world.fill(node);
        world.nodes[node as usize].is_stopped = node < burden.stopped;
    }
    if burden.pulls {
        world.pull(reader);
    }
    world.read(reader, 100 * MILLISECOND, 500);
    let mut took = world.run_reader();
    took.sort_unstable();
    let at = |part: f64| {
        let place = (took.len() as f64 * part) as usize;
        let time = took.get(place.min(took.len().saturating_sub(1)));
        time.map_or(f64::NAN, |&time| time as f64 / MILLISECOND as f64)
    };
    let line = f64::from(options.chunk_length) / (options.rate as f64 / 8.0);
    let reads = took.len();
    let again = world.counts.demands.saturating_sub(reads as u64);
    Demand {
        p50: at(0.5),
        p95: at(0.95),
        p99: at(0.99),
        reads,
        hedged: 100.0 * again as f64 / (reads as f64).max(1.0),
        ideal: line * 1000.0 + 2.0 * options.latency as f64,
    }
}
