// SPDX-License-Identifier: GPL-2.0

//! What reading chunks takes beside the chunks themselves, shared by all mounts: the workers that
//! read ahead, and decompressors.
#![forbid(unsafe_code)]

use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::{Arc, Mutex};
use peerfs_format::CHUNK_MAX;

use crate::vfs::{Shrink, Workqueue, ZstdDecoder};

/// Stored bytes that are read at once, unless a single chunk has more: with half of it compressed
/// away, four processors decode a readahead of 1 MiB side by side.
pub(super) const RUN_BYTES: usize = 128 * 1024;
const _: () = assert!(RUN_BYTES <= CHUNK_MAX as usize);

/// Idle decompressors that are kept: about one a processor of a small machine, some 160 KiB each.
const KEPT: usize = 8;

/// What the mounts share.
#[pin_data]
pub(crate) struct Readers {
    queue: Workqueue,
    /// Has room for `KEPT`. A leaf; taken in memory reclaim, too, so nothing is allocated under it.
    #[pin]
    idle: Mutex<KVec<ZstdDecoder>>,
}

impl Readers {
    /// The workers, idle.
    pub(crate) fn new() -> Result<Arc<Self>> {
        let queue = Workqueue::new(c"peerfs_read")?;
        let idle = KVec::with_capacity(KEPT, GFP_KERNEL)?;
        Arc::pin_init(
            pin_init!(Readers {
                queue,
                idle <- new_mutex!(idle, "peerfs readers"),
            }),
            GFP_KERNEL,
        )
    }

    /// Has a worker do this. Without memory it is dropped.
    pub(super) fn spawn(&self, work: impl FnOnce() + Send + 'static) -> Result {
        self.queue.spawn(work)
    }

    /// Waits for all work that was spawned before.
    pub(crate) fn flush(&self) {
        self.queue.flush();
    }

    /// Calls `work` with a decompressor, which is kept for the next one.
    pub(super) fn with_decoder<T>(
        &self,
        work: impl FnOnce(&mut ZstdDecoder) -> Result<T>,
    ) -> Result<T> {
        let idle = self.idle.lock().pop();
        let mut decoder = match idle {
            Some(decoder) => decoder,
            None => ZstdDecoder::new()?,
        };
        let result = work(&mut decoder);
        let one_too_many = self.idle.lock().push_within_capacity(decoder);
        drop(one_too_many);
        result
    }
}

impl Shrink for Readers {
    fn count(&self) -> usize {
        self.idle.lock().len()
    }

    fn shrink(&self, count: usize) -> usize {
        let take = || self.idle.lock().pop();
        (0..count).map_while(|_| take()).count()
    }
}
