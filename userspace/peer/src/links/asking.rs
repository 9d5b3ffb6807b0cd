// SPDX-License-Identifier: GPL-2.0 OR MIT

//! When a node asks who is on a link, and when it answers.

use std::time::{Duration, Instant};

use crate::behaviour::MDNS_QUERY_INTERVAL;

/// The pause after the first question; it doubles until nobody is expected any more.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// An answer is sent at a random time in it, so that not all answer at once.
const ANSWERS: Duration = Duration::from_millis(500);
/// A node does not answer more often.
const ANSWER_PAUSE: Duration = Duration::from_secs(1);
/// When so many others have answered, a node says nothing: whoever asks dials no more. So a question brings a few dozen
/// messages on a link of a thousand nodes, and not a thousand.
const ANSWERS_ENOUGH: usize = 16;

/// What is to be sent on a link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Message {
    Question,
    Answer,
}

/// What a node says on one link.
#[derive(Debug)]
pub(super) struct Asking {
    question_at: Instant,
    pause: Duration,
    answer_at: Option<Instant>,
    answered: Option<Instant>,
    /// The answers of others since the last question.
    heard: usize,
}

impl Asking {
    /// On a link that has just come up.
    pub(super) fn new(now: Instant) -> Self {
        Asking {
            question_at: now,
            pause: PAUSE_MIN,
            answer_at: None,
            answered: None,
            heard: 0,
        }
    }

    /// Somebody asks; `random` is between 0 and 1.
    pub(super) fn asked(&mut self, random: f64, now: Instant) {
        self.heard = 0;
        let soonest = self.answered.map_or(now, |at| now.max(at + ANSWER_PAUSE));
        self.answer_at
            .get_or_insert(soonest + ANSWERS.mul_f64(random));
    }

    /// Somebody answers: there is no need to ask soon.
    pub(super) fn answered(&mut self, now: Instant) {
        self.heard += 1;
        if self.heard >= ANSWERS_ENOUGH {
            self.answer_at = None;
        }
        self.pause = MDNS_QUERY_INTERVAL;
        self.question_at = now + MDNS_QUERY_INTERVAL;
    }

    /// What is to be sent now, if anything is.
    pub(super) fn next(&mut self, now: Instant) -> Option<Message> {
        if self.answer_at.is_some_and(|at| at <= now) {
            self.answer_at = None;
            self.answered = Some(now);
            return Some(Message::Answer);
        }
        if self.question_at > now {
            return None;
        }
        self.question_at = now + self.pause;
        self.pause = (self.pause * 2).min(MDNS_QUERY_INTERVAL);
        Some(Message::Question)
    }

    /// When something is to be sent, if nothing happens before.
    pub(super) fn wakes_at(&self) -> Instant {
        self.answer_at
            .map_or(self.question_at, |at| at.min(self.question_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Nodes on a link, which hear what each of them says; returns how many questions and answers there were in so long.
    fn link(nodes: usize, lasts: Duration) -> (usize, usize) {
        let mut random = fastrand::Rng::with_seed(1);
        let start = Instant::now();
        let mut nodes: Vec<Asking> = (0..nodes).map(|_| Asking::new(start)).collect();
        // The first one has come later than the others, which know each other.
        for node in nodes.iter_mut().skip(1) {
            node.answered(start - SECOND);
        }
        let (mut questions, mut answers) = (0, 0);
        let mut now = start;
        while now < start + lasts {
            for speaker in 0..nodes.len() {
                let Some(message) = nodes[speaker].next(now) else {
                    continue;
                };
                for (listener, node) in nodes.iter_mut().enumerate() {
                    match message {
                        _ if listener == speaker => {}
                        Message::Question => node.asked(random.f64(), now),
                        Message::Answer => node.answered(now),
                    }
                }
                match message {
                    Message::Question => questions += 1,
                    Message::Answer => answers += 1,
                }
            }
            now += Duration::from_millis(1);
        }
        (questions, answers)
    }

    #[test]
    fn few_answer_however_many_there_are() {
        assert_eq!(link(2, 10 * SECOND), (1, 1));
        assert_eq!(link(10, 10 * SECOND), (1, 9));
        let (questions, answers) = link(1000, 10 * SECOND);
        assert_eq!(questions, 1);
        assert!(
            (ANSWERS_ENOUGH..=ANSWERS_ENOUGH + 8).contains(&answers),
            "{answers}"
        );
    }

    #[test]
    fn who_is_alone_asks_more_and_more_seldom() {
        let (questions, answers) = link(1, 60 * SECOND);
        assert!((7..=8).contains(&questions), "{questions}");
        assert_eq!(answers, 0);
    }

    #[test]
    fn who_is_asked_again_and_again_answers_once_a_second() {
        let (start, mut answers) = (Instant::now(), 0);
        let mut node = Asking::new(start);
        for step in 0..5000 {
            let now = start + Duration::from_millis(step);
            node.asked(0.0, now);
            answers += usize::from(node.next(now) == Some(Message::Answer));
        }
        assert_eq!(answers, 5);
    }
}
