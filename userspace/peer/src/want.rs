// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Requests to a peer, and where their answers go.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use peerfs_exchange::{Answer, Have, Progress, SentBlob, Waiter, Wanted};
use tokio::sync::{mpsc, OwnedSemaphorePermit};

use crate::delivered::{Delivered, Taken};
use crate::RequestError;

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
        }
    }
}

/// How long a peer wants to be left alone. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Resting {
    until: Arc<Mutex<Option<Instant>>>,
}

impl Resting {
    /// How much of that time is left.
    pub(crate) fn left(&self, now: Instant) -> Option<Duration> {
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until?
            .checked_duration_since(now)
            .filter(|left| !left.is_zero())
    }

    fn rest(&self, until: Instant) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }
}

/// Whoever waits for a request that was sent.
pub(crate) struct Sent {
    pub(crate) answers: Answers,
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
            (answers, Answer::NotFound) => answers.fail(RequestError::NotFound),
            (answers, Answer::TooLarge { length, maximum }) => {
                answers.fail(RequestError::TooLarge { length, maximum });
            }
            (answers, Answer::Busy { retry_after }) => {
                self.resting.rest(Instant::now() + retry_after);
                answers.fail(RequestError::Busy { retry_after });
            }
            (answers, Answer::NotServed) => answers.fail(RequestError::NotServed),
            // The requester gives no request another one's answers.
            (_, Answer::Have(_) | Answer::Blob(_) | Answer::Chunk(..)) => (),
        }
    }

    fn progressed(&self, at: Instant) {
        match &self.answers {
            Answers::Have(_) => (),
            Answers::Blob(_, progress) | Answers::Chunks(_, progress) => progress.note(at),
        }
    }

    fn is_gone(&self) -> bool {
        match &self.answers {
            Answers::Have(answers) => answers.is_closed(),
            Answers::Blob(answers, _) => answers.is_closed(),
            Answers::Chunks(answers, _) => answers.is_closed(),
        }
    }
}
