// SPDX-License-Identifier: GPL-2.0

//! A request: what is wanted, and where those who want it wait.

#![forbid(unsafe_code)]

use crate::rust::sync::{Completion, Wait};
use crate::store::Fetched;
use core::ops::Range;
use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    ffi::c_ulong,
    prelude::*,
    sync::{Arc, SetOnce},
};
use peerfs_format::{
    upcall::{BlobKind, Workload, FETCH_CHUNKS_MAX},
    Digest, METADATA_MAX,
};

/// What a store lacks.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Wanted {
    Blob(WantedBlob),
    Chunks(WantedChunks),
}

/// A metadata blob.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct WantedBlob {
    pub(super) digest: Digest,
    /// The image's manifest.
    pub(super) manifest: Digest,
    /// What the mount is for.
    pub(super) workload: Workload,
    pub(super) kind: BlobKind,
    /// Its bytes, 0 if not known.
    pub(super) length: u64,
}

/// A run of chunks.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct WantedChunks {
    pub(super) pack: Digest,
    /// The index that says which chunk is which.
    pub(super) index: Digest,
    /// The image's manifest.
    pub(super) manifest: Digest,
    /// What the mount is for.
    pub(super) workload: Workload,
    /// The first chunk.
    pub(super) first: u32,
    pub(super) count: u32,
    /// Whether what the store has is wrong and must be fetched anew.
    pub(super) again: bool,
}

impl WantedChunks {
    /// The chunks' numbers.
    pub(super) fn range(&self) -> Range<u32> {
        self.first..self.first.saturating_add(self.count)
    }

    fn end(&self) -> u64 {
        u64::from(self.first).saturating_add(self.count.into())
    }
}

impl Wanted {
    /// EINVAL for what is no valid request.
    pub(super) fn check(&self) -> Result {
        match self {
            Wanted::Blob(blob) if blob.length <= METADATA_MAX => Ok(()),
            Wanted::Chunks(chunks)
                if (1..=FETCH_CHUNKS_MAX).contains(&chunks.count)
                    && chunks.first.checked_add(chunks.count).is_some() =>
            {
                Ok(())
            }
            _ => Err(EINVAL),
        }
    }

    /// Whether the answer to `self` also answers `other`: the same, and for chunks `other`'s run is part of it.
    pub(super) fn covers(&self, other: &Wanted) -> bool {
        match (self, other) {
            (Wanted::Blob(a), Wanted::Blob(b)) => a == b,
            // The run first: it rules out most, and cheaply.
            (Wanted::Chunks(a), Wanted::Chunks(b)) => {
                let WantedChunks { first, count, .. } = *b;
                a.first <= first
                    && b.end() <= a.end()
                    && *b == (WantedChunks { first, count, ..*a })
            }
            _ => false,
        }
    }
}

/// A request. The queue has it while it is pending; those who wait for it share it.
#[pin_data]
pub(super) struct Request {
    /// Unique on this kernel, and ascending.
    pub(super) id: u64,
    /// What is asked for.
    pub(super) wanted: Wanted,
    /// Set before `done` is completed.
    outcome: SetOnce<Result<Fetched>>,
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
    pub(super) fn complete(&self, outcome: Result<Fetched>) {
        self.outcome.populate(outcome);
        self.done.complete_all();
    }

    /// Waits until it is answered.
    pub(super) fn wait(&self, timeout: c_ulong) -> Wait {
        self.done.wait_killable_timeout(timeout)
    }

    /// Whether it was answered.
    pub(super) fn is_complete(&self) -> bool {
        self.outcome.as_ref().is_some()
    }

    /// The answer to a request that is complete.
    pub(super) fn outcome(&self) -> Result<Fetched> {
        self.outcome.as_ref().cloned().unwrap_or(Err(EIO))
    }
}
