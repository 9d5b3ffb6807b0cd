// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Which answers fit a request, credit, stalling and cancelling.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::limits::{piece_size, CREDIT_STEP, PIECE_MAX, RETRY_MAX};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Whoever waits, and what came.
#[derive(Clone, Default)]
struct Listener {
    answers: Rc<RefCell<VecDeque<Answer>>>,
    progressed: Rc<Cell<Option<Instant>>>,
    is_gone: Rc<Cell<bool>>,
}

impl Waiter for Listener {
    fn answer(&self, answer: Answer) {
        self.answers.borrow_mut().push_back(answer);
    }

    fn progressed(&self, at: Instant) {
        self.progressed.set(Some(at));
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
        through: false,
        chunks,
    };
    requester.start(wanted, listener.clone(), now);
    (requester, listener)
}

/// The piece at `offset` of a chunk of `total` bytes.
fn piece(number: u32, offset: u32, total: u32) -> Reply {
    let size = piece_size(total.into(), offset.into());
    Reply::ChunkData {
        request: 0,
        number,
        offset,
        total,
        data: (offset..offset + size).map(|byte| byte as u8).collect(),
    }
}

/// The pieces of a chunk.
fn pieces(number: u32, total: u32) -> impl Iterator<Item = Reply> {
    let offsets = (0..total).step_by(PIECE_MAX as usize);
    offsets.map(move |offset| piece(number, offset, total))
}

/// What is answered when such a chunk came.
fn answer(number: u32, total: u32) -> Option<Answer> {
    let bytes = (0..total).map(|byte| byte as u8).collect();
    Some(Answer::Chunk(number, Some(bytes)))
}

fn not_found(number: u32) -> Reply {
    Reply::ChunkNotFound { request: 0, number }
}

#[test]
fn chunks_come_in_any_order_and_the_request_ends_with_the_last() {
    let now = Instant::now();
    let (mut requester, answers) = with_chunks(vec![3, 5, 8], now);
    requester.receive(piece(8, 0, 10), now).unwrap();
    requester.receive(not_found(3), now).unwrap();
    for piece in pieces(5, 2 * PIECE_MAX + 7) {
        assert_eq!(requester.receive(piece, now), Ok(0));
    }
    assert_eq!(answers.next(), answer(8, 10));
    assert_eq!(answers.next(), Some(Answer::Chunk(3, None)));
    assert_eq!(answers.next(), answer(5, 2 * PIECE_MAX + 7));
    assert_eq!(answers.next(), None);
    assert!(requester.outstanding.is_empty());
    assert_eq!(requester.stalled_at(TIMEOUT), None);
}

#[test]
fn answers_that_do_not_fit_are_violations() {
    let now = Instant::now();
    let wrong = [
        piece(4, 0, 10),
        piece(3, PIECE_MAX, 2 * PIECE_MAX),
        not_found(4),
        Reply::BlobNotFound { request: 0 },
        Reply::Presence {
            request: 0,
            have: Have::Complete,
        },
        Reply::Other {
            request: 0,
            kind: 23,
            payload: Bytes::new(),
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
    requester.receive(piece(3, 0, 10), now).unwrap();
    assert_eq!(
        requester.receive(piece(3, 0, 10), now),
        Err(Violation::UnexpectedReply(0))
    );
}

/// Nothing fits behind the first piece of a chunk but the second one of the same chunk.
#[test]
fn pieces_that_do_not_add_up_are_violations() {
    let now = Instant::now();
    let total = 3 * PIECE_MAX;
    for wrong in [
        piece(3, 0, total),
        piece(3, 2 * PIECE_MAX, total),
        piece(3, PIECE_MAX, total + 1),
        piece(3, PIECE_MAX, total - 1),
        piece(4, 0, total),
        piece(4, PIECE_MAX, total),
        not_found(3),
        not_found(4),
    ] {
        let (mut requester, answers) = with_chunks(vec![3, 4], now);
        requester.receive(piece(3, 0, total), now).unwrap();
        let unexpected = Err(Violation::UnexpectedReply(0));
        assert_eq!(
            requester.receive(wrong.clone(), now),
            unexpected,
            "{wrong:?}"
        );
        assert_eq!(answers.next(), None);
    }
}

#[test]
fn a_blob_must_be_as_long_as_it_says_and_no_longer_than_allowed() {
    let now = Instant::now();
    let piece = |sent_length: u64, length: u64, size: usize| Reply::BlobData {
        request: 0,
        encoding: match sent_length == length {
            true => Encoding::Plain,
            false => Encoding::Zstd,
        },
        sent_length,
        length,
        data: Bytes::from(vec![7; size]),
    };
    let fetch = |pieces: &[(u64, u64, usize)]| {
        let (mut requester, _) = Requester::new();
        let answers = Listener::default();
        let wanted = Wanted::Blob {
            priority: Priority::Demand,
            digest: Digest([1; 32]),
            maximum: 100_000,
        };
        requester.start(wanted, answers.clone(), now);
        for (sent_length, length, size) in pieces {
            let free = requester.receive(piece(*sent_length, *length, *size), now)?;
            assert_eq!(free, *size as u32);
        }
        Ok(answers.next().map(|answer| match answer {
            Answer::Blob(blob) => (blob.length, blob.bytes.len()),
            other => panic!("{other:?}"),
        }))
    };
    let whole = PIECE_MAX as usize;
    assert_eq!(fetch(&[(40_000, 40_000, whole)]), Ok(None));
    let all = [(40_000, 40_000, whole), (40_000, 40_000, 40_000 - whole)];
    assert_eq!(fetch(&all), Ok(Some((40_000, 40_000))));
    assert_eq!(fetch(&[(0, 0, 0)]), Ok(Some((0, 0))));
    assert_eq!(fetch(&[(10, 100_000, 10)]), Ok(Some((100_000, 10))));
    let unexpected = Err(Violation::UnexpectedReply(0));
    // Too long, whatever is sent of it; too short a piece; more than all.
    assert_eq!(fetch(&[(100_001, 100_001, whole)]), unexpected);
    assert_eq!(fetch(&[(10, 100_001, 10)]), unexpected);
    assert_eq!(fetch(&[(40_000, 40_000, whole - 1)]), unexpected);
    assert_eq!(
        fetch(&[(40_000, 40_000, whole), (40_000, 40_000, whole)]),
        unexpected
    );
    // Nothing of it changes on the way.
    for other in [(40_001, 40_001), (40_000, 50_000), (39_999, 40_000)] {
        let size = piece_size(other.0, whole as u64) as usize;
        let pieces = [(40_000, 40_000, whole), (other.0, other.1, size)];
        assert_eq!(fetch(&pieces), unexpected, "{other:?}");
    }
}

#[test]
fn data_without_credit_is_a_violation() {
    let now = Instant::now();
    let (mut requester, _answers) = with_chunks((0..100).collect(), now);
    let fitting = WINDOW / CHUNK_CREDIT;
    for number in 0..fitting {
        for piece in pieces(number, CHUNK_CREDIT) {
            requester.receive(piece, now).unwrap();
        }
    }
    assert_eq!(
        requester.receive(piece(fitting, 0, 1), now),
        Err(Violation::CreditExceeded)
    );
}

#[test]
fn credit_is_given_back_for_what_was_taken() {
    let now = Instant::now();
    let (mut requester, _answers) = with_chunks(vec![1, 2], now);
    // Whoever waits for chunks holds their bytes.
    assert_eq!(requester.receive(piece(1, 0, 1000), now), Ok(0));
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
    requester.receive(piece(0, 0, 1), later).unwrap();
    assert_eq!(requester.stalled_at(TIMEOUT), Some(later + TIMEOUT));
    for number in 1..WINDOW / CHUNK_CREDIT {
        for piece in pieces(number, CHUNK_CREDIT) {
            requester.receive(piece, later).unwrap();
        }
    }
    // Less than a longest chunk is left of the window: now the taker is the slow one.
    assert_eq!(requester.stalled_at(TIMEOUT), None);
    while answers.next().is_some() {}
    let taken = later + Duration::from_secs(60);
    requester.grant(1, taken);
    assert_eq!(requester.stalled_at(TIMEOUT), Some(taken + TIMEOUT));
    // It has begun another one, and has credit for all of it.
    for piece in pieces(99, CHUNK_CREDIT) {
        assert_eq!(requester.stalled_at(TIMEOUT), Some(taken + TIMEOUT));
        requester.receive(piece, taken).unwrap();
    }
    assert_eq!(requester.stalled_at(TIMEOUT), None);
    requester.grant(CREDIT_STEP, taken);
    assert_eq!(requester.stalled_at(TIMEOUT), Some(taken + TIMEOUT));
}

/// On a slow line a piece takes longer than that: each byte of it counts, if it belongs to something that was asked
/// for.
#[test]
fn bytes_of_an_unfinished_frame_are_signs_of_life() {
    let start = Instant::now();
    let (mut requester, answers) = with_chunks(vec![1], start);
    let later = start + TIMEOUT / 2;
    requester.progressed(9, later);
    assert_eq!(requester.stalled_at(TIMEOUT), Some(start + TIMEOUT));
    assert_eq!(answers.progressed.get(), None);
    requester.progressed(0, later);
    assert_eq!(requester.stalled_at(TIMEOUT), Some(later + TIMEOUT));
    assert_eq!(answers.progressed.get(), Some(later));
    // What is known already changes nothing.
    requester.progressed(0, start);
    assert_eq!(requester.stalled_at(TIMEOUT), Some(later + TIMEOUT));
    let piece_came = start + TIMEOUT;
    requester
        .receive(piece(1, 0, CHUNK_CREDIT), piece_came)
        .unwrap();
    assert_eq!(answers.progressed.get(), Some(piece_came));
    assert_eq!(requester.stalled_at(TIMEOUT), Some(piece_came + TIMEOUT));
}

#[test]
fn abandoned_requests_are_cancelled_and_late_answers_passed_over() {
    let now = Instant::now();
    let (mut requester, answers) = with_chunks(vec![1, 2], now);
    let mut of_chunk = pieces(1, CHUNK_CREDIT);
    requester.receive(of_chunk.next().unwrap(), now).unwrap();
    assert_eq!(requester.cancel_abandoned(), Abandoned::default());
    answers.leave();
    let abandoned = Abandoned {
        cancels: vec![Request::Cancel { request: 0 }],
        // Nobody will take what came of the chunk.
        free: PIECE_MAX,
    };
    assert_eq!(requester.cancel_abandoned(), abandoned);
    for late in of_chunk {
        assert_eq!(requester.receive(late, now), Ok(PIECE_MAX));
    }
}

#[test]
fn a_busy_peer_says_for_how_long() {
    let now = Instant::now();
    for (said, expected) in [
        (1500, Duration::from_millis(1500)),
        (u32::MAX, RETRY_MAX),
        (0, Duration::ZERO),
    ] {
        let (mut requester, answers) = with_chunks(vec![1, 2], now);
        requester.receive(piece(1, 0, CHUNK_CREDIT), now).unwrap();
        let busy = Reply::Busy {
            request: 0,
            retry_after: said,
        };
        // What came of the chunk is nobody's.
        assert_eq!(requester.receive(busy, now), Ok(PIECE_MAX));
        let retry_after = expected;
        assert_eq!(answers.next(), Some(Answer::Busy { retry_after }));
        assert!(requester.is_idle());
    }
    let (mut requester, answers) = with_chunks(vec![1], now);
    let not_served = Reply::NotServed { request: 0 };
    assert_eq!(requester.receive(not_served, now), Ok(0));
    assert_eq!(answers.next(), Some(Answer::NotServed));
}

/// A server that answers what nobody asked stalls, and gets neither credit nor for ever.
#[test]
fn junk_is_no_sign_of_life_gets_no_credit_and_ends() {
    let start = Instant::now();
    let later = start + TIMEOUT / 2;
    let chunk = |length: usize| Reply::ChunkData {
        request: 9,
        number: 1,
        offset: 0,
        total: length as u32,
        data: vec![0; length].into(),
    };
    let unknown = |length: usize| Reply::Other {
        request: 9,
        kind: 23,
        payload: vec![0; length].into(),
    };
    let kinds: [&dyn Fn(usize) -> Reply; 2] = [&chunk, &unknown];
    for junk in kinds {
        let (mut requester, _answers) = with_chunks(vec![1], start);
        for _ in 0..STRAYS_MAX {
            assert_eq!(requester.receive(junk(1), later), Ok(0));
        }
        assert_eq!(requester.stalled_at(TIMEOUT), Some(start + TIMEOUT));
        let violation = requester.receive(junk(1), later);
        assert_eq!(violation, Err(Violation::Unasked(9)));

        let (mut requester, _answers) = with_chunks(vec![1], start);
        let piece = PIECE_MAX as usize;
        for _ in 0..STRAY_BYTES_MAX / PIECE_MAX {
            assert_eq!(requester.receive(junk(piece), later), Ok(0));
        }
        let violation = requester.receive(junk(piece), later);
        assert_eq!(violation, Err(Violation::Unasked(9)));
    }
}

/// What may still come for a cancelled request is what was asked, and no more.
#[test]
fn a_cancelled_request_is_answered_once() {
    let now = Instant::now();
    let (mut requester, answers) = with_chunks(vec![1, 2], now);
    answers.leave();
    requester.cancel_abandoned();
    assert_eq!(requester.stalled_at(TIMEOUT), None);
    for piece in pieces(1, CHUNK_CREDIT).chain(pieces(2, CHUNK_CREDIT)) {
        requester.receive(piece, now).unwrap();
    }
    assert_eq!(requester.strays, 0);
    requester.receive(piece(1, 0, 10), now).unwrap();
    assert_eq!(requester.strays, 1);
}

proptest! {
    /// Whatever a server says of two chunks: who waits gets bytes only of what was asked for, once, as long as was
    /// said and no more than the window in all.
    #[test]
    fn whatever_comes_chunks_are_whole(
        said in proptest::collection::vec((0..4_u32, 0..4_u32, 1..4_u32, any::<bool>()), 0..40)
    ) {
        let now = Instant::now();
        let (mut requester, answers) = with_chunks(vec![1, 2], now);
        let mut received = 0;
        for (number, place, places, found) in said {
            let reply = match found {
                true if place < places => piece(number, place * PIECE_MAX, places * PIECE_MAX),
                _ => not_found(number),
            };
            received += reply.data_length();
            if requester.receive(reply, now).is_err() {
                break;
            }
        }
        let mut answered = Vec::new();
        let mut taken = 0;
        while let Some(Answer::Chunk(number, bytes)) = answers.next() {
            answered.push(number);
            if let Some(bytes) = bytes {
                taken += bytes.len() as u32;
                prop_assert_eq!(answer(number, bytes.len() as u32), Some(Answer::Chunk(number, Some(bytes))));
            }
        }
        prop_assert!(taken <= received && received <= WINDOW);
        answered.sort_unstable();
        prop_assert!([&[][..], &[1], &[2], &[1, 2]].contains(&answered.as_slice()));
    }
}

#[test]
fn all_who_wait_are_told_of_the_end() {
    let now = Instant::now();
    let (mut requester, _answers) = with_chunks(vec![1, 2], now);
    assert_eq!(requester.drain().count(), 1);
    assert!(requester.is_idle());
}

/// News come or do not; nobody waits for them, and they are no answer to anything else.
#[test]
fn news_are_not_waited_for() {
    let now = Instant::now();
    let (mut requester, _) = Requester::new();
    let (news, chunks) = (Listener::default(), Listener::default());
    let manifest = Digest([3; 32]);
    requester.start(Wanted::News { manifest }, news.clone(), now);
    assert!(!requester.is_idle());
    assert_eq!(requester.stalled_at(TIMEOUT), None);
    let pack = Digest([1; 32]);
    let delta = |request| Reply::HaveDelta {
        request,
        pack,
        runs: vec![1..3, 5..6],
    };
    requester.receive(delta(0), now).unwrap();
    let gained = Answer::Gained(pack, vec![1..3, 5..6]);
    assert_eq!(news.next(), Some(gained));
    assert_eq!(requester.stalled_at(TIMEOUT), None);

    let wanted = Wanted::Have { digest: pack };
    requester.start(wanted, chunks.clone(), now);
    assert_eq!(requester.stalled_at(TIMEOUT), Some(now + TIMEOUT));
    let violation = requester.receive(delta(1), now);
    assert_eq!(violation, Err(Violation::UnexpectedReply(1)));
    // Unasked.
    for _ in 0..STRAYS_MAX {
        requester.receive(delta(7), now).unwrap();
    }
    let violation = requester.receive(delta(7), now);
    assert_eq!(violation, Err(Violation::Unasked(7)));
    assert_eq!((news.next(), chunks.next()), (None, None));
}
