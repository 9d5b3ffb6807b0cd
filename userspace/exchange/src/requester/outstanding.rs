// SPDX-License-Identifier: GPL-2.0 OR MIT

//! One request, and what has come for it.

use std::collections::HashSet;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::frame::{Conversation, Encoding, Pattern, Reply, RequestKind, State};
use crate::limits::{piece_size, CHUNK_CREDIT, PIECE_MAX, RETRY_MAX};
use crate::{Suggestion, Violation};

use super::{Answer, SentBlob, Waiter, Wanted};

/// News that may be on the way when nobody wants them any more.
const LATE_NEWS: u64 = 256;

/// A request that was sent.
pub(super) struct Outstanding<W> {
    wanted: Wanted,
    conversation: Conversation,
    received: Received,
    pub(super) waiter: W,
}

/// What came of an answer that has several parts.
enum Received {
    Nothing,
    Blob {
        pieces: BytesMut,
        /// What the first piece says of the blob.
        form: Option<Form>,
    },
    Chunks {
        /// Those that have not been answered.
        missing: HashSet<u32>,
        /// The one of which something has come.
        begun: Option<Begun>,
    },
}

/// What each piece of a blob says of it.
#[derive(Clone, Copy, Eq, PartialEq)]
struct Form {
    encoding: Encoding,
    sent_length: u64,
    length: u64,
}

/// A chunk of which not all pieces have come.
struct Begun {
    number: u32,
    total: u32,
    bytes: BytesMut,
}

/// What a reply did to a request: nothing, if it has begun or continued a chunk.
#[derive(Default)]
pub(super) struct Taken {
    /// Nothing more may come for it.
    pub(super) ends: bool,
    /// Bytes of data that nobody holds any more.
    pub(super) free: u32,
}

/// What may still come for a request that was cancelled.
pub(super) struct Late {
    replies: usize,
    bytes: u64,
}

impl Late {
    /// Takes a reply with so much data; false if there should be none.
    pub(super) fn take(&mut self, data_length: u32) -> bool {
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
    pub(super) fn new(wanted: Wanted, asked: RequestKind, waiter: W) -> Self {
        let received = match &wanted {
            Wanted::Have { .. }
            | Wanted::HavePack { .. }
            | Wanted::News { .. }
            | Wanted::Peers { .. }
            | Wanted::Suggestion { .. } => Received::Nothing,
            Wanted::Blob { .. } => Received::Blob {
                pieces: BytesMut::new(),
                form: None,
            },
            Wanted::Chunks { chunks, .. } => Received::Chunks {
                missing: chunks.iter().copied().collect(),
                begun: None,
            },
        };
        Outstanding {
            wanted,
            conversation: Conversation::new(asked),
            received,
            waiter,
        }
    }

    /// Whether the peer is to answer it soon.
    pub(super) fn is_waited_for(&self) -> bool {
        self.conversation.pattern() != Pattern::Subscription
    }

    /// Bytes of a chunk that are a part of the window, and that nobody can take before the others have come.
    pub(super) fn held(&self) -> u32 {
        match &self.received {
            Received::Chunks {
                begun: Some(begun), ..
            } => begun.bytes.len() as u32,
            _ => 0,
        }
    }

    /// What may still come if the request is cancelled now.
    pub(super) fn late(&self) -> Late {
        let bytes = match (&self.wanted, &self.received) {
            (_, Received::Chunks { missing, .. }) => {
                missing.len() as u64 * u64::from(CHUNK_CREDIT) - u64::from(self.held())
            }
            (Wanted::Blob { maximum, .. }, Received::Blob { pieces, form }) => {
                form.map_or(*maximum, |form| form.sent_length) - pieces.len() as u64
            }
            _ => 0,
        };
        let without_data = match self.is_waited_for() {
            false => LATE_NEWS,
            // That there is nothing is one reply too.
            true => 1,
        };
        let replies = bytes.div_ceil(u64::from(PIECE_MAX)).max(without_data);
        Late {
            replies: usize::try_from(replies).unwrap_or(usize::MAX),
            bytes,
        }
    }

    /// Passes on what is in a frame.
    pub(super) fn receive(&mut self, reply: Reply) -> Result<Taken, Violation> {
        let unexpected = Violation::UnexpectedReply(reply.request());
        let free = self.take(reply).ok_or(unexpected)?;
        let ends = self.conversation.state() == State::Done;
        Ok(Taken { ends, free })
    }

    /// Takes a reply; `None` if it does not fit. Otherwise so many bytes of data are nobody's any more.
    fn take(&mut self, reply: Reply) -> Option<u32> {
        let next = self.leads_to(&reply);
        self.conversation.reply(reply.kind()?, next).ok()?;
        match reply {
            Reply::BlobData {
                encoding,
                sent_length,
                length,
                data,
                ..
            } => {
                let form = Form {
                    encoding,
                    sent_length,
                    length,
                };
                self.blob_piece(form, &data)
            }
            Reply::ChunkData {
                number,
                offset,
                total,
                data,
                ..
            } => self.chunk_piece(number, offset, total, data),
            reply => {
                let answer = self.answer(reply)?;
                self.waiter.answer(answer);
                // Nobody takes what came of a chunk that is not sent to its end.
                Some(self.held())
            }
        }
    }

    /// Where a reply leads by what it says, if it fits.
    fn leads_to(&self, reply: &Reply) -> State {
        match (reply, &self.received) {
            (
                Reply::BlobData {
                    sent_length, data, ..
                },
                Received::Blob { pieces, .. },
            ) if pieces.len() as u64 + (data.len() as u64) < *sent_length => State::Begun,
            (
                Reply::ChunkData {
                    offset,
                    total,
                    data,
                    ..
                },
                _,
            ) if u64::from(*offset) + (data.len() as u64) < u64::from(*total) => State::Begun,
            (
                Reply::ChunkData { .. } | Reply::ChunkNotFound { .. },
                Received::Chunks { missing, .. },
            ) if missing.len() > 1 => State::Open,
            (Reply::HaveMap { .. } | Reply::HaveDelta { .. }, _) => State::Open,
            _ => State::Done,
        }
    }

    /// Takes the next piece of a blob; `None` if it is none.
    fn blob_piece(&mut self, said: Form, data: &Bytes) -> Option<u32> {
        let (Wanted::Blob { maximum, .. }, Received::Blob { pieces, form }) =
            (&self.wanted, &mut self.received)
        else {
            return None;
        };
        let received = pieces.len() as u64;
        if said.length > *maximum
            || said != *form.get_or_insert(said)
            || data.len() != piece_size(said.sent_length, received) as usize
        {
            return None;
        }
        // Its memory is the caller's, who said how much it may be.
        pieces.extend_from_slice(data);
        if self.conversation.state() == State::Done {
            let bytes = std::mem::take(pieces).freeze();
            self.waiter.answer(Answer::Blob(SentBlob {
                encoding: said.encoding,
                length: said.length,
                bytes,
            }));
        }
        Some(data.len() as u32)
    }

    /// Takes the next piece of a chunk; `None` if it is none.
    fn chunk_piece(&mut self, number: u32, offset: u32, total: u32, data: Bytes) -> Option<u32> {
        let Received::Chunks { missing, begun } = &mut self.received else {
            return None;
        };
        let is_whole = self.conversation.state() != State::Begun;
        let bytes = match begun.take() {
            None if offset > 0 || !missing.contains(&number) => return None,
            None if is_whole => data,
            None => {
                let mut bytes = BytesMut::with_capacity(total as usize);
                bytes.extend_from_slice(&data);
                *begun = Some(Begun {
                    number,
                    total,
                    bytes,
                });
                return Some(0);
            }
            Some(mut chunk) => {
                let end = chunk.bytes.len() as u32;
                if (number, offset, total) != (chunk.number, end, chunk.total) {
                    return None;
                }
                chunk.bytes.extend_from_slice(&data);
                if !is_whole {
                    *begun = Some(chunk);
                    return Some(0);
                }
                chunk.bytes.freeze()
            }
        };
        missing.remove(&number);
        self.waiter.answer(Answer::Chunk(number, Some(bytes)));
        Some(0)
    }

    /// What a reply without data answers; `None` if that was not asked for.
    fn answer(&mut self, reply: Reply) -> Option<Answer> {
        Some(match (&self.wanted, reply) {
            (_, Reply::Presence { have, .. }) => Answer::Have(have),
            (_, Reply::BlobNotFound { .. }) => Answer::NotFound,
            (Wanted::Blob { maximum, .. }, Reply::TooLarge { length, .. }) => Answer::TooLarge {
                length,
                maximum: *maximum,
            },
            (_, Reply::ChunkNotFound { number, .. }) => {
                let Received::Chunks { missing, .. } = &mut self.received else {
                    return None;
                };
                missing
                    .remove(&number)
                    .then_some(Answer::Chunk(number, None))?
            }
            (_, Reply::HaveMap { pack, have, .. }) => Answer::Map(pack, have),
            (_, Reply::HaveDelta { pack, runs, .. }) => Answer::Gained(pack, runs),
            (_, Reply::PeerList { peers, .. }) => Answer::Peers(peers),
            (Wanted::Suggestion { count, .. }, Reply::Suggestion { suggestion, .. }) => {
                Answer::Suggestion(within(suggestion, *count)?)
            }
            (_, Reply::Busy { retry_after, .. }) => Answer::Busy {
                retry_after: Duration::from_millis(retry_after.into()).min(RETRY_MAX),
            },
            (_, Reply::NotServed { .. }) => Answer::NotServed,
            _ => return None,
        })
    }
}

/// What was suggested; `None` if it is more than was asked for.
fn within(suggestion: Suggestion, count: u32) -> Option<Suggestion> {
    let fits = match &suggestion {
        Suggestion::Chunks(runs) => {
            let suggested: u64 = runs.iter().map(|run| u64::from(run.end - run.start)).sum();
            suggested <= u64::from(count)
        }
        Suggestion::Later(_) | Suggestion::Any => true,
    };
    fits.then_some(suggestion)
}
