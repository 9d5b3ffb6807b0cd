// SPDX-License-Identifier: GPL-2.0

//! What reading chunks takes beside the chunks themselves, shared by all mounts: the workers that
//! read ahead, and decompressors.
#![forbid(unsafe_code)]

use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::{Arc, CondVar, CondVarTimeoutResult, Mutex};
use kernel::{new_condvar, new_mutex};
use peerfs_format::CHUNK_MAX;

use crate::rust::mm::{NoFsScope, Shrink};
use crate::rust::module::ModuleReference;
use crate::rust::time::seconds_to_jiffies;
use crate::rust::workqueue::Workqueue;
use crate::store::decode::Decoder;

/// Stored bytes that are read at once, unless a single chunk has more: with half of it compressed
/// away, four processors decode a readahead of 1 MiB side by side.
pub(in crate::store) const RUN_BYTES: usize = 128 * 1024;
const _: () = assert!(RUN_BYTES <= CHUNK_MAX as usize);

/// Pieces of work that wait or are done at the most, of all mounts: as many as the queue has workers for at once, so
/// that nothing waits for what another mount has to do, which may be stuck.
const WORK_MAX: usize = 256;
/// Of these, those of mounts of users without privileges, who can have as many mounts with stuck stores as it takes;
/// and as many of all others.
const SHARE: usize = WORK_MAX / 2;

/// For how long unmounting waits for work of the mount's own: seconds.
const UNMOUNT_WAIT: u32 = 1;

/// Idle decompressors that are kept: about one a processor of a small machine, some 160 KiB each.
const KEPT: usize = 8;

/// What the mounts share.
#[pin_data]
pub(crate) struct Workers {
    queue: Workqueue,
    /// Pieces of work that are not done, of all mounts of privileged users.
    pending: Atomic<usize>,
    /// As above, of all other mounts.
    others_pending: Atomic<usize>,
    /// Has room for `KEPT`. A leaf; taken in memory reclaim, too, so nothing is allocated under it.
    #[pin]
    idle: Mutex<KVec<Decoder>>,
}

impl Workers {
    /// The workers, idle.
    pub(crate) fn new() -> Result<Arc<Self>> {
        let queue = Workqueue::new(c"peerfs_read")?;
        let idle = KVec::with_capacity(KEPT, GFP_KERNEL)?;
        Arc::pin_init(
            pin_init!(Workers {
                queue,
                pending: Atomic::new(0),
                others_pending: Atomic::new(0),
                idle <- new_mutex!(idle, "peerfs workers"),
            }),
            GFP_KERNEL,
        )
    }

    /// A turn of a worker for a mount; `None` if it has as many already as are left for all others of its kind. So it
    /// takes several mounts whose stores are stuck to have them all.
    pub(in crate::store) fn turn(self: &Arc<Self>, own: &Arc<OwnWork>) -> Option<Turn> {
        let mut pending = own.pending.lock();
        // Several mounts at once may take a few more.
        let left = SHARE.saturating_sub(self.pending(own.is_privileged).load(Relaxed));
        if *pending >= left {
            return None;
        }
        *pending = pending.saturating_add(1);
        self.pending(own.is_privileged).add(1, Relaxed);
        Some(Turn {
            place: Place {
                workers: self.clone(),
                is_privileged: own.is_privileged,
            },
            _module: ModuleReference::new(),
            _own: OwnPlace(own.clone()),
        })
    }

    fn pending(&self, is_privileged: bool) -> &Atomic<usize> {
        match is_privileged {
            true => &self.pending,
            false => &self.others_pending,
        }
    }

    /// Calls `work` with a decoder, which is kept for the next one.
    pub(in crate::store) fn with_decoder<T>(
        &self,
        work: impl FnOnce(&mut Decoder) -> Result<T>,
    ) -> Result<T> {
        let idle = self.idle.lock().pop();
        let mut decoder = match idle {
            Some(decoder) => decoder,
            None => Decoder::new()?,
        };
        let result = work(&mut decoder);
        let one_too_many = self.idle.lock().push_within_capacity(decoder);
        drop(one_too_many);
        result
    }
}

/// The work of a mount that is not done.
#[pin_data]
pub(in crate::store) struct OwnWork {
    is_privileged: bool,
    #[pin]
    pending: Mutex<usize>,
    #[pin]
    done: CondVar,
}

impl OwnWork {
    /// None, of a mount of somebody who is privileged or not.
    pub(in crate::store) fn new(is_privileged: bool) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(OwnWork {
                is_privileged,
                pending <- new_mutex!(0, "peerfs work"),
                done <- new_condvar!("peerfs work done"),
            }),
            GFP_KERNEL,
        )
    }

    /// Waits until all of it is done, as it is soon unless the store is stuck: then for a second.
    pub(in crate::store) fn wait(&self) {
        let mut left = seconds_to_jiffies(UNMOUNT_WAIT);
        let mut pending = self.pending.lock();
        while *pending > 0 {
            left = match self.done.wait_interruptible_timeout(&mut pending, left) {
                CondVarTimeoutResult::Woken { jiffies } => jiffies,
                CondVarTimeoutResult::Timeout | CondVarTimeoutResult::Signal { .. } => return,
            };
        }
    }
}

/// A piece of work, counted until it is done. Given up in this order: without the queue, which must not be destroyed by
/// its own worker, the module may go, whose end destroys the queue and so waits for what is left of the work; and who
/// unmounts learns of it when nothing of it keeps the module any more.
pub(in crate::store) struct Turn {
    place: Place,
    _module: ModuleReference,
    _own: OwnPlace,
}

impl Turn {
    /// Has a worker do this. Without memory it is dropped.
    pub(in crate::store) fn spawn(self, work: impl FnOnce() + Send + 'static) -> Result {
        let workers = self.place.workers.clone();
        workers.queue.spawn(move || {
            let turn = self;
            let _scope = NoFsScope::new();
            work();
            drop(turn);
        })
    }
}

/// A place among the pieces of work of all mounts of a kind.
struct Place {
    workers: Arc<Workers>,
    is_privileged: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        let pending = self.workers.pending(self.is_privileged);
        pending.fetch_sub(1, Relaxed);
    }
}

/// A place among those of one mount.
struct OwnPlace(Arc<OwnWork>);

impl Drop for OwnPlace {
    fn drop(&mut self) {
        let mut pending = self.0.pending.lock();
        *pending = pending.saturating_sub(1);
        if *pending == 0 {
            self.0.done.notify_all();
        }
    }
}

impl Shrink for Workers {
    fn count(&self) -> usize {
        self.idle.lock().len()
    }

    fn shrink(&self, count: usize) -> usize {
        let take = || self.idle.lock().pop();
        (0..count).map_while(|_| take()).count()
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(peerfs_readers)]
mod tests {
    use super::*;

    /// As many turns as a mount gets.
    fn turns(workers: &Arc<Workers>, own: &Arc<OwnWork>) -> Result<KVec<Turn>> {
        let mut turns = KVec::new();
        while let Some(turn) = workers.turn(own) {
            turns.push(turn, GFP_KERNEL)?;
        }
        Ok(turns)
    }

    #[test]
    fn a_mount_leaves_the_others_as_many_turns_as_it_has() -> Result {
        let workers = Workers::new()?;
        let mount = || OwnWork::new(true);
        let (stuck, other, third) = (mount()?, mount()?, mount()?);
        let first = turns(&workers, &stuck)?;
        let second = turns(&workers, &other)?;
        assert_eq!((first.len(), second.len()), (SHARE / 2, SHARE / 4));
        assert_eq!(turns(&workers, &third)?.len(), SHARE / 8);
        assert!(workers.turn(&stuck).is_none());
        drop(first);
        assert!(workers.turn(&stuck).is_some());
        drop(second);
        assert_eq!(turns(&workers, &third)?.len(), SHARE / 2);
        // Nothing is left that one would wait for.
        stuck.wait();
        Ok(())
    }

    #[test]
    fn users_with_any_number_of_mounts_leave_the_privileged_ones_their_turns() -> Result {
        let workers = Workers::new()?;
        let mut taken = KVec::new();
        loop {
            let of_mount = turns(&workers, &OwnWork::new(false)?)?;
            if of_mount.is_empty() {
                break;
            }
            taken.push(of_mount, GFP_KERNEL)?;
        }
        assert_eq!(turns(&workers, &OwnWork::new(true)?)?.len(), SHARE / 2);
        Ok(())
    }
}
