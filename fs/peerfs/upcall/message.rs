// SPDX-License-Identifier: GPL-2.0

//! A message to a daemon, encoded.

#![forbid(unsafe_code)]

use super::request::Wanted;
use peerfs_format::{
    upcall::{
        write_message, FetchBlob, FetchChunks, Operation, Priority, FETCH_AGAIN, HEADER_SIZE,
        REQUEST_MAX,
    },
    Record,
};

/// Bytes of the longest message.
pub(super) const MESSAGE_MAX: usize = HEADER_SIZE + FetchChunks::SIZE;
const _: () = assert!(MESSAGE_MAX <= REQUEST_MAX && FetchBlob::SIZE <= FetchChunks::SIZE);

/// A message to a daemon.
pub(super) struct Message {
    id: u64,
    cancel: bool,
    bytes: Buffer<MESSAGE_MAX>,
}

impl Message {
    /// Asks for `wanted`.
    pub(super) fn request(id: u64, wanted: &Wanted, priority: Priority) -> Self {
        let mut payload = Buffer::<{ FetchChunks::SIZE }>::new();
        let append = |piece: &[u8]| payload.append(piece);
        let operation = match *wanted {
            Wanted::Blob(wanted) => {
                let message = FetchBlob {
                    digest: wanted.digest,
                    manifest: wanted.manifest,
                    workload: wanted.workload,
                    length: wanted.length,
                    kind: wanted.kind as u32,
                    priority: priority as u32,
                };
                message.write_to(append);
                Operation::FetchBlob
            }
            Wanted::Chunks(wanted) => {
                let message = FetchChunks {
                    pack: wanted.pack,
                    index: wanted.index,
                    manifest: wanted.manifest,
                    workload: wanted.workload,
                    first_chunk: wanted.first,
                    chunk_count: wanted.count,
                    priority: priority as u32,
                    flags: if wanted.again { FETCH_AGAIN } else { 0 },
                };
                message.write_to(append);
                Operation::FetchChunks
            }
        };
        Self::encode(operation, id, payload.as_slice())
    }

    /// Says that nobody waits for the request any more.
    pub(super) fn cancel(id: u64) -> Self {
        Self::encode(Operation::Cancel, id, &[])
    }

    fn encode(operation: Operation, id: u64, payload: &[u8]) -> Self {
        let mut bytes = Buffer::new();
        write_message(operation, id, payload, |piece| bytes.append(piece));
        Message {
            id,
            cancel: operation == Operation::Cancel,
            bytes,
        }
    }

    /// The message as it is read.
    pub(super) fn as_slice(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// The request's id, unless it is a cancellation.
    pub(super) fn request_id(&self) -> Option<u64> {
        (!self.cancel).then_some(self.id)
    }
}

/// Bytes on the stack.
struct Buffer<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Buffer<N> {
    fn new() -> Self {
        Buffer {
            bytes: [0; N],
            length: 0,
        }
    }

    /// Appends a piece; the sizes above leave room for all that are appended.
    fn append(&mut self, piece: &[u8]) {
        let end = self.length.saturating_add(piece.len());
        if let Some(free) = self.bytes.get_mut(self.length..end) {
            // Not `copy_from_slice`: objtool does not know its panic as a dead end.
            for (place, byte) in free.iter_mut().zip(piece) {
                *place = *byte;
            }
            self.length = end;
        }
    }

    fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}
