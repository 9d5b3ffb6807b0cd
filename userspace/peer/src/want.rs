// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Requests to a peer, and where their answers go.

use std::sync::Arc;

use bytes::Bytes;
use peerfs_exchange::{Answer, Have, Waiter, Wanted};
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
    Blob(mpsc::Sender<Result<Bytes, RequestError>>),
    Chunks(mpsc::Sender<ChunkAnswer>),
}

/// The answer for a chunk: its number and its bytes, if the peer has it.
pub(crate) type ChunkAnswer = Result<(u32, Option<Delivered>), RequestError>;

impl Answers {
    /// Tells whoever asked that it won't be had. That nobody listens any more is no error.
    pub(crate) fn fail(&self, error: RequestError) {
        match self {
            Answers::Have(answers) => drop(answers.try_send(Err(error))),
            Answers::Blob(answers) => drop(answers.try_send(Err(error))),
            Answers::Chunks(answers) => drop(answers.try_send(Err(error))),
        }
    }
}

/// Whoever waits for a request that was sent.
pub(crate) struct Sent {
    pub(crate) answers: Answers,
    pub(crate) taken: Arc<Taken>,
    /// Keeps the number of outstanding requests bounded.
    pub(crate) _permit: OwnedSemaphorePermit,
}

impl Waiter for Sent {
    fn answer(&self, answer: Answer) {
        match (&self.answers, answer) {
            (Answers::Have(answers), Answer::Have(have)) => drop(answers.try_send(Ok(have))),
            (Answers::Blob(answers), Answer::Blob(bytes)) => drop(answers.try_send(Ok(bytes))),
            (Answers::Chunks(answers), Answer::Chunk(number, data)) => {
                let delivered = data.map(|data| Delivered::new(data, Arc::clone(&self.taken)));
                drop(answers.try_send(Ok((number, delivered))));
            }
            (answers, Answer::NotFound) => answers.fail(RequestError::NotFound),
            (answers, Answer::TooLarge { length, maximum }) => {
                answers.fail(RequestError::TooLarge { length, maximum });
            }
            (answers, Answer::Busy) => answers.fail(RequestError::Busy),
            // The requester gives no request another one's answers.
            (_, Answer::Have(_) | Answer::Blob(_) | Answer::Chunk(..)) => (),
        }
    }

    fn is_gone(&self) -> bool {
        match &self.answers {
            Answers::Have(answers) => answers.is_closed(),
            Answers::Blob(answers) => answers.is_closed(),
            Answers::Chunks(answers) => answers.is_closed(),
        }
    }
}
