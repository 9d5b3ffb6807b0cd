// SPDX-License-Identifier: GPL-2.0 OR MIT

//! When something is tried again.

use std::future::Future;
use std::time::{Duration, Instant};

use crate::error::{Result, Trouble};

/// Attempts at one thing.
const ATTEMPTS_MAX: u32 = 6;
/// Attempts to connect to a server that does not answer: a wrong name is told soon.
const CONNECTIONS_MAX: u32 = 3;
/// The longest pause after the first attempt; doubled with each further one.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// The longest pause.
const PAUSE_LONGEST: Duration = Duration::from_secs(30);
/// A server that wants to be left alone for longer is not waited for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);

/// The attempts at one thing so far. Decides only: the caller waits.
#[derive(Debug, Default)]
pub(crate) struct Attempts(u32);

impl Attempts {
    /// How long to wait before the next attempt; None if there is none. `random` is from 0 up to 1: those who failed at
    /// the same time come again at different ones.
    pub(crate) fn pause(&mut self, trouble: Trouble, random: f64) -> Option<Duration> {
        self.0 += 1;
        let (retry_after, attempts) = match trouble {
            Trouble::Passing(retry_after) => (retry_after, ATTEMPTS_MAX),
            Trouble::Unreachable => (None, CONNECTIONS_MAX),
            Trouble::Final => return None,
        };
        if self.0 >= attempts || retry_after.is_some_and(|wanted| wanted > RETRY_AFTER_MAX) {
            return None;
        }
        let longest = PAUSE_FIRST.saturating_mul(2_u32.saturating_pow(self.0 - 1));
        let jitter = longest.min(PAUSE_LONGEST).mul_f64(random.clamp(0.0, 1.0));
        Some(retry_after.unwrap_or_default() + jitter)
    }
}

/// Does something until it succeeds, cannot, or was attempted often enough.
pub(crate) async fn persist<T, F: Future<Output = Result<T>>>(
    mut attempt: impl FnMut() -> F,
) -> Result<T> {
    let mut attempts = Attempts::default();
    loop {
        let error = match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let Some(pause) = attempts.pause(error.trouble(), fastrand::f64()) else {
            return Err(error);
        };
        tracing::debug!(error = %peerfs_text::Causes(&error), ?pause, "tried again");
        tokio::time::sleep(pause).await;
    }
}

/// Failures in a row after which a server is left alone.
const FAILURES_MAX: u32 = 3;
/// For how long at first; doubled each time.
const OPEN_FIRST: Duration = Duration::from_secs(5);
/// For how long at most.
const OPEN_LONGEST: Duration = Duration::from_secs(5 * 60);

/// A circuit breaker: who has failed some times in a row is left alone for a while, then tried once.
#[derive(Debug, Default)]
pub struct Breaker {
    failures: u32,
    open_until: Option<Instant>,
}

impl Breaker {
    /// For how long the server is still to be left alone; None if it may be asked.
    pub fn rest(&self, now: Instant) -> Option<Duration> {
        let left = self.open_until?.checked_duration_since(now)?;
        (!left.is_zero()).then_some(left)
    }

    /// It has answered as it should.
    pub fn succeeded(&mut self) {
        *self = Breaker::default();
    }

    /// It could not be asked, or broke off. Those who had asked already when it opened count once.
    pub fn failed(&mut self, now: Instant) {
        if self.rest(now).is_some() {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if let Some(opened) = self.failures.checked_sub(FAILURES_MAX) {
            let pause = OPEN_FIRST.saturating_mul(2_u32.saturating_pow(opened));
            self.open_until = Some(now + pause.min(OPEN_LONGEST));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let mut attempts = Attempts::default();
        let pauses: Vec<_> = (0..7)
            .map_while(|_| attempts.pause(Trouble::Passing(None), 1.0))
            .collect();
        let seconds = [0.5, 1.0, 2.0, 4.0, 8.0].map(Duration::from_secs_f64);
        assert_eq!(pauses, seconds);
        assert_eq!(Attempts::default().pause(Trouble::Final, 0.0), None);
        let mut attempts = Attempts::default();
        let connecting = (0..7).map_while(|_| attempts.pause(Trouble::Unreachable, 1.0));
        assert_eq!(connecting.count(), 2);
        let minute = Some(Duration::from_secs(60));
        let asked = Attempts::default().pause(Trouble::Passing(minute), 0.0);
        assert_eq!(asked, minute);
        let hour = Trouble::Passing(Some(Duration::from_secs(3600)));
        assert_eq!(Attempts::default().pause(hour, 0.0), None);
    }

    #[test]
    fn who_fails_is_left_alone_for_longer_and_longer() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        breaker.failed(start);
        breaker.failed(start);
        assert_eq!(breaker.rest(start), None);
        breaker.failed(start);
        assert_eq!(breaker.rest(start), Some(OPEN_FIRST));
        breaker.failed(start);
        assert_eq!(
            breaker.rest(start),
            Some(OPEN_FIRST),
            "was asked before it opened"
        );
        let later = start + OPEN_FIRST;
        assert_eq!(breaker.rest(later), None);
        breaker.failed(later);
        assert_eq!(breaker.rest(later), Some(2 * OPEN_FIRST));
        for step in 0..20 {
            breaker.failed(later + step * OPEN_LONGEST);
        }
        assert!(breaker.rest(later + 20 * OPEN_LONGEST).is_none());
        breaker.succeeded();
        breaker.failed(later);
        assert_eq!(breaker.rest(later), None);
    }
}
