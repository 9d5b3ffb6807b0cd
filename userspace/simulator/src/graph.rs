// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Who is whose neighbour, and how far away.

use crate::link::{Time, MILLISECOND};

/// The neighbours that a node chooses.
const OWN: usize = 8;
/// Those that it takes besides when it is told of them.
const INTRODUCED: usize = 8;
/// The neighbours that a node has at most.
const MOST: usize = 24;

/// Nodes at random places of a square.
pub(crate) struct Graph {
    places: Vec<(f64, f64)>,
    /// Nanoseconds from one side of the square to the other.
    width: f64,
    pub(crate) neighbours: Vec<Vec<u32>>,
}

impl Graph {
    /// So many nodes; each chooses half of its neighbours among the nearest of some at random, the others at random.
    pub(crate) fn new(nodes: u32, width: Time, random: &mut fastrand::Rng) -> Self {
        let mut graph = Graph {
            places: (0..nodes).map(|_| (random.f64(), random.f64())).collect(),
            width: width as f64,
            neighbours: vec![Vec::new(); nodes as usize],
        };
        let mut order: Vec<u32> = (0..nodes).collect();
        random.shuffle(&mut order);
        for &node in &order {
            let known = (0..4 * MOST).map(|_| random.u32(..nodes));
            let mut known: Vec<u32> = known.filter(|&other| other != node).collect();
            known.sort_by_key(|&other| graph.latency(node, other));
            known.dedup();
            let (near, far) = known.split_at(known.len().min(OWN / 2));
            let mut far = far.to_vec();
            random.shuffle(&mut far);
            let mut chosen = 0;
            for &other in near.iter().chain(&far) {
                if chosen < OWN && graph.join(node, other) {
                    chosen += 1;
                }
            }
        }
        for &node in &order {
            graph.introduce(node, random);
        }
        graph
    }

    /// A node with room is told by one of its neighbours of others, and takes some of them.
    fn introduce(&mut self, node: u32, random: &mut fastrand::Rng) {
        let neighbours = &self.neighbours[node as usize];
        if neighbours.is_empty() {
            return;
        }
        let teller = neighbours[random.usize(..neighbours.len())];
        let mut told = self.neighbours[teller as usize].clone();
        random.shuffle(&mut told);
        let mut left = INTRODUCED;
        for other in told {
            if left > 0 && other != node && self.join(node, other) {
                left -= 1;
            }
        }
    }

    fn join(&mut self, one: u32, other: u32) -> bool {
        let room = |node: u32| self.neighbours[node as usize].len() < MOST;
        let is_new = !self.neighbours[one as usize].contains(&other);
        let joined = is_new && room(one) && room(other);
        if joined {
            self.neighbours[one as usize].push(other);
            self.neighbours[other as usize].push(one);
        }
        joined
    }

    /// The time from one to the other: a fifth of a millisecond for the nearest.
    pub(crate) fn latency(&self, one: u32, other: u32) -> Time {
        let place = |node: u32| self.places.get(node as usize).copied();
        // An origin is no node, and is as far away for all.
        let (Some(a), Some(b)) = (place(one), place(other)) else {
            return MILLISECOND / 5 + (self.width / 2.0) as Time;
        };
        let distance = (a.0 - b.0).hypot(a.1 - b.1);
        MILLISECOND / 5 + (distance * self.width) as Time
    }
}
