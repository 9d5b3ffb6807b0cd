// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The state of an exchange stream at the node that opened it. Decides; sends nothing and waits for
//! nothing.

mod outstanding;

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use peerfs_format::Digest;

use crate::frame::{Encoding, PeerRecord, Reply, Request};
use crate::limits::{CANCELLED_MAX, CHUNK_CREDIT, STRAYS_MAX, STRAY_BYTES_MAX, WINDOW};
use crate::{Have, Priority, Suggestion, Violation};

use outstanding::{Late, Outstanding};

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
        /// Whether the peer is asked to fetch of its origin what it lacks, and to send it then.
        through: bool,
        /// Their numbers, each once.
        chunks: Vec<u32>,
    },
    /// What it has of each pack of an image, from now on, for as long as somebody listens.
    News {
        /// The image's manifest.
        manifest: Digest,
    },
    /// Peers that follow an image.
    Peers {
        /// The image's manifest.
        manifest: Digest,
    },
    /// How much of a pack it has by an index that it may ask for here.
    HavePack {
        /// The pack.
        pack: Digest,
        /// Its index.
        index: Digest,
    },
    /// Which chunks of a pack it is to be asked for.
    Suggestion {
        /// The pack.
        pack: Digest,
        /// Its index.
        index: Digest,
        /// How many at most: 1 to [`SUGGESTED_MAX`](crate::limits::SUGGESTED_MAX).
        count: u32,
    },
}

impl Wanted {
    /// How urgent it is: what has no priority is asked by somebody who waits.
    pub fn priority(&self) -> Priority {
        match self {
            Wanted::Blob { priority, .. } | Wanted::Chunks { priority, .. } => *priority,
            Wanted::Have { .. }
            | Wanted::HavePack { .. }
            | Wanted::News { .. }
            | Wanted::Peers { .. }
            | Wanted::Suggestion { .. } => Priority::Demand,
        }
    }
}

/// What a peer answers: one of these to each request, but one for each chunk, and any number of news.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// How much it has.
    Have(Have),
    /// The whole blob.
    Blob(SentBlob),
    /// A chunk's number, and its bytes if the peer has it.
    Chunk(u32, Option<Bytes>),
    /// How much it has of a pack of the image; replaces what it said before.
    Map(Digest, Have),
    /// Chunks of a pack of the image that it has got: runs in ascending order, none of them empty.
    Gained(Digest, Vec<Range<u32>>),
    /// Peers that follow the image.
    Peers(Vec<PeerRecord>),
    /// What it is to be asked for.
    Suggestion(Suggestion),
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
    Busy {
        /// For how long it is to be left alone: [`RETRY_MAX`](crate::limits::RETRY_MAX) at most.
        retry_after: Duration,
    },
    /// It answers no requests of this kind.
    NotServed,
}

/// A whole blob as a peer sent it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SentBlob {
    /// How it was sent.
    pub encoding: Encoding,
    /// Bytes that it has, as the peer says: no more than were allowed.
    pub length: u64,
    /// What came: as many bytes if it was sent plain, otherwise fewer.
    pub bytes: Bytes,
}

/// Whoever waits for the answers to a request.
pub trait Waiter {
    /// Takes an answer; that nobody listens any more is no error. The bytes of a chunk are part of what the peer may
    /// have on the way until [`Requester::grant`] is told that they were taken.
    fn answer(&self, answer: Answer);

    /// A part of an answer came at this time.
    fn progressed(&self, at: Instant);

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

/// What becomes of requests that nobody waits for any more.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Abandoned {
    /// The frames to send.
    pub cancels: Vec<Request>,
    /// Bytes of data of which nobody holds any more, to be given back by [`Requester::grant`].
    pub free: u32,
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
        let frame = match &wanted {
            Wanted::Have { digest } => Request::Have {
                request,
                digest: *digest,
            },
            Wanted::Blob {
                priority,
                digest,
                maximum,
            } => Request::WantBlob {
                request,
                priority: *priority,
                digest: *digest,
                maximum: *maximum,
                zstd: true,
            },
            Wanted::Chunks {
                priority,
                pack,
                index,
                through,
                chunks,
            } => Request::WantChunks {
                request,
                priority: *priority,
                pack: *pack,
                index: *index,
                through: *through,
                chunks: chunks.clone(),
            },
            Wanted::News { manifest } => Request::Follow {
                request,
                manifest: *manifest,
            },
            Wanted::Peers { manifest } => Request::Peers {
                request,
                manifest: *manifest,
            },
            Wanted::HavePack { pack, index } => Request::HavePack {
                request,
                pack: *pack,
                index: *index,
            },
            Wanted::Suggestion { pack, index, count } => Request::Suggest {
                request,
                pack: *pack,
                index: *index,
                count: *count,
            },
        };
        let outstanding = Outstanding::new(wanted, frame.kind(), waiter);
        self.outstanding.insert(request, outstanding);
        if self.waiting_since.is_none() {
            self.heard(now);
        }
        frame
    }

    /// Takes a frame of the peer; returns how many bytes of data nobody holds any more, which are to be given back by
    /// [`Requester::grant`]. A frame for a request that is not outstanding is a late answer to one
    /// that was cancelled, or a stray; neither is a sign of life, so that who sends nothing else stalls.
    ///
    /// # Errors
    /// If the peer breaks the protocol; the stream is of no more use then.
    pub fn receive(&mut self, reply: Reply, now: Instant) -> Result<u32, Violation> {
        self.credit = self
            .credit
            .checked_sub(reply.data_length())
            .ok_or(Violation::CreditExceeded)?;
        let request = reply.request();
        let Some(outstanding) = self.outstanding.get_mut(&request) else {
            return self.receive_unasked(&reply);
        };
        let taken = outstanding.receive(reply)?;
        if taken.ends {
            self.outstanding.remove(&request);
        } else {
            outstanding.waiter.progressed(now);
        }
        self.heard(now);
        Ok(taken.free)
    }

    /// Some bytes came, the last of them at this time, of a frame for this request that is not complete yet.
    pub fn progressed(&mut self, request: u32, at: Instant) {
        if let Some(outstanding) = self.outstanding.get(&request) {
            outstanding.waiter.progressed(at);
            self.waiting_since = self.waiting_since.map(|since| since.max(at));
        }
    }

    /// Takes a reply that nobody waits for. Its data gets new credit if it was asked for once.
    fn receive_unasked(&mut self, reply: &Reply) -> Result<u32, Violation> {
        let request = reply.request();
        let bytes = match reply {
            // It was never asked for.
            Reply::Other { payload, .. } => payload.len() as u32,
            reply => {
                let data_length = reply.data_length();
                let mut cancelled = self.cancelled.iter_mut().rev();
                let late = cancelled.find(|(cancelled, _)| *cancelled == request);
                if late.is_some_and(|(_, late)| late.take(data_length)) {
                    return Ok(data_length);
                }
                data_length
            }
        };
        self.strays += 1;
        self.stray_bytes = self.stray_bytes.saturating_add(bytes);
        if self.strays > STRAYS_MAX || self.stray_bytes > STRAY_BYTES_MAX {
            return Err(Violation::Unasked(request));
        }
        Ok(0)
    }

    /// Forgets the requests that nobody waits for any more.
    pub fn cancel_abandoned(&mut self) -> Abandoned {
        let mut abandoned = Abandoned::default();
        self.outstanding.retain(|&request, outstanding| {
            if !outstanding.waiter.is_gone() {
                return true;
            }
            if self.cancelled.len() == CANCELLED_MAX {
                self.cancelled.pop_front();
            }
            self.cancelled.push_back((request, outstanding.late()));
            abandoned.cancels.push(Request::Cancel { request });
            // Within the window, as all that is held.
            abandoned.free += outstanding.held();
            false
        });
        if !self.outstanding.values().any(Outstanding::is_waited_for) {
            self.waiting_since = None;
        }
        abandoned
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

    /// When the peer counts as stalled: it could send something and not a byte of it comes.
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
    /// is the takers that are slow; but it has credit for the rest of what it has begun.
    /// And there need not be news.
    fn heard(&mut self, now: Instant) {
        let can_send = self.outstanding.values().any(Outstanding::is_waited_for)
            && (self.credit >= CHUNK_CREDIT
                || self.outstanding.values().any(|asked| asked.held() > 0));
        self.waiting_since = can_send.then_some(now);
    }
}

#[cfg(test)]
mod tests;
