// SPDX-License-Identifier: GPL-2.0

//! Requests to the daemons behind `/dev/peerfs`: who needs something that a store lacks asks here and
//! waits. Knows nothing of inodes, nor (but for `origin`) of what a store does with an answer. Who serves a store is told
//! here, too, what is read of it, as the store has noted it. The messages are in
//! `format/upcall.rs`, the protocol in `Documentation/upcall.md`.
//!
//! ```text
//!    fetch_*, prefetch_*  ->  StoreRequests { Mutex<Served> }  <-  Device: one open file of /dev/peerfs
//!                   waits on  Request (completion, outcome)    completes it
//! ```
//!
//! Each store has a queue of its own, so that who asks much of one does not hold up the others.
//!
//! Locking: the mutex of the list of stores is taken when one is mounted or attached, and when that ends. While it is
//! held, those of the queues are taken, for their counters alone. A queue's mutex is a leaf but for those of the wait
//! queues of readers, who are woken under it: no user memory is touched and nothing is waited for but memory. Callers of `fetch_*`
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

use crate::rust::fs::DirectoryId;
use crate::rust::sync::Wait;
use crate::store::{Fetched, Usage};
use crate::trace;
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
use queue::{FileId, MountId, Queue};
use request::{Request, Wanted};
use statistics::Statistics;

/// The requests of all mounts and the daemons of all stores. One for the module.
#[pin_data]
pub(crate) struct Upcall {
    enabled: bool,
    #[pin]
    stores: Mutex<Stores>,
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
    /// What its mounts read.
    usage: Arc<Usage>,
    #[pin]
    served: Mutex<Served>,
}

/// What the mutex of a store's requests is for.
struct Served {
    queue: Queue,
    /// The files that the queue has attached, and who reads them.
    files: KVec<(FileId, Arc<Readers>)>,
}

/// The tasks that read an open file of the device, or poll it.
#[pin_data]
struct Readers {
    /// Notified when there may be something new to read.
    #[pin]
    changed: PollCondVar,
}

impl Readers {
    fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            changed <- new_poll_condvar!("peerfs::Readers::changed"),
        })
    }

    /// Registers for changes.
    fn register(&self, opened: &File, table: PollTable<'_>) {
        table.register_wait(opened, &self.changed);
    }
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

    /// The counters.
    pub(crate) fn statistics(&self) -> Statistics {
        let stores = self.stores.lock();
        let mut sum = stores.ended;
        for used in stores.list.iter() {
            sum.add(&used.requests.served.lock().queue.statistics(Instant::now()));
        }
        sum
    }
}

impl Served {
    fn wake_readers(&self) {
        for (_, readers) in &self.files {
            readers.changed.notify_one();
        }
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
        let usage = Arc::pin_init(Usage::new(), GFP_KERNEL_ACCOUNT)?;
        let requests = Arc::pin_init(
            pin_init!(StoreRequests {
                store,
                usage,
                served <- new_mutex!(
                    Served {
                        queue: Queue::new(),
                        files: KVec::new(),
                    },
                    "peerfs::Upcall::served"
                ),
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
                let counted = requests.served.lock().queue.statistics(Instant::now());
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
    /// Asks for what is missing and waits, at most `timeout` jiffies. What comes is not verified yet.
    ///
    /// ENODATA: there are no upcalls. ETIMEDOUT: no answer in time. EINTR: the task is being killed.
    /// EBUSY: too many of the mount wait already. Otherwise the daemon's own errno.
    fn fetch(&self, wanted: Wanted, timeout: c_ulong) -> Result<Fetched> {
        if !self.upcall.enabled {
            return Err(ENODATA);
        }
        let began = Instant::<Monotonic>::now();
        let request = self.change(|queue, now| queue.demand(self.mount, wanted, now))?;
        let result = self.wait(&request, timeout);
        let (what, chunks) = match &wanted {
            Wanted::Blob(blob) => (&blob.digest, 0..0),
            Wanted::Chunks(chunks) => (&chunks.pack, chunks.range()),
        };
        trace::miss(request.id, what, chunks, began.elapsed(), &result);
        result
    }

    /// Waits for the answer to a request.
    fn wait(&self, request: &Request, timeout: c_ulong) -> Result<Fetched> {
        let wait = request.wait(timeout);
        if wait != Wait::Done {
            let left = self.change(|queue, _| queue.leave(request, wait == Wait::TimedOut));
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

    /// Asks for what may soon be needed. Never waits; what is too much is dropped.
    fn prefetch(&self, wanted: Wanted) -> Option<Arc<Request>> {
        if !self.upcall.enabled {
            return None;
        }
        self.change(|queue, now| queue.prefetch(self.mount, wanted, now))
    }

    /// Whether a daemon serves the store now.
    pub(crate) fn is_attached(&self) -> bool {
        self.served().queue.is_attached()
    }

    /// What the store's mounts read of it.
    fn usage(&self) -> &Arc<Usage> {
        &self.requests.usage
    }

    fn served(&self) -> MutexGuard<'_, Served> {
        self.requests.served.lock()
    }

    /// Changes the queue, and wakes one reader of each file that serves the store: whoever has time for it.
    fn change<T>(&self, change: impl FnOnce(&mut Queue, Instant<Monotonic>) -> T) -> T {
        let mut served = self.served();
        let result = change(&mut served.queue, Instant::now());
        served.wake_readers();
        result
    }

    /// An open file with these readers begins to serve the store.
    fn attach(&self, readers: &Arc<Readers>) -> Result<FileId> {
        let mut served = self.served();
        let now = Instant::now();
        let file = served.queue.attach(now)?;
        if let Err(error) = served.files.push((file, readers.clone()), GFP_KERNEL) {
            served.queue.detach(file, now);
            return Err(error.into());
        }
        served.wake_readers();
        Ok(file)
    }

    /// The file is closed; what it didn't answer goes to another one.
    fn detach(&self, file: FileId) {
        let mut served = self.served();
        let place = served
            .files
            .iter()
            .position(|(attached, _)| *attached == file);
        let given_up = place.and_then(|place| served.files.remove(place).ok());
        served.queue.detach(file, Instant::now());
        served.wake_readers();
        drop(served);
        // Without the lock: the end of a wait queue that may be polled takes a grace period of RCU.
        drop(given_up);
    }

    /// The next message for the file.
    fn next(&self, file: FileId) -> Option<Message> {
        self.served().queue.next(file, Instant::now())
    }

    /// Waits for the next message. Interruptible.
    fn wait_next(&self, file: FileId, readers: &Readers) -> Result<Message> {
        let mut served = self.served();
        loop {
            if let Some(message) = served.queue.next(file, Instant::now()) {
                return Ok(message);
            }
            if readers.changed.wait_interruptible(&mut served) {
                // Another task that reads the file was left to sleep for this one.
                served.wake_readers();
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
        self.served().queue.has_next(file)
    }

    /// The request with this id; ENOENT unless the file was handed it and is still to answer it.
    fn find(&self, file: FileId, id: u64) -> Result<Arc<Request>> {
        self.served().queue.find(file, id)
    }

    /// Answers a request: as [`StoreUpcall::find`], and its waiters go on.
    fn answer(&self, file: FileId, id: u64, outcome: Result<Fetched>) -> Result {
        let mut served = self.served();
        served
            .queue
            .take(file, id, outcome.is_err())?
            .complete(outcome);
        Ok(())
    }
}
