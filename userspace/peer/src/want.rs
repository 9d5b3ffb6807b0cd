// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Requests to a peer, and where their answers go.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use peerfs_exchange::frame::PeerRecord;
use peerfs_exchange::limits::CLIENT_REQUESTS;
use peerfs_exchange::{Answer, Have, Priority, Progress, SentBlob, Suggestion, Waiter, Wanted};
use peerfs_format::Digest;
use tokio::sync::{mpsc, OwnedSemaphorePermit};

use crate::delivered::{Delivered, Taken};
use crate::RequestError;

/// The images that are to be followed at a peer at a time: other questions have room beside them.
pub const FOLLOWS_MAX: usize = CLIENT_REQUESTS / 2;

/// A request that was not sent yet.
pub(crate) struct Want {
    pub(crate) wanted: Wanted,
    pub(crate) answers: Answers,
}

/// Where the answers go. The channels have room for all of them.
pub(crate) enum Answers {
    Have(mpsc::Sender<Result<Have, RequestError>>),
    Blob(mpsc::Sender<Result<SentBlob, RequestError>>, Progress),
    Chunks(mpsc::Sender<ChunkAnswer>, Progress),
    News(Arc<dyn Listener>),
    Peers(mpsc::Sender<Result<Vec<PeerRecord>, RequestError>>),
    Suggestion(mpsc::Sender<Result<Suggestion, RequestError>>),
}

/// Whoever follows an image at a peer. What it is told is not proven, nor need it be of that image.
pub trait Listener: Send + Sync {
    /// The peer has so much of a pack; that replaces what it said before.
    fn has(&self, pack: Digest, have: Have);

    /// The peer has got more chunks of a pack: runs in ascending order, none of them empty.
    fn gained(&self, pack: Digest, runs: &[Range<u32>]);

    /// There are no more news: the peer is gone, refuses, or breaks the protocol.
    fn ended(&self);

    /// Whether nobody wants to know any more.
    fn is_gone(&self) -> bool;
}

/// The answer for a chunk: its number and its bytes, if the peer has it.
pub(crate) type ChunkAnswer = Result<(u32, Option<Delivered>), RequestError>;

impl Answers {
    /// Tells whoever asked that it won't be had. That nobody listens any more is no error.
    pub(crate) fn fail(&self, error: RequestError) {
        match self {
            Answers::Have(answers) => drop(answers.try_send(Err(error))),
            Answers::Blob(answers, _) => drop(answers.try_send(Err(error))),
            Answers::Chunks(answers, _) => drop(answers.try_send(Err(error))),
            Answers::News(listener) => listener.ended(),
            Answers::Peers(answers) => drop(answers.try_send(Err(error))),
            Answers::Suggestion(answers) => drop(answers.try_send(Err(error))),
        }
    }
}

/// How long a peer wants to be left alone by what is as urgent as what it refused, or less. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Resting {
    refused: Arc<Mutex<Option<(Priority, Instant)>>>,
}

impl Resting {
    /// How much of that time is left for something so urgent.
    pub(crate) fn left(&self, priority: Priority, now: Instant) -> Option<Duration> {
        let (refused, until) = (*self.lock())?;
        until
            .checked_duration_since(now)
            .filter(|left| priority >= refused && !left.is_zero())
    }

    /// It refused something so urgent. What it said of what is more urgent holds too.
    fn rest(&self, priority: Priority, until: Instant, now: Instant) {
        let mut refused = self.lock();
        let before = refused.filter(|(before, until)| *until > now && *before < priority);
        *refused = before.or(Some((priority, until)));
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Priority, Instant)>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever waits for a request that was sent.
pub(crate) struct Sent {
    pub(crate) answers: Answers,
    pub(crate) priority: Priority,
    pub(crate) taken: Arc<Taken>,
    pub(crate) resting: Resting,
    /// Keeps the number of outstanding requests bounded.
    pub(crate) _permit: OwnedSemaphorePermit,
}

impl Waiter for Sent {
    fn answer(&self, answer: Answer) {
        match (&self.answers, answer) {
            (Answers::Have(answers), Answer::Have(have)) => drop(answers.try_send(Ok(have))),
            (Answers::Blob(answers, _), Answer::Blob(blob)) => drop(answers.try_send(Ok(blob))),
            (Answers::Chunks(answers, _), Answer::Chunk(number, data)) => {
                let delivered = data.map(|data| Delivered::new(data, Arc::clone(&self.taken)));
                drop(answers.try_send(Ok((number, delivered))));
            }
            (Answers::News(listener), Answer::Map(pack, have)) => listener.has(pack, have),
            (Answers::News(listener), Answer::Gained(pack, runs)) => listener.gained(pack, &runs),
            (Answers::Peers(answers), Answer::Peers(peers)) => drop(answers.try_send(Ok(peers))),
            (Answers::Suggestion(answers), Answer::Suggestion(suggestion)) => {
                drop(answers.try_send(Ok(suggestion)));
            }
            (answers, Answer::NotFound) => answers.fail(RequestError::NotFound),
            (answers, Answer::TooLarge { length, maximum }) => {
                answers.fail(RequestError::TooLarge { length, maximum });
            }
            (answers, Answer::Busy { retry_after }) => {
                let now = Instant::now();
                self.resting.rest(self.priority, now + retry_after, now);
                answers.fail(RequestError::Busy { retry_after });
            }
            (answers, Answer::NotServed) => answers.fail(RequestError::NotServed),
            // The requester gives no request another one's answers.
            (
                _,
                Answer::Have(_)
                | Answer::Blob(_)
                | Answer::Chunk(..)
                | Answer::Map(..)
                | Answer::Gained(..)
                | Answer::Peers(_)
                | Answer::Suggestion(_),
            ) => (),
        }
    }

    fn progressed(&self, at: Instant) {
        match &self.answers {
            Answers::Have(_) | Answers::News(_) | Answers::Peers(_) | Answers::Suggestion(_) => (),
            Answers::Blob(_, progress) | Answers::Chunks(_, progress) => progress.note(at),
        }
    }

    fn is_gone(&self) -> bool {
        match &self.answers {
            Answers::Have(answers) => answers.is_closed(),
            Answers::Blob(answers, _) => answers.is_closed(),
            Answers::Chunks(answers, _) => answers.is_closed(),
            Answers::News(listener) => listener.is_gone(),
            Answers::Peers(answers) => answers.is_closed(),
            Answers::Suggestion(answers) => answers.is_closed(),
        }
    }
}
