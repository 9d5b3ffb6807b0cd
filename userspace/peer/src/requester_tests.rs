// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Which answers fit a request, credit, stalling and cancelling.

use bytes::Bytes;
use peerfs_format::Digest;
use tokio::sync::{mpsc, Semaphore};

use super::*;
use crate::limits::CREDIT_STEP;
use crate::want::ChunkAnswer;
use crate::{Have, Priority};

const TIMEOUT: Duration = Duration::from_secs(5);

fn permit() -> OwnedSemaphorePermit {
    Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap()
}

/// A requester with a request for these chunks, whose id is 0.
fn with_chunks(chunks: Vec<u32>, now: Instant) -> (Requester, mpsc::Receiver<ChunkAnswer>) {
    let (mut requester, hello) = Requester::new();
    assert_eq!(hello, Request::Credit { bytes: WINDOW });
    let (answer, answers) = mpsc::channel(chunks.len() + 1);
    let want = Want::Chunks {
        priority: Priority::Demand,
        pack: Digest([1; 32]),
        index: Digest([2; 32]),
        chunks,
        answer,
    };
    requester.start(want, permit(), now);
    (requester, answers)
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
    let (mut requester, mut answers) = with_chunks(vec![3, 5, 8], now);
    requester.receive(chunk(8, 10), now).unwrap();
    let missing = Reply::ChunkNotFound {
        request: 0,
        number: 3,
    };
    requester.receive(missing, now).unwrap();
    requester.receive(chunk(5, 10), now).unwrap();
    let numbers: Vec<_> = std::iter::from_fn(|| answers.try_recv().ok())
        .map(|answer| answer.unwrap())
        .map(|(number, delivered)| (number, delivered.is_some()))
        .collect();
    assert_eq!(numbers, [(8, true), (3, false), (5, true)]);
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
        let (answer, mut answers) = mpsc::channel(1);
        let want = Want::Blob {
            priority: Priority::Demand,
            digest: Digest([1; 32]),
            maximum: 100,
            answer,
        };
        requester.start(want, permit(), now);
        for (length, size) in pieces {
            requester.receive(piece(*length, *size), now)?;
        }
        Ok(answers.try_recv().ok().map(|answer| answer.unwrap().len()))
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
fn credit_is_given_back_when_bytes_are_taken() {
    let now = Instant::now();
    let (mut requester, mut answers) = with_chunks(vec![1, 2], now);
    let length = CREDIT_STEP as usize - 1;
    requester.receive(chunk(1, length), now).unwrap();
    assert_eq!(requester.grant(now), None);
    let (_, delivered) = answers.try_recv().unwrap().unwrap();
    assert_eq!(delivered.unwrap().take().len(), length);
    assert_eq!(requester.grant(now), None);
    requester.receive(chunk(2, 1), now).unwrap();
    drop(answers.try_recv().unwrap());
    let grant = requester.grant(now);
    assert_eq!(grant, Some(Request::Credit { bytes: CREDIT_STEP }));
    assert_eq!(requester.credit, WINDOW);
}

#[test]
fn only_a_peer_that_could_send_stalls() {
    let start = Instant::now();
    let (mut requester, mut answers) = with_chunks((0..100).collect(), start);
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
    while answers.try_recv().is_ok() {}
    let taken = later + Duration::from_secs(60);
    assert!(requester.grant(taken).is_some());
    assert_eq!(requester.stalled_at(TIMEOUT), Some(taken + TIMEOUT));
}

#[test]
fn abandoned_requests_are_cancelled_and_late_answers_passed_over() {
    let now = Instant::now();
    let (mut requester, answers) = with_chunks(vec![1, 2], now);
    assert!(requester.cancel_abandoned().is_empty());
    drop(answers);
    assert_eq!(
        requester.cancel_abandoned(),
        [Request::Cancel { request: 0 }]
    );
    requester
        .receive(chunk(1, CREDIT_STEP as usize), now)
        .unwrap();
    assert!(requester.grant(now).is_some());
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
        requester.receive(junk(1), later).unwrap();
    }
    assert_eq!(requester.stalled_at(TIMEOUT), Some(start + TIMEOUT));
    assert_eq!(requester.taken.collect(), None);
    assert_eq!(
        requester.receive(junk(1), later),
        Err(Violation::Unasked(9))
    );

    let (mut requester, _answers) = with_chunks(vec![1], start);
    let frames = STRAY_BYTES_MAX / DATA_MAX;
    for _ in 0..frames {
        requester.receive(junk(DATA_MAX as usize), later).unwrap();
    }
    assert_eq!(requester.taken.collect(), None);
    let violation = requester.receive(junk(DATA_MAX as usize), later);
    assert_eq!(violation, Err(Violation::Unasked(9)));
}

/// What may still come for a cancelled request is what was asked, and no more.
#[test]
fn a_cancelled_request_is_answered_once() {
    let now = Instant::now();
    let (mut requester, answers) = with_chunks(vec![1, 2], now);
    drop(answers);
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
fn all_requests_fail_together() {
    let now = Instant::now();
    let (mut requester, mut answers) = with_chunks(vec![1, 2], now);
    requester.fail(&RequestError::Disconnected);
    assert!(matches!(
        answers.try_recv(),
        Ok(Err(RequestError::Disconnected))
    ));
}
