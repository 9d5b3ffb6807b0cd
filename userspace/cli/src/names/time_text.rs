// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Times and spans, as people write them.

use std::time::Duration;

use time::{Date, Month, OffsetDateTime, Time};

/// The span that a text means: a number with `s`, `m`, `h`, `d` or `w` behind it.
pub(super) fn parse_span(text: &str) -> Result<Duration, String> {
    let seconds = text.char_indices().last().and_then(|(place, unit)| {
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            'w' => 604_800,
            _ => return None,
        };
        let number: u32 = text.get(..place)?.parse().ok()?;
        u64::from(number).checked_mul(seconds)
    });
    let seconds = seconds.filter(|&seconds| seconds > 0);
    let expected = "a number with s, m, h, d or w behind it is expected, such as 30d";
    seconds.map(Duration::from_secs).ok_or(expected.to_owned())
}

/// What a name is to go back to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Target {
    /// A record, by its sequence, and the generation of its list of writers.
    Record(Option<u64>, u64),
    /// What it stood for at a time, in seconds since 1970.
    Time(u64),
}

/// The record or time that a text means: a number, or a date with or without a time of the day, in UTC.
pub(super) fn parse_target(text: &str) -> Result<Target, String> {
    let (generation, sequence) = match text.split_once('.') {
        Some((generation, sequence)) => (generation.parse().ok().map(Some), sequence),
        None => (Some(None), text),
    };
    if let (Some(generation), Ok(sequence)) = (generation, sequence.parse()) {
        return Ok(Target::Record(generation, sequence));
    }
    parse_time(text).map(Target::Time).ok_or_else(|| {
        "a sequence is expected, as `peerfs history` shows it, or a time in UTC, such as 2026-11-22 or \"2026-11-22 10:30\"".to_owned()
    })
}

fn parse_time(text: &str) -> Option<u64> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "0:0"));
    let mut date = date.splitn(3, '-');
    let year = date.next()?.parse().ok()?;
    let month = Month::try_from(date.next()?.parse::<u8>().ok()?).ok()?;
    let date = Date::from_calendar_date(year, month, date.next()?.parse().ok()?).ok()?;
    let mut time = time.splitn(3, ':');
    let (hour, minute) = (time.next()?.parse().ok()?, time.next()?.parse().ok()?);
    let second = time.next().map_or(Some(0), |second| second.parse().ok())?;
    let time = Time::from_hms(hour, minute, second).ok()?;
    date.with_time(time)
        .assume_utc()
        .unix_timestamp()
        .try_into()
        .ok()
}

/// `2026-11-22 10:30:07`, in UTC; the seconds since 1970 if the year has more than four digits.
pub(super) fn time_text(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok();
    let time = time.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.map_or(seconds.to_string(), |time| {
        let (month, day) = (u8::from(time.month()), time.day());
        let (hour, minute, second) = time.to_hms();
        let year = time.year();
        format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_times_are_what_they_say() {
        assert_eq!(parse_span("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_span("30d"), Ok(Duration::from_secs(30 * 86_400)));
        for wrong in [
            "",
            "d",
            "0d",
            "-1d",
            "1.5h",
            "30",
            "30 d",
            "5ü",
            "99999999999d",
        ] {
            assert!(parse_span(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_target("7"), Ok(Target::Record(None, 7)));
        assert_eq!(parse_target("2.7"), Ok(Target::Record(Some(2), 7)));
        let begun = parse_target("2026-11-22");
        assert_eq!(begun, Ok(Target::Time(1_795_305_600)));
        assert_eq!(
            parse_target("2026-11-22T10:30Z"),
            Ok(Target::Time(1_795_343_400))
        );
        assert_eq!(time_text(1_795_343_407), "2026-11-22 10:30:07");
        assert_eq!(
            parse_target(&time_text(1_795_343_407)),
            Ok(Target::Time(1_795_343_407))
        );
        for wrong in [
            "",
            "yesterday",
            "2.",
            ".7",
            "2026-13-01",
            "2026-02-30",
            "1969-12-31",
            "2026-11-22 25:00",
        ] {
            assert!(parse_target(wrong).is_err(), "{wrong}");
        }
    }
}
