// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The order of answers, credit, cancelling and refusing.

use bytes::Bytes;

use super::*;
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
        chunks: chunks.into_iter().collect(),
    }
}

fn responder(frames: impl IntoIterator<Item = Request>) -> Responder {
    let mut responder = Responder::default();
    for frame in frames {
        assert_eq!(responder.receive(frame), Ok(None));
    }
    responder
}

/// The end of a step that needs data.
fn done(reply: Reply) -> Done {
    Done {
        reply,
        rest: None,
        reserved: DATA_MAX,
    }
}

/// The chunks of the next steps, until there is none.
fn chunks(responder: &mut Responder) -> Vec<(u32, u32)> {
    let mut chunks = Vec::new();
    while let Some(step) = responder.next_step() {
        let Step::Chunk {
            request, number, ..
        } = step
        else {
            panic!("{step:?}");
        };
        chunks.push((request, number));
        let data = Bytes::from(vec![0; DATA_MAX as usize]);
        let reply = Reply::ChunkData {
            request,
            number,
            data,
        };
        responder.finish(done(reply));
    }
    chunks
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
    assert!(responder.live.is_empty() && responder.answers == 0);
}

#[test]
fn data_waits_for_credit_and_questions_do_not() {
    let mut responder = responder([
        want_chunks(1, Priority::Demand, 0..10),
        Request::Have {
            request: 2,
            digest: Digest([1; 32]),
        },
    ]);
    assert!(matches!(
        responder.next_step(),
        Some(Step::Have { request: 2, .. })
    ));
    let reply = Reply::Presence {
        request: 2,
        have: Have::Complete,
    };
    let asked = Done {
        reserved: 0,
        ..done(reply)
    };
    assert!(responder.finish(asked).is_some());
    assert_eq!(responder.next_step(), None);
    responder.receive(credit(3 * DATA_MAX - 1)).unwrap();
    assert_eq!(chunks(&mut responder).len(), 2);
    responder.receive(credit(1)).unwrap();
    assert_eq!(chunks(&mut responder).len(), 1);
}

#[test]
fn credit_that_short_data_did_not_need_is_left() {
    let mut responder = responder([credit(DATA_MAX), want_chunks(1, Priority::Demand, 0..2)]);
    assert!(responder.next_step().is_some());
    assert_eq!(responder.next_step(), None);
    let (request, number, data) = (1, 0, Bytes::from_static(b"short"));
    let reply = Reply::ChunkData {
        request,
        number,
        data,
    };
    responder.finish(done(reply));
    assert_eq!(responder.credit, DATA_MAX - 5);
    assert_eq!(responder.next_step(), None);
    responder.receive(credit(5)).unwrap();
    assert!(responder.next_step().is_some());
}

#[test]
fn the_pieces_of_a_blob_come_one_after_the_other() {
    let want = Request::WantBlob {
        request: 1,
        priority: Priority::Demand,
        digest: Digest([3; 32]),
        maximum: 1 << 20,
    };
    let mut responder = responder([credit(CREDIT_MAX), want]);
    let Some(Step::Blob(mut piece)) = responder.next_step() else {
        panic!("no piece");
    };
    assert_eq!(responder.next_step(), None);
    piece.offset = 10;
    piece.length = Some(20);
    let reply = Reply::BlobData {
        request: 1,
        length: 20,
        data: Bytes::from_static(&[0; 10]),
    };
    let more = Done {
        rest: Some(piece.clone()),
        ..done(reply.clone())
    };
    assert!(responder.finish(more).is_some());
    assert_eq!(responder.next_step(), Some(Step::Blob(piece)));
    assert!(responder.finish(done(reply)).is_some());
    assert!(responder.live.is_empty());
    assert_eq!(responder.credit, CREDIT_MAX - 20);
}

/// What the server will not do for the peer ends the request: none of its other chunks is read.
#[test]
fn busy_ends_a_request_that_was_begun() {
    let mut responder = responder([credit(2 * DATA_MAX), want_chunks(1, Priority::Demand, 0..5)]);
    assert!(responder.next_step().is_some() && responder.next_step().is_some());
    let busy = Reply::Busy { request: 1 };
    assert_eq!(responder.finish(done(busy.clone())), Some(busy.clone()));
    assert_eq!(responder.finish(done(busy)), None);
    assert_eq!(responder.next_step(), None);
    assert_eq!(responder.credit, 2 * DATA_MAX);
    assert!(responder.live.is_empty() && responder.answers == 0);
}

#[test]
fn what_was_cancelled_is_neither_read_nor_sent() {
    let mut responder = responder([
        credit(DATA_MAX),
        want_chunks(1, Priority::Demand, [1, 2, 3]),
    ]);
    assert!(responder.next_step().is_some());
    responder.receive(Request::Cancel { request: 1 }).unwrap();
    let reply = Reply::ChunkData {
        request: 1,
        number: 1,
        data: Bytes::from_static(b"late"),
    };
    assert_eq!(responder.finish(done(reply)), None);
    assert_eq!(responder.credit, DATA_MAX);
    assert_eq!(responder.next_step(), None);
    assert!(responder.live.is_empty() && responder.answers == 0);
}

#[test]
fn too_many_requests_and_too_many_chunks_are_busy() {
    let mut responder = Responder::default();
    let full = CHUNKS_PER_STREAM / CHUNKS_PER_REQUEST;
    for request in 0..full as u32 {
        let want = want_chunks(request, Priority::Demand, 0..CHUNKS_PER_REQUEST as u32);
        assert_eq!(responder.receive(want), Ok(None));
    }
    let request = full as u32;
    let want = want_chunks(request, Priority::Demand, [0]);
    assert_eq!(responder.receive(want), Ok(Some(Reply::Busy { request })));

    let mut responder = Responder::default();
    let have = |request| Request::Have {
        request,
        digest: Digest([1; 32]),
    };
    for request in 0..REQUESTS_PER_STREAM as u32 {
        assert_eq!(responder.receive(have(request)), Ok(None));
    }
    assert!(matches!(
        responder.receive(have(1 << 20)),
        Ok(Some(Reply::Busy { request })) if request == 1 << 20
    ));
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
