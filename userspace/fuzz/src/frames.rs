// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Whatever bytes a peer sends: frames that are read back as they are written, and two ends that stay within their
//! limits.

use std::time::Instant;

use bytes::BytesMut;
use peerfs_exchange::frame::{decode, Encoding, Frame, Reply, Request};
use peerfs_exchange::limits::{piece_size, CHUNK_CREDIT, CREDIT_MAX, WINDOW};
use peerfs_exchange::uplink::Copies;
use peerfs_exchange::{
    Answer, BlobForm, Found, Priority, Requester, Responder, Step, Waiter, Wanted,
};
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

/// A server whose store has what it is asked for, as long as its digest's first byte says.
fn answer(requests: Vec<Request>) {
    let (mut responder, copies) = (Responder::default(), Copies::default());
    let (mut credit, mut sent) = (0_u64, 0_u64);
    for request in requests {
        if let Request::Credit { bytes } = request {
            credit += u64::from(bytes);
        }
        if responder.receive(request).is_err() {
            return;
        }
        while let Some(step) = responder.next_step(&copies) {
            let found = find(&step);
            responder.finish(step, found);
            while let Some(outgoing) = responder.next_reply() {
                sent += u64::from(outgoing.reply.data_length());
                let mut encoded = BytesMut::new();
                outgoing.reply.encode(&mut encoded);
                assert!(
                    matches!(decode::<Reply>(&mut encoded), Ok(Some(reply)) if reply == outgoing.reply)
                );
            }
        }
        assert!(sent <= credit && credit - sent <= u64::from(CREDIT_MAX));
    }
}

fn find(step: &Step) -> Found {
    let part = |digest: &Digest, most: u64| most * u64::from(digest.0[0]) / 255;
    match step {
        Step::Blob(blob) => {
            let length = part(&blob.digest, 100_000);
            let sent_length = if blob.zstd { length / 2 } else { length };
            let form = BlobForm {
                encoding: match sent_length == length {
                    true => Encoding::Plain,
                    false => Encoding::Zstd,
                },
                sent_length,
                length,
            };
            let size = piece_size(sent_length, blob.offset) as usize;
            let (data, cost) = (vec![7; size].into(), length);
            Found::Blob { form, data, cost }
        }
        Step::Chunk { pack, .. } => {
            let length = part(pack, CHUNK_CREDIT.into()) as usize;
            Found::Chunk(vec![7; length].into())
        }
        Step::Have { .. }
        | Step::Image { .. }
        | Step::Map { .. }
        | Step::Peers { .. }
        | Step::HavePack { .. }
        | Step::Suggest { .. }
        | Step::Other { .. } => Found::Nothing,
    }
}

/// Waits for ever.
struct Patient;

impl Waiter for Patient {
    fn answer(&self, _answer: Answer) {}

    fn progressed(&self, _at: Instant) {}

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
            through: false,
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
