// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How far away and how quick a source is.

use std::time::{Duration, Instant};

use super::Class;

/// What is nearer than this is in the same network.
const LINK: Duration = Duration::from_millis(3);
/// What is further away is in no network nearby, however busy that may be.
const NEARBY: Duration = Duration::from_millis(20);
/// The quickest that is told apart: bytes a second.
const RATE_MAX: f64 = 1e10;
/// What came counts half when as much or as long a time has passed since.
const HORIZON_BYTES: f64 = 2.0 * 1024.0 * 1024.0;
const HORIZON: f64 = 1.0;

/// What was measured of a source.
#[derive(Debug)]
pub(super) struct Pace {
    /// A packet to it and back: smoothed, and the least.
    round_trip: Option<(Duration, Duration)>,
    /// The least that a part took that was alone on the line.
    lone: Option<Duration>,
    /// What came lately, in bytes and in the seconds in which something was outstanding.
    bytes: f64,
    seconds: f64,
    /// Up to when the seconds were counted, while something is outstanding.
    counted_to: Option<Instant>,
    lateness: Lateness,
}

impl Pace {
    pub(super) fn new() -> Self {
        Pace {
            round_trip: None,
            lone: None,
            bytes: 0.0,
            seconds: 0.0,
            counted_to: None,
            lateness: Lateness::default(),
        }
    }

    /// A packet to it and back took so long.
    pub(super) fn measured(&mut self, round_trip: Duration) {
        let (smoothed, least) = self.round_trip.unwrap_or((round_trip, round_trip));
        self.round_trip = Some(((7 * smoothed + round_trip) / 8, least.min(round_trip)));
    }

    /// Something is outstanding from now on.
    pub(super) fn begin(&mut self, now: Instant) {
        self.counted_to = Some(now + self.smoothed().unwrap_or_default());
    }

    /// Nothing is outstanding any more.
    pub(super) fn end(&mut self) {
        self.counted_to = None;
    }

    /// So many bytes came, of all that is outstanding.
    pub(super) fn came(&mut self, bytes: u64, now: Instant) {
        let Some(counted_to) = &mut self.counted_to else {
            return;
        };
        let passed = now.saturating_duration_since(*counted_to).as_secs_f64();
        *counted_to = (*counted_to).max(now);
        self.bytes += bytes as f64;
        self.seconds += passed.max(bytes as f64 / RATE_MAX);
        if self.bytes > HORIZON_BYTES || self.seconds > HORIZON {
            self.bytes /= 2.0;
            self.seconds /= 2.0;
        }
    }

    /// A part that was alone on the line took so long.
    pub(super) fn lone_part(&mut self, took: Duration) {
        self.lone = Some(self.lone.map_or(took, |least| least.min(took)));
    }

    /// A part of which this was expected took so long.
    pub(super) fn part_took(&mut self, took: Duration, expected: Duration) {
        self.lateness.note(took, expected);
    }

    /// Whether anything came of it yet.
    pub(super) fn is_measured(&self) -> bool {
        self.bytes > 0.0
    }

    /// Whether it is in the same network.
    pub(super) fn is_near(&self) -> bool {
        let least = self.round_trip.map(|(_, least)| least);
        least.or(self.lone).is_some_and(|least| least < LINK)
    }

    /// Whether it is known to be in no network nearby.
    pub(super) fn is_far(&self) -> bool {
        self.round_trip.is_some_and(|(_, least)| least > NEARBY)
    }

    fn smoothed(&self) -> Option<Duration> {
        self.round_trip.map(|(smoothed, _)| smoothed)
    }

    /// Bytes a second, if anything came yet.
    fn rate(&self) -> Option<f64> {
        self.is_measured()
            .then(|| (self.bytes / self.seconds).min(RATE_MAX))
    }

    /// How long so many bytes take from the request to the last of them; as one of its class does if nothing came yet.
    pub(super) fn expected(&self, bytes: u64, class: Class) -> Duration {
        let (round_trip, rate) = match class {
            Class::Directory => (1, 100e6),
            Class::Peer if self.is_near() => (2, 30e6),
            Class::Peer => (80, 1e6),
            Class::Origin => (150, 1e6),
        };
        let unmeasured = Duration::from_millis(round_trip);
        // Without a ping, what a rate was counted from has the round trips in it.
        let round_trip = match (self.smoothed(), self.is_measured()) {
            (Some(smoothed), _) => smoothed,
            (None, true) => Duration::ZERO,
            (None, false) => unmeasured,
        };
        let seconds = bytes as f64 / self.rate().unwrap_or(rate);
        round_trip + Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX / 4)
    }

    /// The bytes that keep its line full, and as much again as comes in the time `ahead`; none if it was not measured.
    /// A way there and back that is longer than the shortest counts up to as much again: on a busy machine answers come
    /// late, but what is longer still waits on the line, and asking for more makes it no shorter. What came lately bounds
    /// it: a few small blobs that came together are no rate.
    pub(super) fn window(&self, ahead: Duration) -> u64 {
        let round_trip = self
            .round_trip
            .map(|(smoothed, least)| smoothed.min(least + ahead));
        let round_trip = round_trip.or(self.lone).unwrap_or_default();
        let bytes = self.rate().unwrap_or(0.0) * (round_trip + ahead).as_secs_f64();
        bytes.min(2.0 * self.bytes) as u64
    }

    /// How much longer than expected nearly all of its parts take: 1.5 times at least.
    pub(super) fn patience(&self) -> f64 {
        self.lateness.most().max(1.5)
    }
}

/// How many parts took how much longer than expected.
#[derive(Debug, Default)]
struct Lateness {
    /// By the time that it took in halves of what was expected: to half, to once, to one and a half and so on.
    counts: [u16; Self::PLACES],
    total: u16,
}

impl Lateness {
    /// Up to eight times as long.
    const PLACES: usize = 16;
    /// Less says nothing.
    const ENOUGH: u16 = 16;
    /// As many count half.
    const MANY: u16 = 256;

    fn note(&mut self, took: Duration, expected: Duration) {
        let ratio = took.as_secs_f64() / expected.as_secs_f64().max(1e-6);
        let place = ((2.0 * ratio) as usize).min(Self::PLACES - 1);
        if let Some(count) = self.counts.get_mut(place) {
            *count += 1;
        }
        self.total += 1;
        if self.total >= Self::MANY {
            self.counts = self.counts.map(|count| count / 2);
            self.total = self.counts.iter().sum();
        }
    }

    /// The ratio that 95 of 100 parts stay under; 0 if that is not known.
    fn most(&self) -> f64 {
        if self.total < Self::ENOUGH {
            return 0.0;
        }
        let mut above = self.total / 20;
        for (place, &count) in self.counts.iter().enumerate().rev() {
            if count > above {
                return (place + 1) as f64 / 2.0;
            }
            above -= count;
        }
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_rate_is_of_the_time_in_which_something_is_outstanding() {
        let (mut pace, mut now) = (Pace::new(), Instant::now());
        pace.measured(20 * MS);
        for _ in 0..100 {
            pace.begin(now);
            for _ in 0..4 {
                now += 10 * MS;
                pace.came(10_000, now + 20 * MS);
            }
            pace.end();
            now += Duration::from_secs(5);
        }
        let expected = pace.expected(100_000, Class::Peer);
        assert!((119 * MS..121 * MS).contains(&expected), "{expected:?}");
        let window = pace.window(60 * MS);
        assert!((79_000..81_000).contains(&window), "{window}");
    }

    /// Metadata comes in one go, and says nothing of how long much more takes.
    #[test]
    fn what_is_small_and_quick_opens_no_large_window() {
        let (mut pace, mut now) = (Pace::new(), Instant::now());
        pace.measured(MS);
        for _ in 0..4 {
            pace.begin(now);
            pace.came(5_000, now + MS);
            pace.end();
            now += Duration::from_secs(1);
        }
        let window = pace.window(60 * MS);
        assert!(window <= 40_000, "{window}");
        for _ in 0..8 {
            pace.begin(now);
            now += 10 * MS;
            pace.came(1_000_000, now);
            pace.end();
        }
        let window = pace.window(60 * MS);
        assert!(window >= 1_000_000, "{window}");
        // That packets wait behind what was asked for is a reason to ask for no more than twice as much.
        for _ in 0..100 {
            pace.measured(1000 * MS);
        }
        assert!(pace.window(60 * MS) <= 2 * window);
    }

    #[test]
    fn nearly_all_parts_are_waited_for() {
        let mut pace = Pace::new();
        assert_eq!(pace.patience(), 1.5);
        for part in 0..1000 {
            let took = if part % 10 == 0 { 32 * MS } else { 10 * MS };
            pace.part_took(took, 10 * MS);
        }
        assert_eq!(pace.patience(), 3.5);
        for _ in 0..1000 {
            pace.part_took(9 * MS, 10 * MS);
        }
        assert_eq!(pace.patience(), 1.5);
    }
}
