// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The order of answers, credit, cancelling and refusing.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::frame::Encoding;
use crate::limits::CHUNKS_PER_REQUEST;
use crate::Have;

fn credit(bytes: u32) -> Request {
    Request::Credit { bytes }
}

fn want_chunks(request: u32, priority: Priority, chunks: impl IntoIterator<Item = u32>) -> Request {
    Request::WantChunks {
        request,
        priority,
        pack: Digest([1; 32]),
        index: Digest([2; 32]),
        through: false,
        chunks: chunks.into_iter().collect(),
    }
}

fn have(request: u32) -> Request {
    Request::Have {
        request,
        digest: Digest([1; 32]),
    }
}

fn responder(frames: impl IntoIterator<Item = Request>) -> Responder {
    let mut responder = Responder::default();
    for frame in frames {
        assert_eq!(responder.receive(frame), Ok(()));
    }
    responder
}

/// A chunk of so many bytes.
fn chunk(length: u32) -> Found {
    Found::Chunk(vec![0; length as usize].into())
}

/// The frames that are to be sent now.
fn replies(responder: &mut Responder) -> Vec<Reply> {
    let next = || Some(responder.next_reply()?.reply);
    std::iter::from_fn(next).collect()
}

/// The chunks of the next steps, until there is none.
fn chunks(responder: &mut Responder) -> Vec<(u32, u32)> {
    let mut chunks = Vec::new();
    while let Some(step) = responder.next_step(&Copies::default()) {
        let Step::Chunk {
            request, number, ..
        } = step
        else {
            panic!("{step:?}");
        };
        chunks.push((request, number));
        responder.finish(step, chunk(CHUNK_CREDIT));
        let pieces = replies(responder);
        assert_eq!(pieces.len() as u32, CHUNK_CREDIT / PIECE_MAX);
    }
    chunks
}

fn is_at_rest(responder: &Responder) -> bool {
    let is_free = responder.live.is_empty() && responder.answers == 0;
    is_free && responder.forgotten.is_empty() && responder.under_way == [0; 3]
}

#[test]
fn urgent_requests_come_first_and_equal_ones_take_turns() {
    let mut responder = responder([
        credit(CREDIT_MAX),
        want_chunks(1, Priority::Background, [1]),
        want_chunks(2, Priority::Readahead, [1, 2, 3]),
        want_chunks(3, Priority::Readahead, [7, 8]),
        want_chunks(4, Priority::Demand, [9]),
    ]);
    assert_eq!(
        chunks(&mut responder),
        [(4, 9), (2, 1), (3, 7), (2, 2), (3, 8), (2, 3), (1, 1)]
    );
    assert!(is_at_rest(&responder));
}

#[test]
fn data_waits_for_credit_and_questions_do_not() {
    let mut responder = responder([want_chunks(1, Priority::Demand, 0..10), have(2)]);
    let step = responder.next_step(&Copies::default()).unwrap();
    assert!(matches!(step, Step::Have { request: 2, .. }));
    responder.finish(step, Found::Have(Have::Complete));
    let reply = Reply::Presence {
        request: 2,
        have: Have::Complete,
    };
    assert_eq!(replies(&mut responder), [reply]);
    assert_eq!(responder.next_step(&Copies::default()), None);
    responder.receive(credit(3 * CHUNK_CREDIT - 1)).unwrap();
    assert_eq!(chunks(&mut responder).len(), 2);
    responder.receive(credit(1)).unwrap();
    assert_eq!(chunks(&mut responder).len(), 1);
}

/// A blob's piece needs less than a chunk, and does not take it from one.
#[test]
fn what_is_urgent_waits_for_its_credit_before_others() {
    let blob = Request::WantBlob {
        request: 2,
        priority: Priority::Readahead,
        digest: Digest([3; 32]),
        maximum: 100,
        zstd: false,
    };
    let mut responder = responder([
        credit(CHUNK_CREDIT - 1),
        want_chunks(1, Priority::Demand, [7]),
        blob,
    ]);
    assert_eq!(responder.next_step(&Copies::default()), None);
    responder.receive(credit(1)).unwrap();
    assert_eq!(
        responder
            .next_step(&Copies::default())
            .map(|step| step.request()),
        Some(1)
    );
}

#[test]
fn credit_that_short_data_did_not_need_is_left() {
    let mut responder = responder([credit(CHUNK_CREDIT), want_chunks(1, Priority::Demand, 0..2)]);
    let step = responder.next_step(&Copies::default()).unwrap();
    assert_eq!(responder.next_step(&Copies::default()), None);
    responder.finish(step, Found::Chunk(Bytes::from_static(b"short")));
    assert_eq!(responder.credit, CHUNK_CREDIT - 5);
    assert_eq!(responder.next_step(&Copies::default()), None);
    responder.receive(credit(5)).unwrap();
    assert!(responder.next_step(&Copies::default()).is_some());
}

/// What is asked for while a chunk is being sent waits for a piece of it, whatever else was read before.
#[test]
fn a_demand_waits_for_no_more_than_a_piece() {
    let ahead = want_chunks(1, Priority::Background, 0..100);
    let mut responder = responder([credit(CREDIT_MAX), ahead]);
    for _ in 0..READS_AHEAD {
        let step = responder.next_step(&Copies::default()).unwrap();
        responder.finish(step, chunk(CHUNK_CREDIT));
    }
    assert_eq!(responder.next_step(&Copies::default()), None);
    let first = responder.next_reply().unwrap().reply;
    responder
        .receive(want_chunks(2, Priority::Demand, [5]))
        .unwrap();
    let step = responder.next_step(&Copies::default()).unwrap();
    assert_eq!(step.request(), 2);
    responder.finish(step, chunk(PIECE_MAX + 1));
    let next = replies(&mut responder);
    let place = |reply: &Reply| match reply {
        Reply::ChunkData {
            request,
            number,
            offset,
            ..
        } => (*request, *number, *offset / PIECE_MAX),
        other => panic!("{other:?}"),
    };
    assert_eq!(place(&first), (1, 0, 0));
    let places: Vec<_> = next.iter().map(place).collect();
    assert_eq!(places[..4], [(2, 5, 0), (2, 5, 1), (1, 0, 1), (1, 0, 2)]);
    let pieces = READS_AHEAD * (CHUNK_CREDIT / PIECE_MAX) as usize;
    assert_eq!(places.len(), 1 + pieces);
}

/// The steps of a blob in a form of so many bytes, the last of which costs this; what each of them pays.
fn payments(form: BlobForm, cost: u64) -> Vec<u64> {
    let want = Request::WantBlob {
        request: 1,
        priority: Priority::Demand,
        digest: Digest([3; 32]),
        maximum: 1 << 20,
        zstd: true,
    };
    let mut responder = responder([credit(CREDIT_MAX), want]);
    let mut payments = Vec::new();
    while let Some(step) = responder.next_step(&Copies::default()) {
        let Step::Blob(blob) = &step else {
            panic!("{step:?}");
        };
        assert_eq!(blob.offset, payments.len() as u64 * u64::from(PIECE_MAX));
        assert_eq!(blob.form.is_some(), blob.offset > 0);
        assert_eq!(
            responder.next_step(&Copies::default()),
            None,
            "one piece at a time"
        );
        let size = form
            .sent_length
            .saturating_sub(blob.offset)
            .min(PIECE_MAX.into());
        let data = vec![0; size as usize].into();
        let cost = if blob.offset == 0 { cost } else { 0 };
        responder.finish(step, Found::Blob { form, data, cost });
        let outgoing = responder.next_reply().unwrap();
        assert!(matches!(outgoing.reply, Reply::BlobData { .. }));
        payments.push(outgoing.pays.unwrap());
    }
    assert!(is_at_rest(&responder));
    assert_eq!(u64::from(CREDIT_MAX - responder.credit), form.sent_length);
    payments
}

/// A blob pays its bytes, and if less was sent than it has cost, that.
#[test]
fn the_pieces_of_a_blob_come_one_after_the_other_and_pay_for_it() {
    let piece = u64::from(PIECE_MAX);
    let plain = BlobForm {
        encoding: Encoding::Plain,
        sent_length: 2 * piece + 9,
        length: 2 * piece + 9,
    };
    assert_eq!(payments(plain, plain.length), [piece, piece, 9]);
    assert_eq!(payments(plain, 0), [piece, piece, 9]);
    let zstd = BlobForm {
        encoding: Encoding::Zstd,
        sent_length: piece + 10,
        length: 8 * piece,
    };
    // It was read and compressed for this one; and for another one before.
    assert_eq!(payments(zstd, 16 * piece), [piece, 15 * piece]);
    assert_eq!(payments(zstd, 0), [piece, 10]);
    // Not more than 16 times what was sent.
    assert_eq!(payments(zstd, 1000 * piece), [piece, 15 * piece + 160]);
}

#[test]
fn a_blob_that_changes_on_the_way_is_not_sent_on() {
    let want = Request::WantBlob {
        request: 1,
        priority: Priority::Demand,
        digest: Digest([3; 32]),
        maximum: 1 << 20,
        zstd: true,
    };
    let mut responder = responder([credit(CREDIT_MAX), want]);
    let form = |sent_length| BlobForm {
        encoding: Encoding::Zstd,
        sent_length,
        length: 1 << 20,
    };
    for sent_length in [100_000, 100_001] {
        let step = responder.next_step(&Copies::default()).unwrap();
        let found = Found::Blob {
            form: form(sent_length),
            data: vec![0; PIECE_MAX as usize].into(),
            cost: 0,
        };
        responder.finish(step, found);
    }
    let replies = replies(&mut responder);
    assert!(matches!(
        replies[..],
        [Reply::BlobData { .. }, Reply::BlobNotFound { .. }]
    ));
    assert!(is_at_rest(&responder));
}

/// What the server will not do for the peer ends the request: none of its other chunks is read.
#[test]
fn a_refusal_ends_a_request_that_was_begun() {
    let mut responder = responder([
        credit(2 * CHUNK_CREDIT),
        want_chunks(1, Priority::Demand, 0..5),
    ]);
    let steps = [(); 2].map(|()| responder.next_step(&Copies::default()).unwrap());
    for step in steps {
        let retry_after = Duration::from_millis(700);
        responder.finish(step, Found::Refused { retry_after });
    }
    let busy = Reply::Busy {
        request: 1,
        retry_after: 700,
    };
    assert_eq!(replies(&mut responder), [busy]);
    assert_eq!(responder.next_step(&Copies::default()), None);
    assert_eq!(responder.credit, 2 * CHUNK_CREDIT);
    assert!(is_at_rest(&responder));
}

#[test]
fn what_was_cancelled_is_neither_read_nor_sent() {
    let mut responder = responder([
        credit(3 * CHUNK_CREDIT),
        want_chunks(1, Priority::Demand, 1..=9),
    ]);
    // One is being sent, one was read, one is being read.
    let steps = [(); 3].map(|()| responder.next_step(&Copies::default()).unwrap());
    let [sent, ready, under_way] = steps;
    responder.finish(sent, chunk(CHUNK_CREDIT));
    responder.finish(ready, chunk(5));
    assert!(responder.next_reply().is_some());
    responder.receive(Request::Cancel { request: 1 }).unwrap();
    responder.finish(under_way, chunk(5));
    assert_eq!(replies(&mut responder), []);
    assert_eq!(responder.credit, 3 * CHUNK_CREDIT - PIECE_MAX);
    assert_eq!(responder.next_step(&Copies::default()), None);
    assert!(is_at_rest(&responder));
}

/// A client must not use such an id again, or not so soon. What is still being read is no answer to what it asks then.
#[test]
fn what_was_read_for_a_cancelled_request_answers_no_other_one() {
    let mut responder = responder([credit(CREDIT_MAX), want_chunks(1, Priority::Demand, [7, 8])]);
    let steps = [(); 2].map(|()| responder.next_step(&Copies::default()).unwrap());
    responder.receive(Request::Cancel { request: 1 }).unwrap();
    let again = || want_chunks(1, Priority::Background, [9]);
    for step in steps {
        responder.receive(again()).unwrap();
        assert_eq!(responder.next_step(&Copies::default()), None);
        responder.finish(step, chunk(CHUNK_CREDIT));
        let replies = replies(&mut responder);
        assert!(matches!(replies[..], [Reply::Busy { request: 1, .. }]));
    }
    assert!(is_at_rest(&responder));
    responder.receive(again()).unwrap();
    assert_eq!(chunks(&mut responder), [(1, 9)]);
}

/// A frame that this node does not know is a question like others, and answered in its turn.
#[test]
fn what_is_not_served_is_said() {
    let follow = |request| Request::Other {
        request,
        kind: 6,
        payload: Bytes::from_static(&[7; 32]),
    };
    let mut responder = responder([follow(1), have(2)]);
    let error = responder.receive(follow(2));
    assert_eq!(error, Err(Violation::DuplicateRequest(2)));
    let step = responder.next_step(&Copies::default()).unwrap();
    assert_eq!(step, Step::Other { request: 1 });
    responder.finish(step, Found::NotServed);
    assert_eq!(replies(&mut responder), [Reply::NotServed { request: 1 }]);
}

/// A caller's mistake: the peer is refused and not misled. In a debug build it is the caller who is told.
#[test]
#[cfg_attr(debug_assertions, should_panic(expected = "does not fit its request"))]
fn an_answer_that_does_not_fit_is_not_sent() {
    let mut responder = responder([credit(CREDIT_MAX), want_chunks(1, Priority::Demand, [7, 8])]);
    responder.next_step(&Copies::default()).unwrap();
    let (request, digest) = (1, Digest([1; 32]));
    let other = Step::Have { request, digest };
    responder.finish(other, Found::Have(Have::Complete));
    assert_eq!(replies(&mut responder), [Reply::NotServed { request: 1 }]);
    assert_eq!(responder.next_step(&Copies::default()), None);
    assert!(is_at_rest(&responder));
}

#[test]
fn too_many_requests_and_too_many_chunks_are_busy() {
    let busy = |request| Reply::Busy {
        request,
        retry_after: CROWDED_RETRY.as_millis() as u32,
    };
    let mut crowded = Responder::default();
    let full = CHUNKS_PER_STREAM / CHUNKS_PER_REQUEST;
    for request in 0..full as u32 {
        let want = want_chunks(request, Priority::Demand, 0..CHUNKS_PER_REQUEST as u32);
        crowded.receive(want).unwrap();
    }
    assert_eq!(replies(&mut crowded), []);
    let request = full as u32;
    crowded
        .receive(want_chunks(request, Priority::Demand, [0]))
        .unwrap();
    assert_eq!(replies(&mut crowded), [busy(request)]);

    let mut crowded = responder((0..REQUESTS_PER_STREAM as u32).map(have));
    for request in 0..REFUSALS_MAX as u32 {
        crowded.receive(have((1 << 20) + request)).unwrap();
    }
    let error = crowded.receive(have(1 << 19));
    assert_eq!(error, Err(Violation::BusyIgnored));
    let replies = replies(&mut crowded);
    assert_eq!(replies.len(), REFUSALS_MAX);
    assert_eq!(replies[0], busy(1 << 20));
    // As long as it takes them, it may ask.
    crowded.receive(have(1 << 19)).unwrap();
}

proptest! {
    /// Whatever is asked, cancelled and found: credit is neither lost nor made, and all of it is free in the end.
    #[test]
    fn credit_is_kept(
        events in proptest::collection::vec((0..6_u32, 0..8_u32, 0..3_usize, 1..CHUNK_CREDIT), 1..80)
    ) {
        let mut responder = responder([credit(CREDIT_MAX)]);
        let (mut under_way, mut sent) = (Vec::new(), 0);
        for (event, request, priority, length) in events {
            let priority = Priority::ALL[priority];
            match event {
                0 if !responder.live.contains_key(&request) => {
                    responder.receive(want_chunks(request, priority, 0..length % 5 + 1)).unwrap();
                }
                1 => responder.receive(Request::Cancel { request }).unwrap(),
                2 => under_way.extend(responder.next_step(&Copies::default())),
                3 if !under_way.is_empty() => {
                    let step = under_way.swap_remove(request as usize % under_way.len());
                    responder.finish(step, chunk(length));
                }
                4 if !under_way.is_empty() => {
                    let step = under_way.swap_remove(request as usize % under_way.len());
                    let retry_after = Duration::ZERO;
                    responder.finish(step, Found::Refused { retry_after });
                }
                _ => {
                    sent += responder.next_reply().map_or(0, |next| next.reply.data_length());
                }
            }
            let under_way: usize = responder.under_way.iter().sum();
            prop_assert!(under_way < READS_AHEAD + Priority::ALL.len());
        }
        loop {
            while let Some(next) = responder.next_reply() {
                sent += next.reply.data_length();
            }
            under_way.extend(responder.next_step(&Copies::default()));
            let Some(step) = under_way.pop() else {
                break;
            };
            responder.finish(step, chunk(1));
        }
        prop_assert!(is_at_rest(&responder));
        prop_assert_eq!(responder.credit, CREDIT_MAX - sent);
    }
}

#[test]
fn violations_are_told() {
    let mut responder = responder([want_chunks(1, Priority::Demand, [1])]);
    assert_eq!(
        responder.receive(want_chunks(1, Priority::Demand, [2])),
        Err(Violation::DuplicateRequest(1))
    );
    responder.receive(credit(CREDIT_MAX)).unwrap();
    assert_eq!(responder.receive(credit(1)), Err(Violation::CreditOverflow));
}
