// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Carries out what the scheduler decides: searches, transfers, verification and storing.

mod search;
mod transfer;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use peerfs_peer::{Event, Node};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{oneshot, Notify, Semaphore};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::disk::Disk;
use crate::scheduler::{Action, Full, Limits, Order, Outcome, Scheduler, Ticket, TransferId};
use crate::source::{DirectorySource, PeerSource, Source, SourceId, Subject};
use crate::traffic::Traffic;

/// Searches for sources that run at a time.
const SEARCHES: usize = 64;

/// Fetches content into the store, from whoever has it. Clones share one scheduler.
#[derive(Clone)]
pub struct Fetcher {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Something happened that the scheduler should decide on.
    changed: Notify,
    searches: Arc<Semaphore>,
    sources: Sources,
    disk: Disk,
    traffic: Arc<Traffic>,
}

struct State {
    scheduler: Scheduler<SourceId, Subject>,
    waiters: HashMap<Ticket, oneshot::Sender<Outcome>>,
    transfers: HashMap<TransferId, AbortHandle>,
}

/// Everyone who can be asked.
pub struct Sources {
    /// Other stores.
    pub directories: Vec<Arc<DirectorySource>>,
    /// The node, by which peers are asked.
    pub node: Node,
}

impl Sources {
    fn get(&self, id: SourceId) -> Option<Arc<dyn Source>> {
        match id {
            SourceId::Directory(place) => self
                .directories
                .get(place)
                .map(|directory| Arc::clone(directory) as Arc<dyn Source>),
            SourceId::Peer(peer) => Some(Arc::new(PeerSource::new(self.node.clone(), peer))),
        }
    }
}

impl Fetcher {
    /// A fetcher that fills the store behind `disk`. [`Fetcher::run`] makes it work.
    pub fn new(limits: Limits, sources: Sources, disk: Disk, traffic: Arc<Traffic>) -> Self {
        Fetcher {
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    scheduler: Scheduler::new(limits),
                    waiters: HashMap::new(),
                    transfers: HashMap::new(),
                }),
                changed: Notify::new(),
                searches: Arc::new(Semaphore::new(SEARCHES)),
                sources,
                disk,
                traffic,
            }),
        }
    }

    /// Fetches what is ordered. All parts are verified and in the store when it was
    /// [`Outcome::Complete`]. Dropping the future cancels the order.
    ///
    /// # Errors
    /// [`Full`] if too many orders wait.
    pub async fn fetch(&self, order: Order<Subject>) -> Result<Outcome, Full> {
        let (sender, receiver) = oneshot::channel();
        let ticket = {
            let mut state = self.shared.lock();
            let ticket = state.scheduler.order(order)?;
            state.waiters.insert(ticket, sender);
            ticket
        };
        let _guard = CancelGuard {
            shared: &self.shared,
            ticket,
        };
        self.shared.changed.notify_one();
        // The sender is only dropped with the order or with the fetcher, and both are still here.
        Ok(receiver.await.unwrap_or(Outcome::Unreachable))
    }

    /// Works until `shutdown`; then all that is under way is broken off, and those who wait are not
    /// told: the kernel's requests are for the next daemon.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut tasks = JoinSet::new();
        let mut events = self.shared.sources.node.subscribe();
        loop {
            let wakeup = self.shared.decide(&mut tasks);
            let wakeup = async {
                match wakeup {
                    Some(time) => tokio::time::sleep_until(time.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.shared.changed.notified() => (),
                () = wakeup => (),
                Some(_) = tasks.join_next() => (),
                event = events.recv() => match event {
                    Ok(Event::PeerConnected(peer)) => {
                        let wanted = self.shared.lock().scheduler.wanted();
                        let shared = Arc::clone(&self.shared);
                        tasks.spawn(shared.ask_for_all(SourceId::Peer(peer), wanted));
                    }
                    // Those that were missed are found by the next search.
                    Ok(Event::PeerDisconnected(_)) | Err(RecvError::Lagged(_)) => (),
                    Err(RecvError::Closed) => {
                        shutdown.cancelled().await;
                        break;
                    }
                },
            }
        }
    }
}

/// Cancels an order when nobody waits for it any more.
struct CancelGuard<'a> {
    shared: &'a Shared,
    ticket: Ticket,
}

impl Drop for CancelGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.scheduler.cancel(self.ticket);
        state.waiters.remove(&self.ticket);
        self.shared.changed.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The scheduler does not panic; should it, the daemon goes on as well as it can.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the scheduler decide and carries it out; returns when it wants to decide again.
    fn decide(self: &Arc<Self>, tasks: &mut JoinSet<()>) -> Option<Instant> {
        let mut state = self.lock();
        let now = Instant::now();
        for action in state.scheduler.poll(now) {
            match action {
                Action::Seek { content, subject } => {
                    tasks.spawn(Arc::clone(self).search(content, subject));
                }
                Action::Start {
                    transfer,
                    source,
                    content,
                    parts,
                    priority,
                    subject,
                } => {
                    let transfer_task = transfer::Transfer {
                        id: transfer,
                        source,
                        content,
                        parts,
                        priority,
                        subject,
                    };
                    let task = tasks.spawn(Arc::clone(self).transfer(transfer_task));
                    state.transfers.insert(transfer, task);
                }
                Action::Stop { transfer } => {
                    if let Some(task) = state.transfers.remove(&transfer) {
                        task.abort();
                    }
                }
                Action::Finish { ticket, outcome } => {
                    if let Some(waiter) = state.waiters.remove(&ticket) {
                        // Whoever is not there any more needs no answer.
                        let _ = waiter.send(outcome);
                    }
                }
            }
        }
        state.scheduler.next_wakeup(now)
    }

    /// Tells the scheduler something.
    fn tell<T>(&self, tell: impl FnOnce(&mut Scheduler<SourceId, Subject>) -> T) -> T {
        let told = tell(&mut self.lock().scheduler);
        self.changed.notify_one();
        told
    }
}
