// SPDX-License-Identifier: GPL-2.0

//! Requests to the daemons behind `/dev/peerfs`: who needs something that a store lacks asks here and
//! waits. Knows nothing of inodes, nor (but for `origin`) of what a store does with an answer. The messages are in
//! `format/upcall.rs`, the protocol in `Documentation/upcall.md`.
//!
//! ```text
//!    fetch_*, prefetch_*  ->  StoreRequests { Mutex<Queue> }  <-  Device: one open file of /dev/peerfs
//!                   waits on  Request (completion, outcome)    completes it
//! ```
//!
//! Each store has a queue of its own, so that who asks much of one does not hold up the others.
//!
//! Locking: the mutex of the list of stores is taken when one is mounted or attached, and when that ends. While it is
//! held, those of the queues are taken, for their counters alone. A queue's mutex is a leaf: while it is held no other
//! lock of the module is taken, no user memory is touched and nothing is waited for but memory. Callers of `fetch_*`
//! hold no folio locked. They may hold the VFS's locks of a directory, or of a file's position.

#![forbid(unsafe_code)]

mod device;
mod message;
mod origin;
mod queue;
mod request;
mod statistics;
#[cfg(CONFIG_KUNIT = "y")]
mod tests;

pub(crate) use device::Device;
pub(crate) use origin::Daemon;
pub(crate) use request::Outcome;

use crate::rust::fs::DirectoryId;
use crate::rust::sync::Wait;
use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    ffi::c_ulong,
    fs::File,
    new_mutex, new_poll_condvar,
    prelude::*,
    sync::{
        lock::mutex::MutexGuard,
        poll::{PollCondVar, PollTable},
        Arc, Mutex,
    },
    time::{Instant, Monotonic},
};
use message::Message;
use peerfs_format::upcall::{FetchBlob, FetchChunks};
use queue::{FileId, MountId, Queue};
use request::{Request, Wanted};
use statistics::Statistics;

/// The requests of all mounts and the daemons of all stores. One for the module.
#[pin_data]
pub(crate) struct Upcall {
    enabled: bool,
    #[pin]
    stores: Mutex<Stores>,
    /// Notified when there may be something new to read.
    #[pin]
    changed: PollCondVar,
}

struct Stores {
    /// Those that are mounted or attached.
    list: KVVec<Used>,
    /// What was counted for others.
    ended: Statistics,
}

struct Used {
    requests: Arc<StoreRequests>,
    /// How many mounts and attached files have it.
    users: usize,
}

/// The requests of a store's mounts, and the daemons that serve it.
#[pin_data]
struct StoreRequests {
    store: DirectoryId,
    #[pin]
    queue: Mutex<Queue>,
}

impl Upcall {
    /// No requests, no daemons. Unless `enabled`, what is missing stays missing.
    pub(crate) fn new(enabled: bool) -> impl PinInit<Self> {
        pin_init!(Self {
            enabled,
            stores <- new_mutex!(
                Stores {
                    list: KVVec::new(),
                    ended: Statistics::default(),
                },
                "peerfs::Upcall::stores"
            ),
            changed <- new_poll_condvar!("peerfs::Upcall::changed"),
        })
    }

    /// The store with this directory, for somebody who keeps the directory for longer than the answer.
    pub(crate) fn store(self: &Arc<Self>, store: DirectoryId) -> Result<StoreUpcall> {
        let requests = self.stores.lock().get(store)?;
        Ok(StoreUpcall {
            upcall: self.clone(),
            requests,
            mount: MountId::new(),
        })
    }

    /// Registers for changes.
    fn register(&self, opened: &File, table: PollTable<'_>) {
        table.register_wait(opened, &self.changed);
    }

    /// The counters.
    pub(crate) fn statistics(&self) -> Statistics {
        let stores = self.stores.lock();
        let mut sum = stores.ended;
        for used in stores.list.iter() {
            sum.add(&used.requests.queue.lock().statistics(Instant::now()));
        }
        sum
    }
}

impl Stores {
    fn get(&mut self, store: DirectoryId) -> Result<Arc<StoreRequests>> {
        let found = self
            .list
            .iter_mut()
            .find(|used| used.requests.store == store);
        if let Some(used) = found {
            used.users = used.users.saturating_add(1);
            return Ok(used.requests.clone());
        }
        let requests = Arc::pin_init(
            pin_init!(StoreRequests {
                store,
                queue <- new_mutex!(Queue::new(), "peerfs::Upcall::queue"),
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        let used = Used {
            requests: requests.clone(),
            users: 1,
        };
        self.list.push(used, GFP_KERNEL_ACCOUNT)?;
        Ok(requests)
    }

    /// Gives up what `get` gave. Readahead that nobody came to take goes with the last user.
    fn put(&mut self, requests: &StoreRequests) {
        let Stores { list, ended } = self;
        list.retain(|used| {
            if used.requests.store != requests.store {
                return true;
            }
            used.users = used.users.saturating_sub(1);
            if used.users == 0 {
                let counted = requests.queue.lock().statistics(Instant::now());
                ended.add(&counted.without_pending());
            }
            used.users > 0
        });
    }
}

/// The way to the daemons of a store, for a mount of it or for a file that attaches it. Whoever has it keeps the
/// store's directory, by which the store is known.
pub(crate) struct StoreUpcall {
    upcall: Arc<Upcall>,
    requests: Arc<StoreRequests>,
    mount: MountId,
}

impl Drop for StoreUpcall {
    fn drop(&mut self) {
        self.upcall.stores.lock().put(&self.requests);
    }
}

impl StoreUpcall {
    /// Asks for a metadata blob and waits for it; see [`StoreUpcall::fetch_chunks`].
    pub(crate) fn fetch_blob(&self, request: FetchBlob, timeout: c_ulong) -> Result<Outcome> {
        self.fetch(Wanted::Blob(request), timeout)
    }

    /// Asks for chunks and waits, at most `timeout` jiffies. What comes is not verified yet.
    ///
    /// ENODATA: there are no upcalls. ETIMEDOUT: no answer in time. EINTR: the task is being killed.
    /// EBUSY: too many of the mount wait already. Otherwise the daemon's own errno.
    pub(crate) fn fetch_chunks(&self, request: FetchChunks, timeout: c_ulong) -> Result<Outcome> {
        self.fetch(Wanted::Chunks(request), timeout)
    }

    /// Asks for chunks that may soon be needed. Never waits; what is too much is dropped.
    pub(crate) fn prefetch_chunks(&self, request: FetchChunks) {
        if self.upcall.enabled {
            let wanted = Wanted::Chunks(request);
            self.change(|queue, now| queue.prefetch(self.mount, wanted, now));
        }
    }

    /// Whether a daemon serves the store now.
    pub(crate) fn is_attached(&self) -> bool {
        self.queue().is_attached()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.requests.queue.lock()
    }

    /// Changes the queue, and tells those who serve the store, if there are any.
    fn change<T>(&self, change: impl FnOnce(&mut Queue, Instant<Monotonic>) -> T) -> T {
        let mut queue = self.queue();
        let result = change(&mut queue, Instant::now());
        let is_attached = queue.is_attached();
        drop(queue);
        if is_attached {
            self.upcall.changed.notify_all();
        }
        result
    }

    fn fetch(&self, wanted: Wanted, timeout: c_ulong) -> Result<Outcome> {
        if !self.upcall.enabled {
            return Err(ENODATA);
        }
        let request = self.change(|queue, now| queue.demand(self.mount, wanted, now))?;

        let wait = request.wait(timeout);
        if wait != Wait::Done {
            let left = self.change(|queue, _| queue.leave(&request, wait == Wait::TimedOut));
            if wait == Wait::Killed {
                return Err(EINTR);
            }
            if left {
                return Err(ETIMEDOUT);
            }
        }
        // It is complete, if only since the time was over: requests are completed under the lock
        // under which they leave the queue.
        request.outcome()
    }

    /// An open file begins to serve the store.
    fn attach(&self) -> Result<FileId> {
        self.change(Queue::attach)
    }

    /// The file is closed; what it didn't answer goes to another one.
    fn detach(&self, file: FileId) {
        self.change(|queue, now| queue.detach(file, now));
    }

    /// The next message for the file.
    fn next(&self, file: FileId) -> Option<Message> {
        self.queue().next(file, Instant::now())
    }

    /// Waits for the next message. Interruptible.
    fn wait_next(&self, file: FileId) -> Result<Message> {
        let mut queue = self.queue();
        loop {
            if let Some(message) = queue.next(file, Instant::now()) {
                return Ok(message);
            }
            if self.upcall.changed.wait_interruptible(&mut queue) {
                return Err(ERESTARTSYS);
            }
        }
    }

    /// The message couldn't be handed over after all.
    fn put_back(&self, file: FileId, message: &Message) {
        self.change(|queue, now| queue.put_back(file, message, now));
    }

    /// Whether there is a message for the file.
    fn has_next(&self, file: FileId) -> bool {
        self.queue().has_next(file)
    }

    /// The request with this id; ENOENT unless the file was handed it and is still to answer it.
    fn find(&self, file: FileId, id: u64) -> Result<Arc<Request>> {
        self.queue().find(file, id)
    }

    /// Answers a request: as [`StoreUpcall::find`], and its waiters go on.
    fn answer(&self, file: FileId, id: u64, outcome: Result<Outcome>) -> Result {
        let mut queue = self.queue();
        queue.take(file, id, outcome.is_err())?.complete(outcome);
        Ok(())
    }
}
