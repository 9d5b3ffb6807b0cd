// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A node: its scheduler, and what it has.

use std::collections::BTreeMap;
use std::ops::Range;

use peerfs_exchange::scheduler::{Limits, Scheduler, TransferId};
use peerfs_exchange::uplink::Allotments;

use crate::link::{Downlink, Time, Uplink};

pub(crate) struct Node {
    pub(crate) scheduler: Scheduler<u32, ()>,
    pub(crate) up: Uplink,
    pub(crate) down: Downlink,
    pub(crate) allotments: Allotments,
    has: Vec<u64>,
    pub(crate) present: u32,
    /// Since its last word to its neighbours, in the order in which they came.
    gained: Vec<u32>,
    /// Its next word to them is due.
    pub(crate) is_due: bool,
    /// When it last told them something.
    pub(crate) told_at: Option<Time>,
    /// Transfers that run: from whom, and how many chunks are still to come.
    pub(crate) running: BTreeMap<TransferId, (u32, usize)>,
    /// When it is to decide again, if nothing happens before.
    pub(crate) wakes_at: Option<Time>,
    pub(crate) is_gone: bool,
    /// It sends nothing, as a process that was stopped.
    pub(crate) is_stopped: bool,
    /// It sends wrong bytes, and says that it has all.
    pub(crate) is_liar: bool,
    pub(crate) done_at: Option<Time>,
}

impl Node {
    pub(crate) fn new(chunks: u32, rate: u64, limits: Limits, seed: u64, identity: u64) -> Self {
        Node {
            scheduler: Scheduler::new(limits, seed, identity),
            up: Uplink::new(rate),
            down: Downlink::new(rate),
            allotments: Allotments::new(identity),
            has: vec![0; chunks.div_ceil(64) as usize],
            present: 0,
            gained: Vec::new(),
            is_due: false,
            told_at: None,
            running: BTreeMap::new(),
            wakes_at: None,
            is_gone: false,
            is_stopped: false,
            is_liar: false,
            done_at: None,
        }
    }

    pub(crate) fn has(&self, chunk: u32) -> bool {
        let word = self.has.get((chunk / 64) as usize);
        word.is_some_and(|word| word & (1 << (chunk % 64)) != 0)
    }

    /// Takes a chunk; false if it had it. Its neighbours are told later.
    pub(crate) fn take(&mut self, chunk: u32) -> bool {
        if self.has(chunk) {
            return false;
        }
        if let Some(word) = self.has.get_mut((chunk / 64) as usize) {
            *word |= 1 << (chunk % 64);
            self.present += 1;
            self.gained.push(chunk);
        }
        true
    }

    pub(crate) fn gained(&self) -> usize {
        self.gained.len()
    }

    /// What its neighbours are to be told.
    pub(crate) fn take_gained(&mut self) -> Vec<Range<u32>> {
        let mut gained = std::mem::take(&mut self.gained);
        gained.sort_unstable();
        let mut runs: Vec<Range<u32>> = Vec::new();
        for chunk in gained {
            match runs.last_mut() {
                Some(run) if run.end == chunk => run.end += 1,
                _ => runs.push(chunk..chunk + 1),
            }
        }
        runs
    }
}
