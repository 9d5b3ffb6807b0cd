// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is known of a source's behaviour.

use std::time::{Duration, Instant};

use super::Limits;

/// The weight of the newest measurement in the running average.
const NEWEST_WEIGHT: f64 = 0.25;

#[derive(Default)]
pub(super) struct SourceState {
    /// Transfers that run.
    pub(super) transfers: usize,
    /// Failures in a row.
    pub(super) failures: u32,
    /// Not to be asked before.
    pub(super) idle_until: Option<Instant>,
    /// Seconds from one part to the next, as a running average.
    pace: Option<f64>,
}

impl SourceState {
    pub(super) fn succeeded(&mut self, since_last: Duration) {
        let newest = since_last.as_secs_f64();
        self.pace = Some(match self.pace {
            Some(pace) => pace + NEWEST_WEIGHT * (newest - pace),
            None => newest,
        });
        self.failures = 0;
        self.idle_until = None;
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
        /// The quickest that is told apart, in seconds from part to part.
        const QUICKEST: f64 = 0.001;
        1.0 / self.pace.unwrap_or(QUICKEST).max(QUICKEST)
    }
}
