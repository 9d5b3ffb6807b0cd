// SPDX-License-Identifier: GPL-2.0

//! Which requests of a store are pending, who waits for them and who is to answer them: the decisions, without
//! device, waiting or waking.
//!
//! A request is queued, then handed to one open file, then answered, and so gone. It keeps its id,
//! which says how old it is, when it goes back to the queue. All operations take time linear in the
//! number of pending requests: of demands there is at the most one for each task that waits, and their number is
//! bounded for each mount.

#![forbid(unsafe_code)]

use super::{
    message::Message,
    request::{Request, Wanted},
    Statistics,
};
use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
    time::{Delta, Instant, Monotonic},
};
use peerfs_format::upcall::Priority;

/// The most demands that are pending for a mount: it must not keep the others of the store from asking.
pub(super) const DEMAND_MAX: usize = 4096;
/// The most readahead requests that are pending for a store.
pub(super) const READAHEAD_MAX: usize = 256;
/// The most cancellations that an open file has not read yet; more are not told.
pub(super) const CANCEL_MAX: usize = 64;
/// For how long a readahead request stays where it is, queued or handed out.
pub(super) const READAHEAD_LIFETIME: Delta = Delta::from_secs(60);

/// Counts requests, also those of other stores: ids are unique.
static REQUESTS: Atomic<u64> = Atomic::new(0);
/// Counts files.
static FILES: Atomic<u64> = Atomic::new(0);
/// Counts mounts.
static MOUNTS: Atomic<u64> = Atomic::new(0);

/// An open file that has attached the store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct FileId(u64);

/// A mount of the store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct MountId(pub(super) u64);

impl MountId {
    /// One that nobody has.
    pub(super) fn new() -> Self {
        MountId(next(&MOUNTS))
    }
}

struct AttachedFile {
    id: FileId,
    /// The requests that it was handed and that nobody waits for any more.
    cancelled: KVec<u64>,
}

struct Pending {
    request: Arc<Request>,
    /// Who made it; others may wait for it as well.
    mount: MountId,
    priority: Priority,
    /// How many tasks wait; a demand has at least one.
    waiters: u32,
    /// Who is to answer it; none while it is queued.
    holder: Option<FileId>,
    /// When it was made.
    made: Instant<Monotonic>,
    /// When it was queued or handed out.
    since: Instant<Monotonic>,
}

/// The pending requests and the attached files of a store.
pub(super) struct Queue {
    /// Ascending by id.
    pending: KVVec<Pending>,
    files: KVec<AttachedFile>,
    statistics: Statistics,
}

impl Queue {
    pub(super) fn new() -> Self {
        Queue {
            pending: KVVec::new(),
            files: KVec::new(),
            statistics: Statistics::default(),
        }
    }

    /// A new file serves the store.
    pub(super) fn attach(&mut self, now: Instant<Monotonic>) -> Result<FileId> {
        self.expire(now);
        let id = FileId(next(&FILES));
        let file = AttachedFile {
            id,
            cancelled: KVec::new(),
        };
        self.files.push(file, GFP_KERNEL)?;
        Ok(id)
    }

    /// Whether a file serves the store.
    pub(super) fn is_attached(&self) -> bool {
        !self.files.is_empty()
    }

    /// The file is gone; what it was to answer is queued again, before what is younger.
    pub(super) fn detach(&mut self, file: FileId, now: Instant<Monotonic>) {
        self.files.retain(|attached| attached.id != file);
        for pending in self.pending.iter_mut() {
            if pending.holder == Some(file) {
                pending.holder = None;
                pending.since = now;
            }
        }
    }

    /// Somebody waits for `wanted`: a request for it. The caller must `leave` it when it goes
    /// before the answer came.
    ///
    /// It may be one that is pending, but no readahead that was handed out: the daemon would go on
    /// treating it as such. It learns instead that part of it is urgent.
    pub(super) fn demand(
        &mut self,
        mount: MountId,
        wanted: Wanted,
        now: Instant<Monotonic>,
    ) -> Result<Arc<Request>> {
        wanted.check()?;
        count(&mut self.statistics.made);
        if let Some(pending) = self.pending.iter_mut().find(|pending| {
            pending.request.wanted.covers(&wanted)
                && (pending.priority == Priority::Demand || pending.holder.is_none())
        }) {
            count(&mut self.statistics.coalesced);
            pending.priority = Priority::Demand;
            pending.waiters = pending.waiters.saturating_add(1);
            return Ok(pending.request.clone());
        }
        let own =
            |pending: &&Pending| pending.priority == Priority::Demand && pending.mount == mount;
        if self.pending.iter().filter(own).count() >= DEMAND_MAX {
            return Err(EBUSY);
        }
        self.insert(mount, wanted, Priority::Demand, now)
    }

    /// Somebody may soon want `wanted`. Dropped when that is already requested, when there are too
    /// many such requests, when no daemon is there, or when memory is short. Returns the request that is pending.
    pub(super) fn prefetch(
        &mut self,
        mount: MountId,
        wanted: Wanted,
        now: Instant<Monotonic>,
    ) -> Option<Arc<Request>> {
        count(&mut self.statistics.made);
        self.expire(now);
        let answers = |pending: &&Pending| pending.request.wanted.covers(&wanted);
        let is_readahead = |pending: &&Pending| pending.priority == Priority::Readahead;
        if let Some(pending) = self.pending.iter().find(answers) {
            count(&mut self.statistics.coalesced);
            return Some(pending.request.clone());
        }
        let has_room = wanted.check().is_ok()
            && !self.files.is_empty()
            && self.pending.iter().filter(is_readahead).count() < READAHEAD_MAX;
        let inserted = match has_room {
            true => self.insert(mount, wanted, Priority::Readahead, now).ok(),
            false => None,
        };
        if inserted.is_none() {
            count(&mut self.statistics.dropped);
        }
        inserted
    }

    /// Somebody stops waiting for a request. False if it has been answered in the meantime.
    pub(super) fn leave(&mut self, request: &Request, timed_out: bool) -> bool {
        let Some(index) = self.position(request.id) else {
            return false;
        };
        if timed_out {
            count(&mut self.statistics.timed_out);
        }
        let Some(pending) = self.pending.get_mut(index) else {
            return false;
        };
        pending.waiters = pending.waiters.saturating_sub(1);
        if pending.waiters == 0 {
            cancel(&mut self.files, pending);
            self.remove(index);
        }
        true
    }

    /// The next message for the file: a cancellation, else the oldest demand, else the oldest readahead. It is the file's to answer from now on.
    pub(super) fn next(&mut self, file: FileId, now: Instant<Monotonic>) -> Option<Message> {
        let attached = self.files.iter_mut().find(|attached| attached.id == file)?;
        if let Ok(id) = attached.cancelled.remove(0) {
            return Some(Message::cancel(id));
        }
        let pending = self
            .pending
            .iter_mut()
            .filter(|pending| pending.holder.is_none())
            .min_by_key(|pending| pending.priority)?;
        pending.holder = Some(file);
        pending.since = now;
        count(&mut self.statistics.handed_out);
        Some(Message::request(
            pending.request.id,
            &pending.request.wanted,
            pending.priority,
        ))
    }

    /// Whether there is a next message for the file.
    pub(super) fn has_next(&self, file: FileId) -> bool {
        let Some(attached) = self.files.iter().find(|attached| attached.id == file) else {
            return false;
        };
        let is_queued = |pending: &Pending| pending.holder.is_none();
        !attached.cancelled.is_empty() || self.pending.iter().any(is_queued)
    }

    /// A message from `next` could not be handed over: a request is queued again. A cancellation is
    /// lost, as it may be.
    pub(super) fn put_back(&mut self, file: FileId, message: &Message, now: Instant<Monotonic>) {
        let index = message.request_id().and_then(|id| self.position(id));
        if let Some(pending) = index.and_then(|index| self.pending.get_mut(index)) {
            if pending.holder == Some(file) {
                pending.holder = None;
                pending.since = now;
            }
        }
    }

    /// The request that the file is to answer under this id.
    pub(super) fn find(&self, file: FileId, id: u64) -> Result<Arc<Request>> {
        let pending = self.pending.get(self.position(id).ok_or(ENOENT)?);
        match pending {
            Some(pending) if pending.holder == Some(file) => Ok(pending.request.clone()),
            _ => Err(ENOENT),
        }
    }

    /// The same, and it is answered: the caller completes it before it lets go of the lock.
    pub(super) fn take(&mut self, file: FileId, id: u64, failed: bool) -> Result<Arc<Request>> {
        let request = self.find(file, id)?;
        if let Some(index) = self.position(id) {
            self.remove(index);
        }
        count(&mut self.statistics.answered);
        if failed {
            count(&mut self.statistics.failed);
        }
        Ok(request)
    }

    pub(super) fn statistics(&self, now: Instant<Monotonic>) -> Statistics {
        Statistics {
            attached: self.files.len(),
            waiting: self
                .pending
                .iter()
                .fold(0, |sum, pending| sum.saturating_add(pending.waiters.into())),
            pending: self.pending.len(),
            oldest: self.pending.first().map(|oldest| now - oldest.made),
            ..self.statistics
        }
    }

    fn insert(
        &mut self,
        mount: MountId,
        wanted: Wanted,
        priority: Priority,
        now: Instant<Monotonic>,
    ) -> Result<Arc<Request>> {
        let request = Request::new(next(&REQUESTS), wanted)?;
        let pending = Pending {
            request: request.clone(),
            mount,
            priority,
            waiters: u32::from(priority == Priority::Demand),
            holder: None,
            made: now,
            since: now,
        };
        self.pending.push(pending, GFP_KERNEL_ACCOUNT)?;
        Ok(request)
    }

    /// Drops the readahead that has been queued or handed out for too long: a daemon that is stuck
    /// must not keep others from asking.
    fn expire(&mut self, now: Instant<Monotonic>) {
        let Queue {
            pending,
            files,
            statistics,
            ..
        } = self;
        pending.retain(|pending| {
            let expired =
                pending.priority == Priority::Readahead && now - pending.since > READAHEAD_LIFETIME;
            if expired {
                cancel(files, pending);
                count(&mut statistics.dropped);
            }
            !expired
        });
    }

    fn position(&self, id: u64) -> Option<usize> {
        self.pending
            .binary_search_by_key(&id, |pending| pending.request.id)
            .ok()
    }

    fn remove(&mut self, index: usize) {
        // Fails only for an index that `position` didn't return.
        let _ = self.pending.remove(index);
    }
}

/// Tells the file that was handed a request, if any, that nobody waits for it.
fn cancel(files: &mut KVec<AttachedFile>, pending: &Pending) {
    let holder = files
        .iter_mut()
        .find(|file| pending.holder == Some(file.id));
    if let Some(file) = holder {
        if file.cancelled.len() < CANCEL_MAX {
            // Without memory it isn't told, and its answer will be refused.
            let _ = file.cancelled.push(pending.request.id, GFP_KERNEL);
        }
    }
}

fn count(counter: &mut u64) {
    *counter = counter.wrapping_add(1);
}

/// Counts on; the first is 1.
fn next(counter: &Atomic<u64>) -> u64 {
    counter.fetch_add(1, Relaxed).wrapping_add(1)
}
