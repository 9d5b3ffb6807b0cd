// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The chunks of a request, as they arrive.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;

use crate::want::ChunkAnswer;
use crate::RequestError;

/// Answers to [`Node::fetch_chunks`](crate::Node::fetch_chunks): each is a chunk's number and its
/// stored bytes, not verified; or `None` in their place if the peer does not have the chunk. Ends
/// when each chunk was answered, or after an error.
#[derive(Debug)]
pub struct ChunkStream {
    answers: mpsc::Receiver<ChunkAnswer>,
    failed: bool,
}

impl ChunkStream {
    pub(crate) fn new(answers: mpsc::Receiver<ChunkAnswer>) -> Self {
        ChunkStream {
            answers,
            failed: false,
        }
    }

    /// The next answer.
    pub async fn next(&mut self) -> Option<Result<(u32, Option<Bytes>), RequestError>> {
        StreamExt::next(self).await
    }
}

impl Stream for ChunkStream {
    type Item = Result<(u32, Option<Bytes>), RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.failed {
            return Poll::Ready(None);
        }
        self.answers.poll_recv(context).map(|answer| {
            let answer = answer?;
            self.failed = answer.is_err();
            Some(
                answer.map(|(number, delivered)| {
                    (number, delivered.map(|delivered| delivered.take()))
                }),
            )
        })
    }
}
