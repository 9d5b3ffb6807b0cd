// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The state of an exchange stream at the node that accepted it. Decides what to read and to answer
//! next; reads nothing and sends nothing.

use std::collections::{HashMap, VecDeque};

use peerfs_format::Digest;

use crate::frame::{Reply, Request};
use crate::limits::{CHUNKS_PER_STREAM, CREDIT_MAX, DATA_MAX, REQUESTS_PER_STREAM};
use crate::{Priority, Violation};

/// The requests that a peer has outstanding on a stream.
#[derive(Default)]
pub struct Responder {
    /// Bytes of data that may be sent, those of the steps under way already taken off.
    credit: u32,
    /// Requests that need no credit.
    haves: VecDeque<Step>,
    /// By priority, the most urgent first.
    queues: [VecDeque<Work>; Priority::ALL.len()],
    /// The answers that each request still gets.
    live: HashMap<u32, usize>,
    /// The sum of them.
    answers: usize,
}

/// A request that needs data, as far as it has not been begun.
enum Work {
    Blob(BlobPiece),
    Chunks {
        request: u32,
        pack: Digest,
        index: Digest,
        numbers: VecDeque<u32>,
    },
}

/// The next piece of a blob.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BlobPiece {
    /// The request's id.
    pub request: u32,
    /// How urgent it is.
    pub priority: Priority,
    /// The blob.
    pub digest: Digest,
    /// Bytes that the blob may have.
    pub maximum: u64,
    /// Where in the blob the piece begins.
    pub offset: u64,
    /// Bytes of the whole blob, once it was looked up.
    pub length: Option<u64>,
}

/// Something to be read for an answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// How much there is.
    Have {
        /// The request's id.
        request: u32,
        /// The blob or pack.
        digest: Digest,
    },
    /// A piece of a blob.
    Blob(BlobPiece),
    /// A chunk of a pack.
    Chunk {
        /// The request's id.
        request: u32,
        /// The pack.
        pack: Digest,
        /// Its index.
        index: Digest,
        /// The chunk's number.
        number: u32,
    },
}

/// A step that was done.
#[derive(Debug)]
pub struct Done {
    /// The answer.
    pub reply: Reply,
    /// What is left of the request, if it is a blob's.
    pub rest: Option<BlobPiece>,
    /// The credit that was taken off for the step.
    pub reserved: u32,
}

impl Step {
    /// The request that it is for.
    pub fn request(&self) -> u32 {
        match self {
            Step::Have { request, .. } | Step::Chunk { request, .. } => *request,
            Step::Blob(piece) => piece.request,
        }
    }

    /// The credit that is taken off for it: how long the data is is known when it was read.
    pub fn reserved(&self) -> u32 {
        match self {
            Step::Have { .. } => 0,
            Step::Blob(_) | Step::Chunk { .. } => DATA_MAX,
        }
    }
}

impl Responder {
    /// Takes a frame of the peer; the reply, if there is one, is to be sent at once.
    pub fn receive(&mut self, frame: Request) -> Result<Option<Reply>, Violation> {
        let (request, answers) = match &frame {
            Request::Credit { bytes } => {
                self.credit = self
                    .credit
                    .checked_add(*bytes)
                    .filter(|credit| *credit <= CREDIT_MAX)
                    .ok_or(Violation::CreditOverflow)?;
                return Ok(None);
            }
            Request::Cancel { request } => {
                self.cancel(*request);
                return Ok(None);
            }
            Request::Have { request, .. } | Request::WantBlob { request, .. } => (*request, 1),
            Request::WantChunks {
                request, chunks, ..
            } => (*request, chunks.len()),
        };
        if self.live.contains_key(&request) {
            return Err(Violation::DuplicateRequest(request));
        }
        if self.live.len() >= REQUESTS_PER_STREAM || self.answers + answers > CHUNKS_PER_STREAM {
            return Ok(Some(Reply::Busy { request }));
        }
        self.live.insert(request, answers);
        self.answers += answers;
        self.enqueue(frame);
        Ok(None)
    }

    fn enqueue(&mut self, frame: Request) {
        match frame {
            Request::Have { request, digest } => {
                self.haves.push_back(Step::Have { request, digest });
            }
            Request::WantBlob {
                request,
                priority,
                digest,
                maximum,
            } => self.queue(priority).push_back(Work::Blob(BlobPiece {
                request,
                priority,
                digest,
                maximum,
                offset: 0,
                length: None,
            })),
            Request::WantChunks {
                request,
                priority,
                pack,
                index,
                chunks,
            } => self.queue(priority).push_back(Work::Chunks {
                request,
                pack,
                index,
                numbers: chunks.into(),
            }),
            Request::Credit { .. } | Request::Cancel { .. } => {}
        }
    }

    /// The next step, if there is one and credit for it. Every step must be given back to
    /// [`Self::finish`].
    pub fn next_step(&mut self) -> Option<Step> {
        if let Some(have) = self.haves.pop_front() {
            return Some(have);
        }
        let credit = self.credit.checked_sub(DATA_MAX)?;
        let step = self.queues.iter_mut().find_map(next_of)?;
        self.credit = credit;
        Some(step)
    }

    /// The reply to send, unless the request was cancelled meanwhile.
    pub fn finish(&mut self, done: Done) -> Option<Reply> {
        let Done {
            reply,
            rest,
            reserved,
        } = done;
        let request = reply.request();
        let live = self.live.contains_key(&request);
        let used = if live { reply.data_length() } else { 0 };
        // What next_step() took off, at most.
        self.credit = self.credit.saturating_add(reserved.saturating_sub(used));
        if !live {
            return None;
        }
        match rest {
            // Before others of its priority: what was begun is finished first.
            Some(piece) => self.queue(piece.priority).push_front(Work::Blob(piece)),
            // Ends the request, whatever else it asked for.
            None if matches!(reply, Reply::Busy { .. }) => self.cancel(request),
            None => self.answered(request),
        }
        Some(reply)
    }

    fn answered(&mut self, request: u32) {
        if let Some(answers) = self.live.get_mut(&request) {
            *answers -= 1;
            self.answers -= 1;
            if *answers == 0 {
                self.live.remove(&request);
            }
        }
    }

    fn cancel(&mut self, request: u32) {
        if let Some(answers) = self.live.remove(&request) {
            self.answers -= answers;
            self.haves
                .retain(|step| !matches!(step, Step::Have { request: id, .. } if *id == request));
            for queue in &mut self.queues {
                queue.retain(|work| work.request() != request);
            }
        }
    }

    fn queue(&mut self, priority: Priority) -> &mut VecDeque<Work> {
        let [demand, readahead, background] = &mut self.queues;
        match priority {
            Priority::Demand => demand,
            Priority::Readahead => readahead,
            Priority::Background => background,
        }
    }
}

impl Work {
    fn request(&self) -> u32 {
        match self {
            Work::Blob(piece) => piece.request,
            Work::Chunks { request, .. } => *request,
        }
    }
}

/// The next step of a queue: its requests take turns.
fn next_of(queue: &mut VecDeque<Work>) -> Option<Step> {
    match queue.pop_front()? {
        Work::Blob(piece) => Some(Step::Blob(piece)),
        Work::Chunks {
            request,
            pack,
            index,
            mut numbers,
        } => {
            let number = numbers.pop_front()?;
            if !numbers.is_empty() {
                queue.push_back(Work::Chunks {
                    request,
                    pack,
                    index,
                    numbers,
                });
            }
            Some(Step::Chunk {
                request,
                pack,
                index,
                number,
            })
        }
    }
}

#[cfg(test)]
#[path = "responder_tests.rs"]
mod tests;
