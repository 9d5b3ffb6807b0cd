// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How much may be asked for twice.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// For how long what was asked for counts.
const SPAN: Duration = Duration::from_secs(10);
/// What is asked for in so short a time counts together.
const STEP: Duration = Duration::from_secs(1);
/// The part of the bytes that may be asked for twice.
const SHARE: u64 = 20;
/// The parts that may be beyond that.
const FREE_PARTS: u64 = 4;

/// Bounds what is asked of a second source for readers: where the line is full, that makes everything later.
#[derive(Debug, Default)]
pub(super) struct HedgeBudget {
    steps: VecDeque<Asked>,
}

#[derive(Debug)]
struct Asked {
    since: Instant,
    demand: u64,
    hedged: u64,
}

impl HedgeBudget {
    /// So many bytes were asked for that a reader waits for.
    pub(super) fn demand(&mut self, bytes: u64, now: Instant) {
        self.note(bytes, 0, now);
    }

    /// Whether a part of so many bytes may be asked of a second source, which is noted.
    pub(super) fn hedge(&mut self, bytes: u64, now: Instant) -> bool {
        self.forget(now);
        let sum = |of: fn(&Asked) -> u64| self.steps.iter().map(of).sum::<u64>();
        let (demand, hedged) = (sum(|asked| asked.demand), sum(|asked| asked.hedged));
        let may = hedged + bytes <= demand / SHARE + FREE_PARTS * bytes;
        if may {
            self.note(0, bytes, now);
        }
        may
    }

    fn forget(&mut self, now: Instant) {
        while self
            .steps
            .front()
            .is_some_and(|asked| asked.since + SPAN <= now)
        {
            self.steps.pop_front();
        }
    }

    fn note(&mut self, demand: u64, hedged: u64, now: Instant) {
        self.forget(now);
        match self.steps.back_mut() {
            Some(last) if now < last.since + STEP => {
                last.demand += demand;
                last.hedged += hedged;
            }
            _ => self.steps.push_back(Asked {
                since: now,
                demand,
                hedged,
            }),
        }
    }
}
