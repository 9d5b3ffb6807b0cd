// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The state of an exchange stream at the node that opened it. Decides; sends nothing and waits for
//! nothing.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::sync::OwnedSemaphorePermit;

use crate::delivered::{Delivered, Taken};
use crate::frame::{Reply, Request};
use crate::limits::{CANCELLED_MAX, DATA_MAX, STRAYS_MAX, STRAY_BYTES_MAX, WINDOW};
use crate::want::Want;
use crate::{RequestError, Violation};

/// The requests outstanding on a stream.
pub(crate) struct Requester {
    next_request: u32,
    outstanding: HashMap<u32, Outstanding>,
    /// Bytes of data that the peer may send.
    credit: u32,
    taken: Arc<Taken>,
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

struct Outstanding {
    want: Want,
    received: Received,
    /// Keeps the number of outstanding requests bounded.
    _permit: OwnedSemaphorePermit,
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

impl Requester {
    /// The state of a new stream, and the first frame to send.
    pub(crate) fn new() -> (Self, Request) {
        let requester = Requester {
            next_request: 0,
            outstanding: HashMap::new(),
            credit: WINDOW,
            taken: Arc::default(),
            waiting_since: None,
            cancelled: VecDeque::new(),
            strays: 0,
            stray_bytes: 0,
        };
        (requester, Request::Credit { bytes: WINDOW })
    }

    /// The count of bytes that were taken on this stream.
    pub(crate) fn taken(&self) -> Arc<Taken> {
        self.taken.clone()
    }

    /// Begins a request; the frame is to be sent.
    pub(crate) fn start(
        &mut self,
        want: Want,
        permit: OwnedSemaphorePermit,
        now: Instant,
    ) -> Request {
        let request = self.next_request;
        // It takes 2^32 requests to come to the same number again.
        self.next_request = request.wrapping_add(1);
        let (received, frame) = match &want {
            Want::Have { digest, .. } => (
                Received::Nothing,
                Request::Have {
                    request,
                    digest: *digest,
                },
            ),
            Want::Blob {
                priority,
                digest,
                maximum,
                ..
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
            Want::Chunks {
                priority,
                pack,
                index,
                chunks,
                ..
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
            want,
            received,
            _permit: permit,
        };
        self.outstanding.insert(request, outstanding);
        if self.waiting_since.is_none() {
            self.heard(now);
        }
        frame
    }

    /// Takes a frame of the peer. One for a request that is not outstanding is a late answer to one
    /// that was cancelled, or a stray; neither is a sign of life, so that who sends nothing else stalls.
    pub(crate) fn receive(&mut self, reply: Reply, now: Instant) -> Result<(), Violation> {
        let data_length = reply.data_length();
        self.credit = self
            .credit
            .checked_sub(data_length)
            .ok_or(Violation::CreditExceeded)?;
        let request = reply.request();
        let Some(outstanding) = self.outstanding.get_mut(&request) else {
            return self.receive_unasked(request, data_length);
        };
        if outstanding.receive(reply, &self.taken)? == Progress::Done {
            self.outstanding.remove(&request);
        }
        self.heard(now);
        Ok(())
    }

    /// Takes a reply that nobody waits for. Its data gets new credit if it was asked for once.
    fn receive_unasked(&mut self, request: u32, data_length: u32) -> Result<(), Violation> {
        let late = self
            .cancelled
            .iter_mut()
            .rev()
            .find(|(cancelled, _)| *cancelled == request)
            .is_some_and(|(_, late)| late.take(data_length));
        if late {
            self.taken.add(data_length);
            return Ok(());
        }
        self.strays += 1;
        self.stray_bytes = self.stray_bytes.saturating_add(data_length);
        if self.strays > STRAYS_MAX || self.stray_bytes > STRAY_BYTES_MAX {
            return Err(Violation::Unasked(request));
        }
        Ok(())
    }

    /// Forgets the requests that nobody waits for any more; the frames are to be sent.
    pub(crate) fn cancel_abandoned(&mut self) -> Vec<Request> {
        let abandoned = self
            .outstanding
            .extract_if(|_, outstanding| outstanding.want.is_abandoned());
        let mut cancels = Vec::new();
        for (request, outstanding) in abandoned {
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
    pub(crate) fn is_idle(&self) -> bool {
        self.outstanding.is_empty()
    }

    /// Gives the peer credit for what was taken; the frame is to be sent.
    pub(crate) fn grant(&mut self, now: Instant) -> Option<Request> {
        let bytes = self.taken.collect()?;
        // At most the window: no byte is taken twice.
        self.credit = self.credit.saturating_add(bytes);
        if self.waiting_since.is_none() {
            self.heard(now);
        }
        Some(Request::Credit { bytes })
    }

    /// When the peer counts as stalled: it could send something and says nothing.
    pub(crate) fn stalled_at(&self, timeout: Duration) -> Option<Instant> {
        self.waiting_since?.checked_add(timeout)
    }

    /// Fails all requests.
    pub(crate) fn fail(&mut self, error: &RequestError) {
        for (_, outstanding) in self.outstanding.drain() {
            outstanding.want.fail(error.clone());
        }
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

impl Outstanding {
    /// What may still come if the request is cancelled now.
    fn late(&self) -> Late {
        match (&self.want, &self.received) {
            (_, Received::ChunksMissing(missing)) => Late {
                replies: missing.len(),
                bytes: missing.len() as u64 * u64::from(DATA_MAX),
            },
            (Want::Blob { maximum, .. }, Received::Blob { pieces, length }) => {
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

    /// Passes on what is in a frame. That nobody listens any more is no error: the request will be
    /// cancelled.
    fn receive(&mut self, reply: Reply, taken: &Arc<Taken>) -> Result<Progress, Violation> {
        let unexpected = Violation::UnexpectedReply(reply.request());
        match (&self.want, &mut self.received, reply) {
            (Want::Have { answer, .. }, _, Reply::Presence { have, .. }) => {
                let _ = answer.try_send(Ok(have));
                Ok(Progress::Done)
            }
            (
                Want::Blob {
                    answer, maximum, ..
                },
                Received::Blob {
                    pieces,
                    length: known,
                },
                Reply::BlobData { length, data, .. },
            ) => {
                // Its memory is the caller's, who said how much it may be.
                taken.add(data.len() as u32);
                if length > *maximum || length != *known.get_or_insert(length) {
                    return Err(unexpected);
                }
                pieces.extend_from_slice(&data);
                match (pieces.len() as u64).cmp(&length) {
                    Ordering::Less => Ok(Progress::More),
                    Ordering::Equal => {
                        let _ = answer.try_send(Ok(std::mem::take(pieces).freeze()));
                        Ok(Progress::Done)
                    }
                    Ordering::Greater => Err(unexpected),
                }
            }
            (Want::Blob { answer, .. }, _, Reply::BlobNotFound { .. }) => {
                let _ = answer.try_send(Err(RequestError::NotFound));
                Ok(Progress::Done)
            }
            (
                Want::Blob {
                    answer, maximum, ..
                },
                _,
                Reply::TooLarge { length, .. },
            ) => {
                let maximum = *maximum;
                let _ = answer.try_send(Err(RequestError::TooLarge { length, maximum }));
                Ok(Progress::Done)
            }
            (
                Want::Chunks { answer, .. },
                Received::ChunksMissing(missing),
                Reply::ChunkData { number, data, .. },
            ) if missing.contains(&number) => {
                let delivered = Delivered::new(data, taken.clone());
                let _ = answer.try_send(Ok((number, Some(delivered))));
                Ok(Progress::of(missing, number))
            }
            (
                Want::Chunks { answer, .. },
                Received::ChunksMissing(missing),
                Reply::ChunkNotFound { number, .. },
            ) if missing.contains(&number) => {
                let _ = answer.try_send(Ok((number, None)));
                Ok(Progress::of(missing, number))
            }
            (want, _, Reply::Busy { .. }) => {
                want.fail(RequestError::Busy);
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
