// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The latest time that a machine has seen: if its clock is set back, what has expired must not hold again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::record::time_at;

/// For how long a machine runs with a clock that shows an earlier time until that is believed. A clock that was once far ahead
/// must not have all names expire for ever, and who sets one back does so for longer than a restart.
pub const BEHIND_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The latest time that a machine has seen.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct LatestTime {
    /// In seconds since 1970.
    latest: u64,
    /// For how many seconds it has run with an earlier time since.
    behind: u64,
}

impl LatestTime {
    /// The time by which is judged what has expired, when the clock shows `now`.
    pub fn judge(&self, now: SystemTime) -> SystemTime {
        now.max(time_at(self.latest))
    }

    /// Takes note of what the clock shows, after the machine `ran` since the last time.
    pub fn note(&mut self, now: SystemTime, ran: Duration) {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.behind = self.behind.saturating_add(ran.as_secs());
        if now >= self.latest || self.behind >= BEHIND_MAX.as_secs() {
            *self = LatestTime {
                latest: now,
                behind: 0,
            };
        }
    }

    /// By how much the clock is behind.
    pub fn lead(&self, now: SystemTime) -> Duration {
        let latest = time_at(self.latest);
        latest.duration_since(now).unwrap_or_default()
    }

    /// A text for a file.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("numbers can be written as JSON")
    }

    /// What was saved so.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(60 * 60);

    #[test]
    fn a_clock_that_was_set_back_is_believed_after_a_week_and_not_before() {
        let start = UNIX_EPOCH + 500_000 * HOUR;
        let mut latest = LatestTime::default();
        assert_eq!(latest.judge(start), start);
        latest.note(start, Duration::ZERO);
        let earlier = start - 1000 * HOUR;
        assert_eq!(latest.judge(earlier), start);
        assert_eq!(latest.judge(start + HOUR), start + HOUR);
        // Starting again is no way around it, and does not take longer for it.
        for hour in 0..7 * 24 - 1 {
            latest.note(earlier + hour * HOUR, HOUR);
            latest = LatestTime::parse(latest.to_text().as_bytes()).unwrap();
            latest.note(earlier + hour * HOUR, Duration::ZERO);
            assert_eq!(latest.judge(earlier), start, "{hour}");
        }
        assert_eq!(latest.lead(earlier), 1000 * HOUR);
        latest.note(earlier, HOUR);
        assert_eq!(latest.judge(earlier), earlier);
        // Who was right in between begins anew.
        latest.note(start, HOUR);
        latest.note(earlier, 100 * HOUR);
        latest.note(start, HOUR);
        latest.note(earlier, 100 * HOUR);
        assert_eq!(latest.judge(earlier), start);
    }

    #[test]
    fn no_time_is_too_much() {
        let end = LatestTime::parse(br#"{"latest":18446744073709551615,"behind":0}"#).unwrap();
        assert!(end.judge(UNIX_EPOCH) >= UNIX_EPOCH);
        let mut latest = end;
        latest.note(UNIX_EPOCH - HOUR, BEHIND_MAX);
        assert_eq!(latest.judge(UNIX_EPOCH), UNIX_EPOCH);
        for text in ["", "{}", "{\"latest\":-1,\"behind\":0}", "7"] {
            assert!(LatestTime::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
