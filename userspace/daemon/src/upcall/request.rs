// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The kernel's messages.

use peerfs_format::upcall::{
    FetchBlob, FetchChunks, Header, Operation, Priority, FETCH_CHUNKS_MAX,
};
use peerfs_format::{Error, Result};

/// A message from the kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Request {
    /// Get a metadata blob.
    Blob(FetchBlob),
    /// Get chunks of a pack.
    Chunks(FetchChunks),
    /// Nobody waits for the request with this id any more.
    Cancel,
}

impl Request {
    /// Takes the first message off `batch`: the request's id, and the request or why it is not
    /// understood. Without an id there is no telling where the next message begins.
    pub fn take(batch: &mut &[u8]) -> Result<(u64, Result<Request>)> {
        let (header, payload) = Header::parse(batch)?;
        *batch = batch.get(header.length as usize..).unwrap_or_default();
        let request = match header.operation {
            Operation::FetchBlob => FetchBlob::parse(payload).map(Request::Blob),
            Operation::FetchChunks => FetchChunks::parse(payload).and_then(|request| {
                let end = request.first_chunk.checked_add(request.chunk_count);
                match end {
                    Some(_) if (1..=FETCH_CHUNKS_MAX).contains(&request.chunk_count) => {
                        Ok(Request::Chunks(request))
                    }
                    _ => Err(Error::Malformed("FetchChunks request")),
                }
            }),
            Operation::Cancel => Ok(Request::Cancel),
            Operation::Filled | Operation::Data | Operation::Failed => {
                Err(Error::Malformed("upcall request"))
            }
        };
        Ok((header.id, request))
    }

    /// How urgent the request is.
    pub fn priority(&self) -> Priority {
        match self {
            Request::Blob(request) => Priority::from_number(request.priority),
            Request::Chunks(request) => Priority::from_number(request.priority),
            Request::Cancel => Priority::Demand,
        }
    }
}
