// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is known of a source's behaviour.

use std::time::{Duration, Instant};

use super::Limits;

#[derive(Default)]
pub(super) struct SourceState {
    /// Transfers that run.
    pub(super) transfers: usize,
    /// Failures in a row.
    pub(super) failures: u32,
    /// Not to be asked before.
    pub(super) idle_until: Option<Instant>,
    /// From one part to the next, as a running average.
    pace: Option<Duration>,
}

impl SourceState {
    pub(super) fn succeeded(&mut self, since_last: Duration) {
        self.pace = Some(match self.pace {
            Some(pace) => (3 * pace + since_last) / 4,
            None => since_last,
        });
        self.failures = 0;
        self.idle_until = None;
    }

    /// The time from one part to the next, if any came yet.
    pub(super) fn pace(&self) -> Option<Duration> {
        self.pace
    }

    pub(super) fn failed(&mut self, now: Instant, limits: &Limits) {
        let factor = 2_u32.saturating_pow(self.failures);
        let pause = limits
            .backoff_first
            .saturating_mul(factor)
            .min(limits.backoff_longest);
        self.failures = self.failures.saturating_add(1);
        self.idle_until = Some(now + pause);
    }

    pub(super) fn is_usable(&self, now: Instant) -> bool {
        self.idle_until.is_none_or(|until| until <= now)
    }

    /// Parts a second; a source that was not measured yet counts as quick, so that it is tried.
    pub(super) fn speed(&self) -> f64 {
        /// The quickest that is told apart.
        const QUICKEST: Duration = Duration::from_millis(1);
        1.0 / self.pace.unwrap_or(QUICKEST).max(QUICKEST).as_secs_f64()
    }
}
