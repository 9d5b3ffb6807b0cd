// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is known of a source.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::limits::RETRY_MAX;
use crate::Priority;

use super::pace::Pace;
use super::{Class, ContentId, Limits, TransferId};

/// Nothing is asked of a source for so long before what falls to others is.
const HELPS_AFTER: Duration = Duration::from_secs(1);

pub(super) struct SourceState {
    pub(super) class: Class,
    /// What its share goes by, if it is a node that fetches.
    pub(super) identity: Option<u64>,
    pub(super) pace: Pace,
    /// Transfers that run.
    pub(super) transfers: BTreeSet<TransferId>,
    /// What is on its way that somebody waits for.
    pub(super) demand: Load,
    /// What is on its way that nobody waits for.
    pub(super) bulk: Load,
    /// The chunk that nobody waits for and that it was asked for last.
    pub(super) cursor: Option<(ContentId, u32)>,
    /// A reader's part is overdue, and nothing came since.
    pub(super) is_suspect: bool,
    /// Whether it is to be looked at whether it stalls.
    pub(super) is_watched: bool,
    /// When it is to be looked at whether it can be asked for what is overdue elsewhere.
    pub(super) look_at: Option<Instant>,
    /// The contents that it offers.
    pub(super) offers: usize,
    /// Failures in a row.
    troubles: u32,
    /// The last transfer failed.
    unreachable: bool,
    /// When one last did, of those that were not started before another one did.
    failed: Option<Instant>,
    /// Not to be asked before.
    idle_until: Option<Instant>,
    /// Not to be asked before for what is as urgent as this, or less.
    busy_until: Option<(Priority, Instant)>,
    /// When it last sent something that was asked for.
    last_sent: Option<Instant>,
    /// Not to be asked before to fetch what it lacks.
    pub(super) fetches_from: Option<Instant>,
}

/// What is on its way.
#[derive(Default)]
pub(super) struct Load {
    pub(super) transfers: usize,
    pub(super) parts: usize,
    pub(super) bytes: u64,
}

impl SourceState {
    pub(super) fn new() -> Self {
        SourceState {
            class: Class::default(),
            identity: None,
            pace: Pace::new(),
            transfers: BTreeSet::new(),
            demand: Load::default(),
            bulk: Load::default(),
            cursor: None,
            is_suspect: false,
            is_watched: false,
            look_at: None,
            offers: 0,
            troubles: 0,
            unreachable: false,
            failed: None,
            idle_until: None,
            busy_until: None,
            last_sent: None,
            fetches_from: None,
        }
    }

    pub(super) fn load(&mut self, priority: Priority) -> &mut Load {
        match priority {
            Priority::Demand => &mut self.demand,
            Priority::Readahead | Priority::Background => &mut self.bulk,
        }
    }

    /// All bytes that are on their way.
    pub(super) fn bytes(&self) -> u64 {
        self.demand.bytes + self.bulk.bytes
    }

    fn is_idle(&self) -> bool {
        self.demand.parts + self.bulk.parts == 0
    }

    /// A part is asked of it; returns whether nothing else is on the way. What it fetches first says nothing of its line.
    pub(super) fn asked(
        &mut self,
        priority: Priority,
        through: bool,
        length: u64,
        now: Instant,
    ) -> bool {
        let is_alone = self.is_idle() && !through;
        if is_alone {
            self.pace.begin(now);
        }
        let load = self.load(priority);
        load.parts += 1;
        load.bytes += length;
        is_alone
    }

    /// A part is not on its way any more.
    pub(super) fn landed(&mut self, priority: Priority, length: u64) {
        let load = self.load(priority);
        load.parts -= 1;
        load.bytes -= length;
        if self.is_idle() {
            self.pace.end();
        }
    }

    /// A part is here. Returns whether it may be asked again because of that.
    pub(super) fn succeeded(&mut self) -> bool {
        self.answered();
        self.idle_until.take().is_some()
    }

    /// Something that was asked for came.
    pub(super) fn sent(&mut self, at: Instant) {
        self.is_suspect = false;
        self.last_sent = self.last_sent.max(Some(at));
    }

    /// A packet to it and back took so long.
    pub(super) fn measured(&mut self, round_trip: Duration) {
        self.is_suspect = false;
        self.pace.measured(round_trip);
    }

    /// When it may be asked for what falls to others, who have not fetched it so far: they may not want it.
    pub(super) fn helps_at(&self) -> Option<Instant> {
        self.last_sent.map(|at| at + HELPS_AFTER)
    }

    /// When something that was asked for last came.
    pub(super) fn last_sent(&self) -> Option<Instant> {
        self.last_sent
    }

    /// A transfer came to its end.
    pub(super) fn answered(&mut self) {
        self.troubles = 0;
        self.unreachable = false;
    }

    /// A transfer broke off that was started then. Returns when it may be asked again. What breaks off together, as with
    /// a connection, is one failure.
    pub(super) fn failed(&mut self, started: Instant, now: Instant, limits: &Limits) -> Instant {
        self.unreachable = true;
        match (self.failed, self.idle_until) {
            (Some(before), Some(until)) if started <= before => until,
            _ => {
                self.failed = Some(now);
                self.rest(now, limits)
            }
        }
    }

    /// It refused something so urgent, because it has too much to do: it is within reach. Returns when it may be
    /// asked again for anything.
    pub(super) fn busy(
        &mut self,
        priority: Priority,
        retry_after: Duration,
        now: Instant,
        limits: &Limits,
    ) -> [Instant; 2] {
        self.unreachable = false;
        let until = now + retry_after.min(RETRY_MAX);
        self.busy_until = Some((priority, until));
        [self.rest(now, limits), until]
    }

    fn rest(&mut self, now: Instant, limits: &Limits) -> Instant {
        let factor = 2_u32.saturating_pow(self.troubles);
        let pause = limits
            .backoff_first
            .saturating_mul(factor)
            .min(limits.backoff_longest);
        self.troubles = self.troubles.saturating_add(1);
        let until = now + pause;
        self.idle_until = Some(until);
        until
    }

    pub(super) fn is_unreachable(&self) -> bool {
        self.unreachable
    }

    /// Whether it may be asked for something so urgent.
    pub(super) fn takes(&self, priority: Priority, now: Instant) -> bool {
        let is_usable = self.idle_until.is_none_or(|until| until <= now);
        let is_busy = self
            .busy_until
            .is_some_and(|(refused, until)| priority >= refused && now < until);
        is_usable && !is_busy
    }

    /// How long until so many bytes more are here that a reader waits for: they go before what nobody waits for.
    pub(super) fn expected_demand(&self, length: u64) -> Duration {
        self.pace.expected(self.demand.bytes + length, self.class)
    }

    /// How long until so many bytes more are here that come after all others.
    pub(super) fn expected_last(&self, length: u64) -> Duration {
        self.pace.expected(self.bytes() + length, self.class)
    }
}
