// SPDX-License-Identifier: GPL-2.0 OR MIT

//! When the chunks of the store were used, as far as this daemon is told.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use nix::errno::Errno;
use peerfs_exchange::Arrival;
use peerfs_format::upcall::used_chunks;
use peerfs_format::{Digest, PackRecord};
use peerfs_peer::ArrivalLog;
use peerfs_store::{Recency, Watcher};
use tracing::{debug, warn};

use crate::upcall::{Device, KernelIoctls};

/// Answers of the kernel that are read at a time: more than it has of a store of 256 GiB, unless readers add to them as fast
/// as they are read.
const ANSWERS_MAX: usize = 1024;

/// When chunks were used: those that came, and those that the kernel, or who serves a mount through FUSE, says were read.
pub(crate) struct Uses {
    recency: Mutex<Recency>,
    began: Instant,
    /// What serves the kernel now.
    device: Mutex<Weak<Device<KernelIoctls>>>,
}

impl Uses {
    /// Nothing was used.
    pub(crate) fn new(now: Instant) -> Self {
        Uses {
            recency: Mutex::default(),
            began: now,
            device: Mutex::default(),
        }
    }

    /// From now on this is what serves the kernel.
    pub(crate) fn attached(&self, device: &Arc<Device<KernelIoctls>>) {
        *lock(&self.device) = Arc::downgrade(device);
    }

    /// A chunk came: somebody is about to use it.
    pub(crate) fn came(&self, pack: &PackRecord, chunk: u32, now: Instant) {
        let second = self.second(now);
        lock(&self.recency).used(&pack.digest, &pack.index_digest, chunk, second);
    }

    /// Somebody else than the kernel says that chunks of a pack were read.
    pub(crate) fn read(
        &self,
        pack: &Digest,
        index: &Digest,
        chunks: impl Iterator<Item = u32>,
        now: Instant,
    ) {
        let second = self.second(now);
        let mut recency = lock(&self.recency);
        for chunk in chunks {
            recency.used(pack, index, chunk, second);
        }
    }

    /// Asks the kernel what was read since it was asked last. One that cannot tell is not asked again.
    pub(crate) fn ask(&self, now: Instant) {
        let Some(device) = lock(&self.device).upgrade() else {
            return;
        };
        for _ in 0..ANSWERS_MAX {
            let taken = device.used().map(|answer| self.take(&answer, now));
            match taken {
                Ok(Ok(0)) => return,
                Ok(Ok(_)) => (),
                Ok(Err(error)) => {
                    warn!(%error, "what the kernel says of the chunks that were read is not understood");
                    break;
                }
                Err(error) if error.raw_os_error() == Some(Errno::ENOTTY as i32) => {
                    debug!(
                        "this kernel does not tell what was read: the times of files have to do"
                    );
                    break;
                }
                // It is gone.
                Err(error) => {
                    debug!(%error, "cannot ask the kernel what was read");
                    return;
                }
            }
        }
        *lock(&self.device) = Weak::new();
    }

    /// Notes what an answer of the kernel says; returns of how many runs of chunks that is.
    fn take(&self, answer: &[u8], now: Instant) -> peerfs_format::Result<usize> {
        let second = self.second(now);
        let mut recency = lock(&self.recency);
        let mut count = 0;
        for run in used_chunks(answer)? {
            let run = run?;
            for chunk in run.chunks() {
                recency.used(&run.pack, &run.index, chunk, second);
            }
            count += 1;
        }
        Ok(count)
    }

    /// What is known now.
    pub(crate) fn recency(&self) -> Recency {
        lock(&self.recency).clone()
    }

    /// Seconds since the beginning, which is second 1.
    fn second(&self, now: Instant) -> u32 {
        let seconds = now.saturating_duration_since(self.began).as_secs();
        u32::try_from(seconds).map_or(u32::MAX, |seconds| seconds.saturating_add(1))
    }
}

/// Tells peers that follow an image what comes into the store, and notes when that was.
pub(crate) struct Told {
    pub(crate) arrivals: Arc<ArrivalLog>,
    pub(crate) uses: Arc<Uses>,
}

impl Watcher for Told {
    fn came(&self, pack: &PackRecord, chunk: u32) {
        self.arrivals.note(Arrival::Chunk {
            pack: pack.digest,
            number: chunk,
        });
        self.uses.came(pack, chunk, Instant::now());
    }

    fn went(&self, pack: &Digest) {
        self.arrivals.note(Arrival::Changed(*pack));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is known is valid after every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use peerfs_format::upcall::{write_message, Operation, UsedRun};
    use peerfs_format::{Digest, Record};

    use super::*;

    fn answer(runs: &[(u8, u32, u64)]) -> Vec<u8> {
        let mut payload = Vec::new();
        for (pack, first_chunk, bits) in runs {
            let run = UsedRun {
                pack: Digest([*pack; 32]),
                index: Digest([9; 32]),
                first_chunk: *first_chunk,
                words: 1,
            };
            run.write_to(|piece| payload.extend_from_slice(piece));
            payload.extend_from_slice(&bits.to_le_bytes());
        }
        let mut message = Vec::new();
        write_message(Operation::Used, 0, &payload, |piece| {
            message.extend_from_slice(piece);
        });
        message
    }

    #[test]
    fn what_the_kernel_says_is_known_by_the_second() {
        let began = Instant::now();
        let uses = Uses::new(began);
        let after = |seconds| began + Duration::from_secs(seconds);
        let two = answer(&[(1, 64, 0b101), (2, 0, 1)]);
        assert_eq!(uses.take(&two, began), Ok(2));
        assert_eq!(uses.take(&answer(&[(1, 64, 1)]), after(9)), Ok(1));
        assert_eq!(uses.take(&answer(&[]), after(99)), Ok(0));
        let recency = uses.recency();
        let last_used =
            |pack: u8, chunk| recency.last_used(&Digest([pack; 32]), &Digest([9; 32]), chunk);
        let found = [(1, 64), (1, 65), (1, 66), (2, 0), (2, 1)];
        assert_eq!(
            found.map(|(pack, chunk)| last_used(pack, chunk)),
            [10, 0, 1, 1, 0]
        );
        assert!(uses.take(&two[..two.len() - 1], began).is_err());
    }
}
