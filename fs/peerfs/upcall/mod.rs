// SPDX-License-Identifier: GPL-2.0

//! Requests to the daemons behind `/dev/peerfs`: who needs something that a store lacks asks here and
//! waits. Knows nothing of inodes, nor of what a store does with an answer. The messages are in
//! `format/upcall.rs`, the protocol in `Documentation/upcall.md`.
//!
//! ```text
//!    fetch_*, prefetch_*  ->  Upcall { Mutex<Queue> }  <-  Device: one open file of /dev/peerfs
//!                   waits on  Request (completion, outcome)    completes it
//! ```
//!
//! Locking: [`Upcall`]'s mutex is a leaf: while it is held no other lock of the module is taken, no
//! user memory is touched and nothing is waited for but memory. Callers of `fetch_*` may hold locks of
//! folios; a daemon never needs them, unless it reads the mount that it serves: then it waits for
//! itself, until the timeout.

#![forbid(unsafe_code)]

mod device;
mod message;
mod queue;
mod request;
mod statistics;
#[cfg(CONFIG_KUNIT = "y")]
mod tests;

pub(crate) use device::Device;
pub(crate) use request::Outcome;

use crate::vfs::{completion::Wait, descriptor::DirectoryId};
use kernel::{
    ffi::c_ulong,
    fs::File,
    new_mutex, new_poll_condvar,
    prelude::*,
    sync::{
        poll::{PollCondVar, PollTable},
        Arc, Mutex,
    },
    time::Instant,
};
use message::Message;
use peerfs_format::upcall::{FetchBlob, FetchChunks};
use queue::{FileId, Queue};
use request::{Request, Wanted};
use statistics::Statistics;

/// The requests of all mounts and the daemons of all stores. One for the module.
#[pin_data]
pub(crate) struct Upcall {
    enabled: bool,
    #[pin]
    queue: Mutex<Queue>,
    /// Notified when there may be something new to read.
    #[pin]
    changed: PollCondVar,
}

impl Upcall {
    /// No requests, no daemons. Unless `enabled`, what is missing stays missing.
    pub(crate) fn new(enabled: bool) -> impl PinInit<Self> {
        pin_init!(Self {
            enabled,
            queue <- new_mutex!(Queue::new(), "peerfs::Upcall::queue"),
            changed <- new_poll_condvar!("peerfs::Upcall::changed"),
        })
    }

    /// Asks for a metadata blob and waits for it; see [`Upcall::fetch_chunks`].
    pub(crate) fn fetch_blob(
        &self,
        store: DirectoryId,
        request: FetchBlob,
        timeout: c_ulong,
    ) -> Result<Outcome> {
        self.fetch(store, Wanted::Blob(request), timeout)
    }

    /// Asks for chunks and waits, at most `timeout` jiffies. What comes is not verified yet.
    ///
    /// ENODATA: there are no upcalls. ETIMEDOUT: no answer in time. EINTR: the task is being killed.
    /// EBUSY: too many wait already. Otherwise the daemon's own errno.
    pub(crate) fn fetch_chunks(
        &self,
        store: DirectoryId,
        request: FetchChunks,
        timeout: c_ulong,
    ) -> Result<Outcome> {
        self.fetch(store, Wanted::Chunks(request), timeout)
    }

    /// Asks for chunks that may soon be needed. Never waits; what is too much is dropped.
    pub(crate) fn prefetch_chunks(&self, store: DirectoryId, request: FetchChunks) {
        if self.enabled {
            let wanted = Wanted::Chunks(request);
            self.queue.lock().prefetch(store, wanted, Instant::now());
            self.changed.notify_all();
        }
    }

    /// Whether a daemon serves the store now.
    pub(crate) fn is_attached(&self, store: DirectoryId) -> bool {
        self.queue.lock().is_attached(store)
    }

    /// The counters.
    pub(crate) fn statistics(&self) -> Statistics {
        self.queue.lock().statistics(Instant::now())
    }

    fn fetch(&self, store: DirectoryId, wanted: Wanted, timeout: c_ulong) -> Result<Outcome> {
        if !self.enabled {
            return Err(ENODATA);
        }
        let request = self.queue.lock().demand(store, wanted, Instant::now())?;
        self.changed.notify_all();

        let wait = request.wait(timeout);
        if wait != Wait::Done {
            let left = self.queue.lock().leave(&request, wait == Wait::TimedOut);
            self.changed.notify_all();
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

    /// An open file begins to serve a store.
    fn attach(&self, store: DirectoryId) -> Result<FileId> {
        let file = self.queue.lock().attach(store, Instant::now())?;
        self.changed.notify_all();
        Ok(file)
    }

    /// The file is closed; what it didn't answer goes to another one.
    fn detach(&self, file: FileId) {
        self.queue.lock().detach(file, Instant::now());
        self.changed.notify_all();
    }

    /// The next message for the file.
    fn next(&self, file: FileId) -> Option<Message> {
        self.queue.lock().next(file, Instant::now())
    }

    /// Waits for the next message. Interruptible.
    fn wait_next(&self, file: FileId) -> Result<Message> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(message) = queue.next(file, Instant::now()) {
                return Ok(message);
            }
            if self.changed.wait_interruptible(&mut queue) {
                return Err(ERESTARTSYS);
            }
        }
    }

    /// The message couldn't be handed over after all.
    fn put_back(&self, file: FileId, message: &Message) {
        self.queue.lock().put_back(file, message, Instant::now());
        self.changed.notify_all();
    }

    /// Whether there is a message for the file; registers for changes.
    fn poll(&self, file: Option<FileId>, opened: &File, table: PollTable<'_>) -> bool {
        table.register_wait(opened, &self.changed);
        file.is_some_and(|file| self.queue.lock().has_next(file))
    }

    /// The request with this id; ENOENT unless the file was handed it and is still to answer it.
    fn find(&self, file: FileId, id: u64) -> Result<Arc<Request>> {
        self.queue.lock().find(file, id)
    }

    /// Answers a request: as [`Upcall::find`], and its waiters go on.
    fn answer(&self, file: FileId, id: u64, outcome: Result<Outcome>) -> Result {
        let mut queue = self.queue.lock();
        queue.take(file, id, outcome.is_err())?.complete(outcome);
        Ok(())
    }
}
