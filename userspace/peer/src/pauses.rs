// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Notices when the machine has slept, or the process was stopped.

use std::time::{Duration, Instant};

/// Ticks come more often than this even on a busy machine.
const LONGEST: Duration = Duration::from_secs(5);

/// What is seen of time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Clocks {
    /// It stands still while the machine sleeps.
    pub(crate) monotonic: Instant,
    /// Since the machine was started; it goes on then.
    pub(crate) since_boot: Duration,
}

/// A time in which nothing was done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Pause {
    /// All of it.
    pub(crate) lasted: Duration,
    /// How much of it the monotonic clock did not count.
    pub(crate) unseen: Duration,
}

/// Compares the clocks from tick to tick.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    last: Option<Clocks>,
}

impl Pauses {
    /// What time it is now; returns the pause that has just ended, if there was one.
    pub(crate) fn tick(&mut self, now: Clocks) -> Option<Pause> {
        let last = self.last.replace(now)?;
        let lasted = now.since_boot.saturating_sub(last.since_boot);
        let seen = now.monotonic.saturating_duration_since(last.monotonic);
        let unseen = lasted.saturating_sub(seen);
        (lasted > LONGEST).then_some(Pause { lasted, unseen })
    }
}

impl Clocks {
    /// Those of the system.
    pub(crate) fn now() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Clocks {
            monotonic: Instant::now(),
            // Of a clock that begins at 0.
            since_boot: Duration::try_from(time).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_and_stops_are_noticed_and_slow_ticks_are_not() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let at = |monotonic: u32, since_boot: u32| Clocks {
            monotonic: start + second * monotonic,
            since_boot: second * since_boot,
        };
        let mut pauses = Pauses::default();
        assert_eq!(pauses.tick(at(0, 1000)), None);
        assert_eq!(pauses.tick(at(3, 1003)), None);
        // Asleep for two minutes.
        let slept = pauses.tick(at(4, 1124)).unwrap();
        assert_eq!((slept.lasted, slept.unseen), (second * 121, second * 120));
        assert_eq!(pauses.tick(at(5, 1125)), None);
        // Stopped for as long.
        let stopped = pauses.tick(at(125, 1245)).unwrap();
        assert_eq!(
            (stopped.lasted, stopped.unseen),
            (second * 120, Duration::ZERO)
        );
        assert!(Clocks::now().since_boot > Duration::ZERO);
    }
}
