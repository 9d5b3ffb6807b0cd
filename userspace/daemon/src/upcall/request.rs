// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The kernel's messages.

use peerfs_format::upcall::{
    FetchBlob, FetchChunks, Header, Operation, Priority, FETCH_CHUNKS_MAX,
};
use peerfs_format::{Error, Result};

/// A message from the kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Message {
    /// Get something.
    Request(Request),
    /// Nobody waits for the request with this id any more.
    Cancel,
}

/// What the kernel asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Request {
    /// A metadata blob.
    Blob(FetchBlob),
    /// Chunks of a pack.
    Chunks(FetchChunks),
}

impl Message {
    /// Takes the first message off `batch`: the request's id, and the message or why it is not
    /// understood. Without an id there is no telling where the next message begins.
    ///
    /// # Errors
    /// If its header is not understood.
    pub fn take(batch: &mut &[u8]) -> Result<(u64, Result<Message>)> {
        let (header, payload) = Header::parse(batch)?;
        *batch = batch.get(header.length as usize..).unwrap_or_default();
        let message = match header.operation {
            Operation::FetchBlob => FetchBlob::parse(payload)
                .map(Request::Blob)
                .map(Message::Request),
            Operation::FetchChunks => FetchChunks::parse(payload)
                .and_then(check_run)
                .map(Request::Chunks)
                .map(Message::Request),
            Operation::Cancel => Ok(Message::Cancel),
            Operation::Used | Operation::Failed => Err(Error::Malformed("upcall request")),
        };
        Ok((header.id, message))
    }
}

impl Request {
    /// How urgent the request is.
    pub fn priority(&self) -> Priority {
        Priority::from_number(match self {
            Request::Blob(request) => request.priority,
            Request::Chunks(request) => request.priority,
        })
    }
}

fn check_run(request: FetchChunks) -> Result<FetchChunks> {
    let end = request.first_chunk.checked_add(request.chunk_count);
    if end.is_some() && (1..=FETCH_CHUNKS_MAX).contains(&request.chunk_count) {
        Ok(request)
    } else {
        Err(Error::Malformed("FetchChunks request"))
    }
}
