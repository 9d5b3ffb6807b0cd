// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What was read and is to be sent.

use bytes::Bytes;

use crate::frame::{Encoding, Reply, State};
use crate::limits::{piece_size, CHUNK_CREDIT};
use crate::{Have, Priority, Suggestion};

use super::{BlobForm, BlobStep, Found, Step};

/// How much a byte of a zstd frame may pay: the blob has cost more than is sent of it, but nobody is to have work
/// done for next to nothing.
const ENCODED_PAYS_MAX: u64 = 16;

/// A frame to send.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Outgoing {
    /// The frame.
    pub reply: Reply,
    /// How urgent it is.
    pub priority: Priority,
    /// What it pays of what the peer owes, in bytes: for all of a step, with the last frame of it.
    pub pays: Option<u64>,
}

impl Outgoing {
    /// A frame that pays for nothing.
    pub(super) fn free(reply: Reply, priority: Priority) -> Self {
        Outgoing {
            reply,
            priority,
            pays: None,
        }
    }
}

/// What is to be sent.
pub(super) enum Ready {
    /// All that is sent for a step, and where it leads if it is the last answer.
    Frame { outgoing: Outgoing, next: State },
    /// A chunk.
    Chunk(Chunk),
    /// Busy or NotServed, to a request that is forgotten: they fit any.
    End(Outgoing),
    /// Busy, to a request of which nothing was begun.
    Refusal(Outgoing),
}

/// A chunk, of which the first `sent` bytes were sent.
pub(super) struct Chunk {
    request: u32,
    number: u32,
    priority: Priority,
    data: Bytes,
    sent: u32,
}

impl Ready {
    /// The answer that is in what was found, and the next step if there is more of it.
    pub(super) fn answer(step: Step, found: Found) -> (Self, Option<BlobStep>) {
        let (request, priority) = (step.request(), step.priority());
        let reply = match (step, found) {
            (Step::Have { .. } | Step::HavePack { .. }, Found::Have(have)) => {
                Reply::Presence { request, have }
            }
            (Step::Have { .. } | Step::HavePack { .. }, _) => Reply::Presence {
                request,
                have: Have::Absent,
            },
            (Step::Map { pack, .. }, found) => {
                let have = match found {
                    Found::Have(have) => have,
                    _ => Have::Absent,
                };
                let reply = Reply::HaveMap {
                    request,
                    pack,
                    have,
                };
                let outgoing = Outgoing::free(reply, priority);
                let next = State::Open;
                return (Ready::Frame { outgoing, next }, None);
            }
            (Step::Peers { .. }, Found::Peers(peers)) => Reply::PeerList { request, peers },
            (Step::Peers { .. }, _) => Reply::PeerList {
                request,
                peers: Vec::new(),
            },
            (Step::Suggest { .. }, found) => {
                let suggestion = match found {
                    Found::Suggestion(suggestion) => suggestion,
                    _ => Suggestion::Any,
                };
                Reply::Suggestion {
                    request,
                    suggestion,
                }
            }
            (Step::Blob(step), Found::Blob { form, data, cost }) if step.fits(form, &data) => {
                return blob(step, form, data, cost);
            }
            (Step::Blob(_), Found::TooLarge(length)) => Reply::TooLarge { request, length },
            (Step::Blob(_), _) => Reply::BlobNotFound { request },
            (Step::Chunk { number, .. }, Found::Chunk(data))
                if (1..=CHUNK_CREDIT as usize).contains(&data.len()) =>
            {
                let chunk = Chunk {
                    request,
                    number,
                    priority,
                    data,
                    sent: 0,
                };
                return (Ready::Chunk(chunk), None);
            }
            (Step::Chunk { number, .. }, _) => Reply::ChunkNotFound { request, number },
            // Whatever else comes of the question which packs an image has.
            (Step::Image { .. } | Step::Other { .. }, _) => Reply::NotServed { request },
        };
        let outgoing = Outgoing::free(reply, priority);
        let next = State::Done;
        (Ready::Frame { outgoing, next }, None)
    }

    /// The request that it is for.
    pub(super) fn request(&self) -> u32 {
        match self {
            Ready::Frame { outgoing, .. } => outgoing.reply.request(),
            Ready::Chunk(chunk) => chunk.request,
            Ready::End(outgoing) | Ready::Refusal(outgoing) => outgoing.reply.request(),
        }
    }

    /// Bytes of data that are still to be sent.
    pub(super) fn unsent(&self) -> u32 {
        match self {
            Ready::Frame { outgoing, .. } => outgoing.reply.data_length(),
            Ready::Chunk(chunk) => chunk.data.len() as u32 - chunk.sent,
            Ready::End(_) | Ready::Refusal(_) => 0,
        }
    }
}

impl Chunk {
    /// The next piece, and where it leads if there are no more chunks.
    pub(super) fn next(&mut self) -> (Outgoing, State) {
        let (offset, total) = (self.sent, self.data.len() as u32);
        self.sent += piece_size(total.into(), offset.into());
        let is_last = self.sent == total;
        let reply = Reply::ChunkData {
            request: self.request,
            number: self.number,
            offset,
            total,
            data: self.data.slice(offset as usize..self.sent as usize),
        };
        let outgoing = Outgoing {
            reply,
            priority: self.priority,
            pays: is_last.then_some(u64::from(total)),
        };
        let next = match is_last {
            true => State::Done,
            false => State::Begun,
        };
        (outgoing, next)
    }
}

impl BlobStep {
    /// Whether this is the piece that is asked for: of the same form as those before.
    fn fits(&self, form: BlobForm, data: &[u8]) -> bool {
        let size = piece_size(form.sent_length, self.offset);
        self.form.is_none_or(|before| before == form) && data.len() == size as usize
    }
}

/// A piece of a blob, and the step that reads the next one.
fn blob(mut step: BlobStep, form: BlobForm, data: Bytes, cost: u64) -> (Ready, Option<BlobStep>) {
    let (before, length) = (step.offset, data.len() as u64);
    step.offset += length;
    step.cost = step.cost.saturating_add(cost);
    step.form = Some(form);
    step.zstd = form.encoding == Encoding::Zstd;
    let ends = step.offset >= form.sent_length;
    let pays = match ends {
        // All that it has cost, as far as the pieces before have not paid it.
        true => {
            let most = form.sent_length.saturating_mul(ENCODED_PAYS_MAX);
            step.cost.min(most).saturating_sub(before).max(length)
        }
        false => length,
    };
    let reply = Reply::BlobData {
        request: step.request,
        encoding: form.encoding,
        sent_length: form.sent_length,
        length: form.length,
        data,
    };
    let outgoing = Outgoing {
        reply,
        priority: step.priority,
        pays: Some(pays),
    };
    let (next, rest) = match ends {
        true => (State::Done, None),
        false => (State::Begun, Some(step)),
    };
    (Ready::Frame { outgoing, next }, rest)
}
