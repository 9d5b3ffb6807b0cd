// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How fast bytes come or go.

use std::time::{Duration, Instant};

/// What is older counts for little.
const WINDOW: Duration = Duration::from_secs(3);

/// A rate in which each byte counts for less the longer ago it was: by a factor of e each [`WINDOW`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    per_second: f64,
    at: Instant,
}

impl Rate {
    /// Nothing has come yet.
    pub(crate) fn new(now: Instant) -> Self {
        Rate {
            per_second: 0.0,
            at: now,
        }
    }

    pub(crate) fn add(&mut self, bytes: u32, now: Instant) {
        self.per_second = self.at(now) + f64::from(bytes) / WINDOW.as_secs_f64();
        self.at = now.max(self.at);
    }

    /// Bytes a second.
    pub(crate) fn per_second(&self, now: Instant) -> u64 {
        // Of a float that is too large the largest number is made.
        self.at(now).round() as u64
    }

    fn at(&self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at);
        self.per_second * (-passed.as_secs_f64() / WINDOW.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_stream_has_its_rate_and_then_none() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        let tick = Duration::from_millis(10);
        for tenth in 1..=2000 {
            rate.add(1000, start + tick * tenth);
        }
        let end = start + tick * 2000;
        let measured = rate.per_second(end);
        assert!((98_000..=102_000).contains(&measured), "{measured}");
        assert!(rate.per_second(end + WINDOW * 4) < measured / 50);
        assert_eq!(rate.per_second(end + WINDOW * 40), 0);
        // A clock that goes back does no harm.
        rate.add(1, start);
        assert!(rate.per_second(start) > 0);
    }
}
