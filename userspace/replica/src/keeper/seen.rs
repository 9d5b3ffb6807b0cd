// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is known of another node's copy of an image.

use std::time::{Duration, Instant};

use super::Outcome;

/// How long a proof is good for.
const PROOF_LASTS: Duration = Duration::from_secs(60 * 60);
/// Checks that fail one after the other before a copy is taken to be gone, and proofs.
const FAILURES: u32 = 2;
/// How long the answer to a check may take before it is asked again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Another node's copy of an image.
pub(super) struct Seen {
    state: State,
    /// When it is checked next, be it that the last check was never answered for.
    due: Instant,
    /// How often it is checked.
    interval: Duration,
    /// Whether the last check asked for a chunk.
    asked_proof: bool,
    /// Checks without an answer, one after the other, and the first of them.
    failures: u32,
    failing_since: Option<Instant>,
    /// Proofs that were wrong, one after the other.
    lies: u32,
    /// When a proof was right last.
    proven: Option<Instant>,
    /// Since when it should have the image and does not.
    expected_since: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// It was not heard yet.
    Unknown,
    /// It has all of it, as it says.
    Has,
    /// It has a part, and had as much the first time then.
    Coming { chunks: u64, since: Instant },
    /// It has nothing of it, or is gone.
    HasNot,
}

impl Seen {
    pub(super) fn new(now: Instant) -> Self {
        Seen {
            state: State::Unknown,
            due: now,
            interval: Duration::ZERO,
            asked_proof: false,
            failures: 0,
            failing_since: None,
            lies: 0,
            proven: None,
            expected_since: None,
        }
    }

    /// Whether it has the image, as far as can be known.
    pub(super) fn has(&self) -> bool {
        self.state == State::Has && self.failures < FAILURES && self.lies < FAILURES
    }

    /// Whether it has sent a chunk of the image.
    pub(super) fn is_proven(&self) -> bool {
        self.has() && self.proven.is_some() && self.lies == 0
    }

    /// Whether anything was heard of it, be it that it does not answer.
    pub(super) fn is_known(&self) -> bool {
        self.state != State::Unknown || self.failures > 0
    }

    /// Whether it had the image, or should, and is taken not to have it.
    pub(super) fn is_missed(&self) -> bool {
        self.failures >= FAILURES || self.lies >= FAILURES
    }

    /// Whether it is one of those who will have it. One that is expected to and has nothing has some time for it.
    pub(super) fn counts(&mut self, is_expected: bool, patience: Duration, now: Instant) -> bool {
        if self.lies >= FAILURES {
            return false;
        }
        if self.has() {
            self.expected_since = None;
            return true;
        }
        if let State::Coming { since, .. } = self.state {
            if self.failures < FAILURES && now.saturating_duration_since(since) < patience {
                return true;
            }
        }
        if !is_expected {
            self.expected_since = None;
            return false;
        }
        // From the first check that failed.
        let since = *self
            .expected_since
            .get_or_insert(self.failing_since.unwrap_or(now));
        now.saturating_duration_since(since) < patience
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due <= now
    }

    /// When it is to be checked next.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Notes that it is asked now, and is to be asked again after this time; whether a chunk is to be asked for.
    pub(super) fn ask(
        &mut self,
        interval: Duration,
        random: &mut fastrand::Rng,
        now: Instant,
    ) -> bool {
        self.interval = vary(interval, random);
        self.due = now + self.interval.max(ANSWER_TIMEOUT);
        let lasts = vary(PROOF_LASTS, random);
        let is_fresh = |proven| now.saturating_duration_since(proven) < lasts;
        self.asked_proof = self.lies > 0 || !self.proven.is_some_and(is_fresh);
        self.asked_proof
    }

    /// Notes what a check has shown; one that failed is soon repeated.
    pub(super) fn note(
        &mut self,
        outcome: Outcome,
        check: Duration,
        random: &mut fastrand::Rng,
        now: Instant,
    ) {
        let had = self.has();
        if outcome == Outcome::Silent {
            self.failures = self.failures.saturating_add(1);
            self.failing_since.get_or_insert(now);
        } else {
            self.failures = 0;
            self.failing_since = None;
        }
        match outcome {
            Outcome::Whole => {
                self.state = State::Has;
                self.lies = 0;
                if self.asked_proof {
                    self.proven = Some(now);
                }
            }
            Outcome::Wrong => {
                self.state = State::Has;
                self.lies = self.lies.saturating_add(1);
            }
            Outcome::Part(chunks) => {
                self.state = match self.state {
                    State::Coming {
                        chunks: before,
                        since,
                    } if before >= chunks => State::Coming {
                        chunks: before,
                        since,
                    },
                    _ => State::Coming { chunks, since: now },
                };
            }
            Outcome::Nothing => self.state = State::HasNot,
            Outcome::Silent => (),
        }
        let is_doubtful = match outcome {
            Outcome::Silent => self.failures < FAILURES,
            Outcome::Wrong => self.lies < FAILURES,
            Outcome::Nothing => had,
            Outcome::Whole | Outcome::Part(_) => false,
        };
        let interval = match is_doubtful {
            true => vary(check / 2, random),
            false => self.interval,
        };
        self.due = now + interval;
    }
}

/// A time that differs from node to node, by a fifth at most.
fn vary(time: Duration, random: &mut fastrand::Rng) -> Duration {
    time.mul_f64(0.8 + 0.4 * random.f64())
}
