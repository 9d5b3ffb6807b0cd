// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Which answers fit a request, credit, stalling and cancelling.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::*;
use crate::limits::CREDIT_STEP;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Whoever waits, and what came.
#[derive(Clone, Default)]
struct Listener {
    answers: Rc<RefCell<VecDeque<Answer>>>,
    is_gone: Rc<Cell<bool>>,
}

impl Waiter for Listener {
    fn answer(&self, answer: Answer) {
        self.answers.borrow_mut().push_back(answer);
    }

    fn is_gone(&self) -> bool {
        self.is_gone.get()
    }
}

impl Listener {
    fn next(&self) -> Option<Answer> {
        self.answers.borrow_mut().pop_front()
    }

    fn leave(&self) {
        self.is_gone.set(true);
    }
}

/// A requester with a request for these chunks, whose id is 0.
fn with_chunks(chunks: Vec<u32>, now: Instant) -> (Requester<Listener>, Listener) {
    let (mut requester, hello) = Requester::new();
    assert_eq!(hello, Request::Credit { bytes: WINDOW });
    let listener = Listener::default();
    let wanted = Wanted::Chunks {
        priority: Priority::Demand,
        pack: Digest([1; 32]),
        index: Digest([2; 32]),
        chunks,
    };
    requester.start(wanted, listener.clone(), now);
    (requester, listener)
}

fn chunk(number: u32, length: usize) -> Reply {
    Reply::ChunkData {
        request: 0,
        number,
        data: Bytes::from(vec![0; length]),
    }
}

#[test]
fn chunks_come_in_any_order_and_the_request_ends_with_the_last() {
    let now = Instant::now();
    let (mut requester, answers) = with_chunks(vec![3, 5, 8], now);
    requester.receive(chunk(8, 10), now).unwrap();
    let missing = Reply::ChunkNotFound {
        request: 0,
        number: 3,
    };
    requester.receive(missing, now).unwrap();
    requester.receive(chunk(5, 10), now).unwrap();
    let data = |length| Some(Bytes::from(vec![0; length]));
    assert_eq!(answers.next(), Some(Answer::Chunk(8, data(10))));
    assert_eq!(answers.next(), Some(Answer::Chunk(3, None)));
    assert_eq!(answers.next(), Some(Answer::Chunk(5, data(10))));
    assert_eq!(answers.next(), None);
    assert!(requester.outstanding.is_empty());
    assert_eq!(requester.stalled_at(TIMEOUT), None);
}

#[test]
fn answers_that_do_not_fit_are_violations() {
    let now = Instant::now();
    let wrong = [
        chunk(4, 10),
        Reply::ChunkNotFound {
            request: 0,
            number: 4,
        },
        Reply::BlobNotFound { request: 0 },
        Reply::Presence {
            request: 0,
            have: Have::Complete,
        },
    ];
    for reply in wrong {
        let (mut requester, _answers) = with_chunks(vec![3], now);
        assert_eq!(
            requester.receive(reply, now),
            Err(Violation::UnexpectedReply(0))
        );
    }
    let (mut requester, _answers) = with_chunks(vec![3, 4], now);
    requester.receive(chunk(3, 10), now).unwrap();
    assert_eq!(
        requester.receive(chunk(3, 10), now),
        Err(Violation::UnexpectedReply(0))
    );
}

#[test]
fn a_blob_must_be_as_long_as_it_says_and_no_longer_than_allowed() {
    let now = Instant::now();
    let piece = |length, size| Reply::BlobData {
        request: 0,
        length,
        data: Bytes::from(vec![7; size]),
    };
    let fetch = |pieces: &[(u64, usize)]| {
        let (mut requester, _) = Requester::new();
        let answers = Listener::default();
        let wanted = Wanted::Blob {
            priority: Priority::Demand,
            digest: Digest([1; 32]),
            maximum: 100,
        };
        requester.start(wanted, answers.clone(), now);
        for (length, size) in pieces {
            let free = requester.receive(piece(*length, *size), now)?;
            assert_eq!(free, *size as u32);
        }
        Ok(answers.next().map(|answer| match answer {
            Answer::Blob(bytes) => bytes.len(),
            other => panic!("{other:?}"),
        }))
    };
    assert_eq!(fetch(&[(100, 60)]), Ok(None));
    assert_eq!(fetch(&[(100, 60), (100, 40)]), Ok(Some(100)));
    assert_eq!(fetch(&[(0, 0)]), Ok(Some(0)));
    let unexpected = Err(Violation::UnexpectedReply(0));
    assert_eq!(fetch(&[(100, 60), (100, 41)]), unexpected);
    assert_eq!(fetch(&[(101, 1)]), unexpected);
    // The length does not change on the way.
    assert_eq!(fetch(&[(100, 60), (90, 30)]), unexpected);
}

#[test]
fn data_without_credit_is_a_violation() {
    let now = Instant::now();
    let (mut requester, _answers) = with_chunks((0..100).collect(), now);
    let fitting = WINDOW / DATA_MAX;
    for number in 0..fitting {
        requester
            .receive(chunk(number, DATA_MAX as usize), now)
            .unwrap();
    }
    assert_eq!(
        requester.receive(chunk(fitting, 1), now),
        Err(Violation::CreditExceeded)
    );
}

#[test]
fn credit_is_given_back_for_what_was_taken() {
    let now = Instant::now();
    let (mut requester, _answers) = with_chunks(vec![1, 2], now);
    // Whoever waits for chunks holds their bytes.
    assert_eq!(requester.receive(chunk(1, 1000), now), Ok(0));
    assert_eq!(requester.credit, WINDOW - 1000);
    let grant = requester.grant(1000, now);
    assert_eq!(grant, Request::Credit { bytes: 1000 });
    assert_eq!(requester.credit, WINDOW);
}

#[test]
fn only_a_peer_that_could_send_stalls() {
    let start = Instant::now();
    let (mut requester, answers) = with_chunks((0..100).collect(), start);
    assert_eq!(requester.stalled_at(TIMEOUT), Some(start + TIMEOUT));
    let later = start + Duration::from_secs(3);
    requester.receive(chunk(0, 1), later).unwrap();
    assert_eq!(requester.stalled_at(TIMEOUT), Some(later + TIMEOUT));
    for number in 1..WINDOW / DATA_MAX {
        requester
            .receive(chunk(number, DATA_MAX as usize), later)
            .unwrap();
    }
    // Less than a longest chunk is left of the window: now the taker is the slow one.
    assert_eq!(requester.stalled_at(TIMEOUT), None);
    while answers.next().is_some() {}
    let taken = later + Duration::from_secs(60);
    requester.grant(CREDIT_STEP, taken);
    assert_eq!(requester.stalled_at(TIMEOUT), Some(taken + TIMEOUT));
}

#[test]
fn abandoned_requests_are_cancelled_and_late_answers_passed_over() {
    let now = Instant::now();
    let (mut requester, answers) = with_chunks(vec![1, 2], now);
    assert!(requester.cancel_abandoned().is_empty());
    answers.leave();
    assert_eq!(
        requester.cancel_abandoned(),
        [Request::Cancel { request: 0 }]
    );
    let late = chunk(1, CREDIT_STEP as usize);
    assert_eq!(requester.receive(late, now), Ok(CREDIT_STEP));
}

/// A server that answers what nobody asked stalls, and gets neither credit nor for ever.
#[test]
fn junk_is_no_sign_of_life_gets_no_credit_and_ends() {
    let start = Instant::now();
    let (mut requester, _answers) = with_chunks(vec![1], start);
    let later = start + TIMEOUT / 2;
    let junk = |length| Reply::ChunkData {
        request: 9,
        number: 1,
        data: Bytes::from(vec![0; length]),
    };
    for _ in 0..STRAYS_MAX {
        assert_eq!(requester.receive(junk(1), later), Ok(0));
    }
    assert_eq!(requester.stalled_at(TIMEOUT), Some(start + TIMEOUT));
    assert_eq!(
        requester.receive(junk(1), later),
        Err(Violation::Unasked(9))
    );

    let (mut requester, _answers) = with_chunks(vec![1], start);
    let frames = STRAY_BYTES_MAX / DATA_MAX;
    for _ in 0..frames {
        assert_eq!(requester.receive(junk(DATA_MAX as usize), later), Ok(0));
    }
    let violation = requester.receive(junk(DATA_MAX as usize), later);
    assert_eq!(violation, Err(Violation::Unasked(9)));
}

/// What may still come for a cancelled request is what was asked, and no more.
#[test]
fn a_cancelled_request_is_answered_once() {
    let now = Instant::now();
    let (mut requester, answers) = with_chunks(vec![1, 2], now);
    answers.leave();
    requester.cancel_abandoned();
    assert_eq!(requester.stalled_at(TIMEOUT), None);
    for _ in 0..2 {
        requester.receive(chunk(1, 10), now).unwrap();
    }
    assert_eq!(requester.strays, 0);
    requester.receive(chunk(1, 10), now).unwrap();
    assert_eq!(requester.strays, 1);
}

#[test]
fn all_who_wait_are_told_of_the_end() {
    let now = Instant::now();
    let (mut requester, _answers) = with_chunks(vec![1, 2], now);
    assert_eq!(requester.drain().count(), 1);
    assert!(requester.is_idle());
}
