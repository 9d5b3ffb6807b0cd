// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The state of an exchange stream at the node that opened it. Decides; sends nothing and waits for
//! nothing.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::sync::OwnedSemaphorePermit;

use crate::delivered::{Delivered, Taken};
use crate::frame::{Reply, Request};
use crate::limits::{DATA_MAX, WINDOW};
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
    Blob(BytesMut),
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
                Received::Blob(BytesMut::new()),
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
    /// that was cancelled.
    pub(crate) fn receive(&mut self, reply: Reply, now: Instant) -> Result<(), Violation> {
        let data_length = reply.data_length();
        self.credit = self
            .credit
            .checked_sub(data_length)
            .ok_or(Violation::CreditExceeded)?;
        let request = reply.request();
        let progress = match self.outstanding.get_mut(&request) {
            Some(outstanding) => outstanding.receive(reply, &self.taken)?,
            None => {
                self.taken.add(data_length);
                Progress::More
            }
        };
        if progress == Progress::Done {
            self.outstanding.remove(&request);
        }
        self.heard(now);
        Ok(())
    }

    /// Forgets the requests that nobody waits for any more; the frames are to be sent.
    pub(crate) fn cancel_abandoned(&mut self) -> Vec<Request> {
        self.outstanding
            .extract_if(|_, outstanding| outstanding.want.is_abandoned())
            .map(|(request, _)| Request::Cancel { request })
            .collect()
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

impl Outstanding {
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
                Received::Blob(blob),
                Reply::BlobData { length, data, .. },
            ) => {
                // Its memory is the caller's, who said how much it may be.
                taken.add(data.len() as u32);
                if length > *maximum {
                    return Err(unexpected);
                }
                blob.extend_from_slice(&data);
                match (blob.len() as u64).cmp(&length) {
                    Ordering::Less => Ok(Progress::More),
                    Ordering::Equal => {
                        let _ = answer.try_send(Ok(std::mem::take(blob).freeze()));
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
