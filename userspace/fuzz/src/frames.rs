// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Whatever bytes a peer sends: frames that are read back as they are written, and two ends that stay within their
//! limits.

use std::time::Instant;

use bytes::BytesMut;
use peerfs_exchange::frame::{decode, Frame, Reply, Request};
use peerfs_exchange::limits::{CREDIT_MAX, WINDOW};
use peerfs_exchange::{Answer, Done, Priority, Requester, Responder, Step, Waiter, Wanted};
use peerfs_format::Digest;

/// Takes the bytes for a stream from either end.
pub fn exchange(bytes: &[u8]) {
    answer(frames(bytes));
    ask(frames(bytes));
}

/// The frames up to the first bytes that are none.
fn frames<F: Frame + PartialEq>(bytes: &[u8]) -> Vec<F> {
    let mut rest = BytesMut::from(bytes);
    let mut frames = Vec::new();
    while let Ok(Some(frame)) = decode::<F>(&mut rest) {
        let mut encoded = BytesMut::new();
        frame.encode(&mut encoded);
        assert!(encoded.len() <= F::SIZE_MAX);
        let again = decode::<F>(&mut encoded);
        assert!(matches!(again, Ok(Some(again)) if again == frame));
        assert!(encoded.is_empty());
        frames.push(frame);
    }
    frames
}

/// A server whose store has nothing.
fn answer(requests: Vec<Request>) {
    let mut responder = Responder::default();
    for request in requests {
        if responder.receive(request).is_err() {
            return;
        }
        while let Some(step) = responder.next_step() {
            assert!(step.reserved() <= CREDIT_MAX);
            let request = step.request();
            let reply = match &step {
                Step::Chunk { number, .. } => Reply::ChunkNotFound {
                    request,
                    number: *number,
                },
                _ => Reply::BlobNotFound { request },
            };
            let done = Done {
                reply,
                rest: None,
                reserved: step.reserved(),
            };
            assert!(responder.finish(done).is_some());
        }
    }
}

/// Waits for ever.
struct Patient;

impl Waiter for Patient {
    fn answer(&self, _answer: Answer) {}

    fn is_gone(&self) -> bool {
        false
    }
}

/// A client that has asked for one thing of each kind.
fn ask(replies: Vec<Reply>) {
    let now = Instant::now();
    let (mut requester, _) = Requester::new();
    let priority = Priority::Demand;
    let digest = Digest([0; 32]);
    for wanted in [
        Wanted::Have { digest },
        Wanted::Blob {
            priority,
            digest,
            maximum: 1 << 16,
        },
        Wanted::Chunks {
            priority,
            pack: digest,
            index: digest,
            chunks: (0..64).collect(),
        },
    ] {
        requester.start(wanted, Patient, now);
    }
    let mut received = 0;
    for reply in replies {
        received += reply.data_length();
        match requester.receive(reply, now) {
            Ok(free) => {
                assert!(received <= WINDOW && free <= received);
                received -= free;
                requester.grant(free, now);
            }
            Err(_) => return,
        }
    }
}
