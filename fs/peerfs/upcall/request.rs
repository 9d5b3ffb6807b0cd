// SPDX-License-Identifier: GPL-2.0

//! A request: what is wanted, and where those who want it wait.

#![forbid(unsafe_code)]

use crate::rust::sync::{Completion, Wait};
use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    ffi::c_ulong,
    fs::File,
    prelude::*,
    sync::{aref::ARef, Arc, SetOnce},
};
use peerfs_format::{
    upcall::{ChunkData, FetchBlob, FetchChunks, CHUNK_HEADER_SIZE, FETCH_CHUNKS_MAX},
    CHUNK_MAX, METADATA_MAX,
};

/// What a daemon answered. Nothing of it is verified.
#[derive(Clone)]
pub(crate) enum Outcome {
    /// It is in the store now: in this file of the store's filesystem, if there is one.
    Filled(Option<ARef<File>>),
    /// The bytes: of the blob, or [`ChunkData`] with exactly the chunks of the request's run. For a
    /// request that joined another one's run it is that run, and may begin before and end behind.
    Data(Arc<KVVec<u8>>),
}

/// What a store lacks.
#[derive(Clone, Copy)]
pub(super) enum Wanted {
    Blob(FetchBlob),
    Chunks(FetchChunks),
}

impl Wanted {
    /// EINVAL for what is no valid request.
    pub(super) fn check(&self) -> Result {
        match self {
            Wanted::Blob(blob) if blob.length <= METADATA_MAX => Ok(()),
            Wanted::Chunks(chunks)
                if (1..=FETCH_CHUNKS_MAX).contains(&chunks.chunk_count)
                    && chunks.first_chunk.checked_add(chunks.chunk_count).is_some() =>
            {
                Ok(())
            }
            _ => Err(EINVAL),
        }
    }

    /// Whether the answer to `self` also answers `other`: the same but for the priority, and for
    /// chunks `other`'s run is part of it.
    pub(super) fn covers(&self, other: &Wanted) -> bool {
        match (self, other) {
            (Wanted::Blob(a), Wanted::Blob(b)) => {
                *b == FetchBlob {
                    priority: b.priority,
                    ..*a
                }
            }
            // The run first: it rules out most, and cheaply.
            (Wanted::Chunks(a), Wanted::Chunks(b)) => {
                a.first_chunk <= b.first_chunk
                    && end(b) <= end(a)
                    && *b
                        == FetchChunks {
                            first_chunk: b.first_chunk,
                            chunk_count: b.chunk_count,
                            priority: b.priority,
                            ..*a
                        }
            }
            _ => false,
        }
    }

    /// The most bytes that the payload of a Data reply can have.
    pub(super) fn data_max(&self) -> usize {
        match self {
            Wanted::Blob(_) => METADATA_MAX as usize,
            Wanted::Chunks(chunks) => (chunks.chunk_count as usize)
                .saturating_mul(CHUNK_HEADER_SIZE.saturating_add(CHUNK_MAX as usize)),
        }
    }

    /// EINVAL unless the bytes have the form of an answer: the blob's length if that is known, each
    /// chunk of the run once and in order.
    pub(super) fn check_data(&self, data: &[u8]) -> Result {
        match self {
            Wanted::Blob(blob) => {
                let length = data.len() as u64;
                if length == 0
                    || length > METADATA_MAX
                    || (blob.length != 0 && length != blob.length)
                {
                    return Err(EINVAL);
                }
                Ok(())
            }
            Wanted::Chunks(chunks) => {
                let mut data = ChunkData::new(data);
                for number in u64::from(chunks.first_chunk)..end(chunks) {
                    match data.next() {
                        Some(Ok((found, _))) if u64::from(found) == number => {}
                        _ => return Err(EINVAL),
                    }
                }
                match data.next() {
                    None => Ok(()),
                    Some(_) => Err(EINVAL),
                }
            }
        }
    }
}

fn end(chunks: &FetchChunks) -> u64 {
    u64::from(chunks.first_chunk).saturating_add(u64::from(chunks.chunk_count))
}

/// A request. The queue has it while it is pending; those who wait for it share it.
#[pin_data]
pub(super) struct Request {
    /// Unique on this kernel, and ascending.
    pub(super) id: u64,
    /// What is asked for.
    pub(super) wanted: Wanted,
    /// Set before `done` is completed.
    outcome: SetOnce<Result<Outcome>>,
    #[pin]
    done: Completion,
}

impl Request {
    pub(super) fn new(id: u64, wanted: Wanted) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                id,
                wanted,
                outcome: SetOnce::new(),
                done <- Completion::new(),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Answers it; its waiters go on.
    pub(super) fn complete(&self, outcome: Result<Outcome>) {
        self.outcome.populate(outcome);
        self.done.complete_all();
    }

    /// Waits until it is answered.
    pub(super) fn wait(&self, timeout: c_ulong) -> Wait {
        self.done.wait_killable_timeout(timeout)
    }

    /// The answer to a request that is complete.
    pub(super) fn outcome(&self) -> Result<Outcome> {
        self.outcome.as_ref().cloned().unwrap_or(Err(EIO))
    }
}
