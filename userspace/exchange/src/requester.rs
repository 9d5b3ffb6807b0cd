// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The state of an exchange stream at the node that opened it. Decides; sends nothing and waits for
//! nothing.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use peerfs_format::Digest;

use crate::frame::{Reply, Request};
use crate::limits::{CANCELLED_MAX, DATA_MAX, STRAYS_MAX, STRAY_BYTES_MAX, WINDOW};
use crate::{Have, Priority, Violation};

/// Something that a peer is asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Wanted {
    /// How much of a blob or pack it has.
    Have {
        /// The blob or pack.
        digest: Digest,
    },
    /// A blob.
    Blob {
        /// How urgent it is.
        priority: Priority,
        /// The blob.
        digest: Digest,
        /// Bytes that it may have.
        maximum: u64,
    },
    /// Chunks of a pack.
    Chunks {
        /// How urgent they are.
        priority: Priority,
        /// The pack.
        pack: Digest,
        /// Its index.
        index: Digest,
        /// Their numbers, each once.
        chunks: Vec<u32>,
    },
}

/// What a peer answers: one of these to each request, but one for each chunk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// How much it has.
    Have(Have),
    /// The whole blob.
    Blob(Bytes),
    /// A chunk's number, and its bytes if the peer has it.
    Chunk(u32, Option<Bytes>),
    /// There is no such blob.
    NotFound,
    /// The blob has more bytes than were allowed.
    TooLarge {
        /// Bytes that it has, as the peer says.
        length: u64,
        /// Bytes that were allowed.
        maximum: u64,
    },
    /// It has too much to do.
    Busy,
}

/// Whoever waits for the answers to a request.
pub trait Waiter {
    /// Takes an answer; that nobody listens any more is no error. The bytes of a chunk are part of what the peer may
    /// have on the way until [`Requester::grant`] is told that they were taken.
    fn answer(&self, answer: Answer);

    /// Whether nobody listens any more.
    fn is_gone(&self) -> bool;
}

/// The requests outstanding on a stream.
pub struct Requester<W> {
    next_request: u32,
    outstanding: HashMap<u32, Outstanding<W>>,
    /// Bytes of data that the peer may send.
    credit: u32,
    /// Since when the peer could send something and has not.
    waiting_since: Option<Instant>,
    /// Requests that were cancelled, the oldest first: the peer may have answered them meanwhile.
    cancelled: VecDeque<(u32, Late)>,
    /// Replies that belong to no request.
    strays: u32,
    /// The bytes of data in them.
    stray_bytes: u32,
}

/// What may still come for a request that was cancelled.
struct Late {
    replies: usize,
    bytes: u64,
}

struct Outstanding<W> {
    wanted: Wanted,
    received: Received,
    waiter: W,
}

/// What came of an answer that has several parts.
enum Received {
    Nothing,
    Blob {
        pieces: BytesMut,
        /// Bytes of the whole blob, as the first piece says.
        length: Option<u64>,
    },
    /// The chunks that have not been answered.
    ChunksMissing(HashSet<u32>),
}

impl<W: Waiter> Requester<W> {
    /// The state of a new stream, and the first frame to send.
    pub fn new() -> (Self, Request) {
        let requester = Requester {
            next_request: 0,
            outstanding: HashMap::new(),
            credit: WINDOW,
            waiting_since: None,
            cancelled: VecDeque::new(),
            strays: 0,
            stray_bytes: 0,
        };
        (requester, Request::Credit { bytes: WINDOW })
    }

    /// Begins a request; the frame is to be sent.
    pub fn start(&mut self, wanted: Wanted, waiter: W, now: Instant) -> Request {
        let request = self.next_request;
        // It takes 2^32 requests to come to the same number again.
        self.next_request = request.wrapping_add(1);
        let (received, frame) = match &wanted {
            Wanted::Have { digest } => (
                Received::Nothing,
                Request::Have {
                    request,
                    digest: *digest,
                },
            ),
            Wanted::Blob {
                priority,
                digest,
                maximum,
            } => (
                Received::Blob {
                    pieces: BytesMut::new(),
                    length: None,
                },
                Request::WantBlob {
                    request,
                    priority: *priority,
                    digest: *digest,
                    maximum: *maximum,
                },
            ),
            Wanted::Chunks {
                priority,
                pack,
                index,
                chunks,
            } => (
                Received::ChunksMissing(chunks.iter().copied().collect()),
                Request::WantChunks {
                    request,
                    priority: *priority,
                    pack: *pack,
                    index: *index,
                    chunks: chunks.clone(),
                },
            ),
        };
        let outstanding = Outstanding {
            wanted,
            received,
            waiter,
        };
        self.outstanding.insert(request, outstanding);
        if self.waiting_since.is_none() {
            self.heard(now);
        }
        frame
    }

    /// Takes a frame of the peer; returns how many bytes of data in it nobody holds, which are to be given back by
    /// [`Requester::grant`]. A frame for a request that is not outstanding is a late answer to one
    /// that was cancelled, or a stray; neither is a sign of life, so that who sends nothing else stalls.
    ///
    /// # Errors
    /// If the peer breaks the protocol; the stream is of no more use then.
    pub fn receive(&mut self, reply: Reply, now: Instant) -> Result<u32, Violation> {
        let data_length = reply.data_length();
        self.credit = self
            .credit
            .checked_sub(data_length)
            .ok_or(Violation::CreditExceeded)?;
        let request = reply.request();
        let Some(outstanding) = self.outstanding.get_mut(&request) else {
            return self.receive_unasked(request, data_length);
        };
        let free = match reply {
            Reply::BlobData { .. } => data_length,
            _ => 0,
        };
        if outstanding.receive(reply)? == Progress::Done {
            self.outstanding.remove(&request);
        }
        self.heard(now);
        Ok(free)
    }

    /// Takes a reply that nobody waits for. Its data gets new credit if it was asked for once.
    fn receive_unasked(&mut self, request: u32, data_length: u32) -> Result<u32, Violation> {
        let late = self
            .cancelled
            .iter_mut()
            .rev()
            .find(|(cancelled, _)| *cancelled == request)
            .is_some_and(|(_, late)| late.take(data_length));
        if late {
            return Ok(data_length);
        }
        self.strays += 1;
        self.stray_bytes = self.stray_bytes.saturating_add(data_length);
        if self.strays > STRAYS_MAX || self.stray_bytes > STRAY_BYTES_MAX {
            return Err(Violation::Unasked(request));
        }
        Ok(0)
    }

    /// Forgets the requests that nobody waits for any more; the frames are to be sent.
    pub fn cancel_abandoned(&mut self) -> Vec<Request> {
        let outstanding = self.outstanding.iter();
        let abandoned: Vec<u32> = outstanding
            .filter(|(_, outstanding)| outstanding.waiter.is_gone())
            .map(|(request, _)| *request)
            .collect();
        let mut cancels = Vec::new();
        for request in abandoned {
            let Some(outstanding) = self.outstanding.remove(&request) else {
                continue;
            };
            if self.cancelled.len() == CANCELLED_MAX {
                self.cancelled.pop_front();
            }
            self.cancelled.push_back((request, outstanding.late()));
            cancels.push(Request::Cancel { request });
        }
        if self.outstanding.is_empty() {
            self.waiting_since = None;
        }
        cancels
    }

    /// Whether nothing is outstanding.
    pub fn is_idle(&self) -> bool {
        self.outstanding.is_empty()
    }

    /// Gives the peer credit for bytes that were taken; the frame is to be sent.
    pub fn grant(&mut self, bytes: u32, now: Instant) -> Request {
        // At most the window: no byte is taken twice.
        self.credit = self.credit.saturating_add(bytes);
        if self.waiting_since.is_none() {
            self.heard(now);
        }
        Request::Credit { bytes }
    }

    /// When the peer counts as stalled: it could send something and says nothing.
    pub fn stalled_at(&self, timeout: Duration) -> Option<Instant> {
        self.waiting_since?.checked_add(timeout)
    }

    /// Those who wait, when the stream has ended.
    pub fn drain(&mut self) -> impl Iterator<Item = W> + '_ {
        self.outstanding
            .drain()
            .map(|(_, outstanding)| outstanding.waiter)
    }

    /// The peer can be waited for from now on, if there is something to wait for. Without credit it
    /// is the takers that are slow.
    fn heard(&mut self, now: Instant) {
        let waiting = !self.outstanding.is_empty() && self.credit >= DATA_MAX;
        self.waiting_since = waiting.then_some(now);
    }
}

#[derive(Eq, PartialEq)]
enum Progress {
    More,
    Done,
}

impl Late {
    /// Takes a reply with so much data; false if there should be none.
    fn take(&mut self, data_length: u32) -> bool {
        match (
            self.replies.checked_sub(1),
            self.bytes.checked_sub(u64::from(data_length)),
        ) {
            (Some(replies), Some(bytes)) => {
                *self = Late { replies, bytes };
                true
            }
            _ => false,
        }
    }
}

impl<W: Waiter> Outstanding<W> {
    /// What may still come if the request is cancelled now.
    fn late(&self) -> Late {
        match (&self.wanted, &self.received) {
            (_, Received::ChunksMissing(missing)) => Late {
                replies: missing.len(),
                bytes: missing.len() as u64 * u64::from(DATA_MAX),
            },
            (Wanted::Blob { maximum, .. }, Received::Blob { pieces, length }) => {
                let bytes = length.unwrap_or(*maximum) - pieces.len() as u64;
                // A piece has at least a byte; that there is no blob is one reply too.
                let replies = usize::try_from(bytes).unwrap_or(usize::MAX).max(1);
                Late { replies, bytes }
            }
            _ => Late {
                replies: 1,
                bytes: 0,
            },
        }
    }

    /// Passes on what is in a frame.
    fn receive(&mut self, reply: Reply) -> Result<Progress, Violation> {
        let unexpected = Violation::UnexpectedReply(reply.request());
        match (&self.wanted, &mut self.received, reply) {
            (Wanted::Have { .. }, _, Reply::Presence { have, .. }) => {
                self.waiter.answer(Answer::Have(have));
                Ok(Progress::Done)
            }
            (
                Wanted::Blob { maximum, .. },
                Received::Blob {
                    pieces,
                    length: known,
                },
                Reply::BlobData { length, data, .. },
            ) => {
                if length > *maximum || length != *known.get_or_insert(length) {
                    return Err(unexpected);
                }
                // Its memory is the caller's, who said how much it may be.
                pieces.extend_from_slice(&data);
                match (pieces.len() as u64).cmp(&length) {
                    Ordering::Less => Ok(Progress::More),
                    Ordering::Equal => {
                        let blob = std::mem::take(pieces).freeze();
                        self.waiter.answer(Answer::Blob(blob));
                        Ok(Progress::Done)
                    }
                    Ordering::Greater => Err(unexpected),
                }
            }
            (Wanted::Blob { .. }, _, Reply::BlobNotFound { .. }) => {
                self.waiter.answer(Answer::NotFound);
                Ok(Progress::Done)
            }
            (Wanted::Blob { maximum, .. }, _, Reply::TooLarge { length, .. }) => {
                let maximum = *maximum;
                self.waiter.answer(Answer::TooLarge { length, maximum });
                Ok(Progress::Done)
            }
            (
                Wanted::Chunks { .. },
                Received::ChunksMissing(missing),
                Reply::ChunkData { number, data, .. },
            ) if missing.contains(&number) => {
                self.waiter.answer(Answer::Chunk(number, Some(data)));
                Ok(Progress::of(missing, number))
            }
            (
                Wanted::Chunks { .. },
                Received::ChunksMissing(missing),
                Reply::ChunkNotFound { number, .. },
            ) if missing.contains(&number) => {
                self.waiter.answer(Answer::Chunk(number, None));
                Ok(Progress::of(missing, number))
            }
            (_, _, Reply::Busy { .. }) => {
                self.waiter.answer(Answer::Busy);
                Ok(Progress::Done)
            }
            _ => Err(unexpected),
        }
    }
}

impl Progress {
    /// The progress of a request for chunks when this one was answered.
    fn of(missing: &mut HashSet<u32>, number: u32) -> Self {
        missing.remove(&number);
        if missing.is_empty() {
            Progress::Done
        } else {
            Progress::More
        }
    }
}

#[cfg(test)]
#[path = "requester_tests.rs"]
mod tests;
