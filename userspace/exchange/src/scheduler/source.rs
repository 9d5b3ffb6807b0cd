// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is known of a source's behaviour.

use std::time::{Duration, Instant};

use crate::limits::RETRY_MAX;
use crate::Priority;

use super::Limits;

#[derive(Default)]
pub(super) struct SourceState {
    /// Transfers that run.
    pub(super) transfers: usize,
    /// Failures and slow transfers in a row.
    troubles: u32,
    /// The last transfer failed.
    unreachable: bool,
    /// Not to be asked before.
    idle_until: Option<Instant>,
    /// Not to be asked before for what is as urgent as this, or less.
    busy_until: Option<(Priority, Instant)>,
    /// When it last sent something that was asked for.
    last_sent: Option<Instant>,
    /// From one part to the next, as a running average.
    pace: Option<Duration>,
    /// To it and back, the shortest that was measured.
    round_trip: Option<Duration>,
}

impl SourceState {
    pub(super) fn succeeded(&mut self, since_last: Duration) {
        self.pace = Some(match self.pace {
            Some(pace) => (3 * pace + since_last) / 4,
            None => since_last,
        });
        self.idle_until = None;
        self.answered();
    }

    /// A packet to it and back took so long.
    pub(super) fn measured(&mut self, round_trip: Duration) {
        let shortest = self.round_trip.unwrap_or(round_trip);
        self.round_trip = Some(shortest.min(round_trip));
    }

    /// Something that was asked for came.
    pub(super) fn sent(&mut self, at: Instant) {
        self.last_sent = self.last_sent.max(Some(at));
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

    /// The time from one part to the next, if any came yet.
    pub(super) fn pace(&self) -> Option<Duration> {
        self.pace
    }

    /// A transfer broke off.
    pub(super) fn failed(&mut self, now: Instant, limits: &Limits) {
        self.unreachable = true;
        self.rest(now, limits);
    }

    /// It refused something so urgent, because it has too much to do: it is within reach.
    pub(super) fn busy(
        &mut self,
        priority: Priority,
        retry_after: Duration,
        now: Instant,
        limits: &Limits,
    ) {
        self.unreachable = false;
        self.rest(now, limits);
        self.busy_until = Some((priority, now + retry_after.min(RETRY_MAX)));
    }

    /// A transfer makes no progress. Several at the same time are one trouble.
    pub(super) fn slowed_down(&mut self, now: Instant, limits: &Limits) {
        if self.is_usable(now) {
            self.rest(now, limits);
        }
    }

    fn rest(&mut self, now: Instant, limits: &Limits) {
        let factor = 2_u32.saturating_pow(self.troubles);
        let pause = limits
            .backoff_first
            .saturating_mul(factor)
            .min(limits.backoff_longest);
        self.troubles = self.troubles.saturating_add(1);
        self.idle_until = Some(now + pause);
    }

    pub(super) fn is_unreachable(&self) -> bool {
        self.unreachable
    }

    pub(super) fn is_usable(&self, now: Instant) -> bool {
        self.idle_until.is_none_or(|until| until <= now)
    }

    /// Whether it may be asked for something so urgent.
    pub(super) fn takes(&self, priority: Priority, now: Instant) -> bool {
        let is_busy = self
            .busy_until
            .is_some_and(|(refused, until)| priority >= refused && now < until);
        self.is_usable(now) && !is_busy
    }

    /// When it may be asked again for more than now.
    pub(super) fn resume_at(&self) -> impl Iterator<Item = Instant> {
        let busy_until = self.busy_until.map(|(_, until)| until);
        self.idle_until.into_iter().chain(busy_until)
    }

    /// Parts a second, by a round trip as long as none came; a source that was not measured yet counts as quick, so that it is tried.
    pub(super) fn speed(&self) -> f64 {
        /// The quickest that is told apart.
        const QUICKEST: Duration = Duration::from_millis(1);
        1.0 / self
            .pace
            .or(self.round_trip)
            .unwrap_or(QUICKEST)
            .max(QUICKEST)
            .as_secs_f64()
    }
}
