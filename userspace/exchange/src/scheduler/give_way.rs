// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What nobody waits for gives way to what a reader waits for, on the line that they share.

use std::time::{Duration, Instant};

/// For how long it gives way after a reader's last part.
const SPAN: Duration = Duration::from_secs(2);
/// By how much a part may be late at least before that is a sign of a full line.
const SLACK: Duration = Duration::from_millis(25);

/// Bounds the bytes on the way that nobody waits for, as long as readers' parts come later than they would alone:
/// halves them, and lets one part more be on the way for each that comes in time (as LEDBAT does).
#[derive(Debug, Default)]
pub(super) struct GiveWay {
    limit: Option<(u64, Instant)>,
}

impl GiveWay {
    /// A reader's part of so many bytes came; `bulk` bytes were on their way that nobody waits for.
    pub(super) fn demand_came(
        &mut self,
        took: Duration,
        expected: Duration,
        length: u64,
        bulk: u64,
        now: Instant,
    ) {
        let is_late = took > expected + SLACK.max(expected / 2);
        let before = self.limit(now);
        let limit = match (is_late, before) {
            (true, _) => Some(before.unwrap_or(u64::MAX).min(bulk) / 2),
            (false, before) => before.map(|limit| limit + length),
        };
        self.limit = limit.map(|limit| (limit.max(2 * length), now + SPAN));
    }

    /// The bytes that may be on the way, if that is bounded.
    pub(super) fn limit(&self, now: Instant) -> Option<u64> {
        let (limit, until) = self.limit?;
        (now < until).then_some(limit)
    }
}
