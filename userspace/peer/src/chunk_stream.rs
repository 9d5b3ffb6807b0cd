//! The chunks of a request, as they arrive.

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::RequestError;

/// Answers to [`Node::fetch_chunks`](crate::Node::fetch_chunks). Ends when each chunk was answered,
/// or after an error.
#[derive(Debug)]
pub struct ChunkStream {
    receiver: mpsc::Receiver<Result<(u32, Option<Bytes>), RequestError>>,
}

impl ChunkStream {
    /// The next answer: a chunk's number and its stored bytes, not verified; or `None` in their
    /// place if the peer does not have the chunk.
    pub async fn next(&mut self) -> Option<Result<(u32, Option<Bytes>), RequestError>> {
        self.receiver.recv().await
    }
}
