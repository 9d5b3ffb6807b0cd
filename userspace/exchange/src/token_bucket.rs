// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A limit on a rate.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// Lets a number of bytes per second through. Whoever takes bytes waits for as long as it is told,
/// so that those who take one after the other are served in that order.
#[derive(Debug)]
pub struct TokenBucket {
    rate: NonZeroU64,
    /// When all bytes that were taken will have been let through.
    free_at: Instant,
}

impl TokenBucket {
    /// A limit of `rate` bytes per second.
    pub fn new(rate: NonZeroU64, now: Instant) -> Self {
        TokenBucket { rate, free_at: now }
    }

    /// Takes bytes, and says how long to wait before sending them.
    pub fn take(&mut self, bytes: u32, now: Instant) -> Duration {
        let start = self.free_at.max(now);
        let nanoseconds = u64::from(bytes).saturating_mul(1_000_000_000) / self.rate;
        self.free_at = start + Duration::from_nanos(nanoseconds);
        start - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_and_idle_time_is_not_saved_up() {
        let start = Instant::now();
        let rate = NonZeroU64::new(1000).unwrap();
        let mut bucket = TokenBucket::new(rate, start);
        assert_eq!(bucket.take(500, start), Duration::ZERO);
        assert_eq!(bucket.take(500, start), Duration::from_millis(500));
        assert_eq!(bucket.take(1, start), Duration::from_secs(1));
        let later = start + Duration::from_secs(100);
        assert_eq!(bucket.take(1000, later), Duration::ZERO);
        assert_eq!(bucket.take(1000, later), Duration::from_secs(1));
    }
}
