// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Keeps anybody outside from filling the log: of lines that come from one place in the program, some a
//! minute are written, and it is said how many were not.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Metadata};
use tracing_subscriber::layer::{Context, Filter};

/// The lines of one place in [`PERIOD`].
const LINES_MAX: u32 = 60;
/// After it, they are counted anew.
const PERIOD: Duration = Duration::from_secs(60);

/// The limit. Clones are the same one.
#[derive(Clone, Default)]
pub struct LogLimit {
    places: Arc<Mutex<HashMap<Identifier, Place>>>,
}

/// A place in the program; there are as many as it has.
struct Place {
    name: &'static str,
    since: Instant,
    written: u32,
    left_out: u64,
}

impl LogLimit {
    /// Says once in a while what was left out, for the rest of the process.
    pub fn report(&self) {
        let limit = self.clone();
        // Without the thread nothing is said of it.
        let _ = thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || loop {
                thread::sleep(PERIOD);
                for (place, lines) in limit.left_out() {
                    tracing::warn!(place, lines, "left out of the log");
                }
            });
    }

    fn left_out(&self) -> Vec<(&'static str, u64)> {
        let mut places = self.lock();
        places
            .values_mut()
            .filter(|place| place.left_out > 0)
            .map(|place| (place.name, std::mem::take(&mut place.left_out)))
            .collect()
    }

    fn may_write(&self, metadata: &'static Metadata<'static>) -> bool {
        let now = Instant::now();
        self.lock()
            .entry(metadata.callsite())
            .or_insert_with(|| Place::new(metadata.name(), now))
            .may_write(now)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Identifier, Place>> {
        // Counts are valid after every step.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    fn new(name: &'static str, now: Instant) -> Self {
        Place {
            name,
            since: now,
            written: 0,
            left_out: 0,
        }
    }

    fn may_write(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= PERIOD {
            (self.since, self.written) = (now, 0);
        }
        if self.written < LINES_MAX {
            self.written += 1;
            return true;
        }
        self.left_out += 1;
        false
    }
}

impl<S> Filter<S> for LogLimit {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.may_write(event.metadata())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::Layer;

    use super::*;

    #[test]
    fn a_place_writes_some_lines_a_minute() {
        let start = Instant::now();
        let mut place = Place::new("place", start);
        // Ten a second, for five minutes.
        let written = (0..3000).filter(|step| {
            let now = start + Duration::from_millis(100) * *step;
            place.may_write(now)
        });
        assert_eq!(written.count(), 5 * LINES_MAX as usize);
        assert_eq!(place.left_out, 2700);
    }

    /// Counts the lines that are written.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_flood_from_one_place_does_not_drown_the_others() {
        let (limit, lines) = (LogLimit::default(), Lines::default());
        let written = lines.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || lines.clone())
            .with_filter(limit.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            for _ in 0..1000 {
                tracing::warn!("flood");
            }
            tracing::warn!("other");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches("flood").count(), LINES_MAX as usize);
        assert!(text.contains("other"));
        let left_out: Vec<u64> = limit.left_out().iter().map(|(_, lines)| *lines).collect();
        assert_eq!(left_out, [1000 - u64::from(LINES_MAX)]);
    }
}
