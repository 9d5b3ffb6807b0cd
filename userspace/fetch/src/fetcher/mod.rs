// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Carries out what the scheduler decides: searches, transfers, verification and storing.

mod search;
mod second_look;
mod transfer;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures::stream::{self, StreamExt};
use peerfs_exchange::scheduler::{
    Action, ContentId, Full, Limits, Order, Outcome, Part, Scheduler, Ticket, TransferId,
};
use peerfs_exchange::{Have, Priority, Progress};
use tokio::sync::{oneshot, Notify, Semaphore};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, debug_span, Instrument, Span};

use crate::disk::Disk;
use crate::source::{Discovery, News, Registry, SourceId, Subject};
use crate::traffic::Traffic;

/// Searches for sources that run at a time.
const SEARCHES: usize = 64;
/// News that are taken before anything is decided.
const NEWS_AT_A_TIME: usize = 256;

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
    registry: Arc<Registry>,
    discoveries: Vec<Arc<dyn Discovery>>,
    disk: Disk,
    traffic: Arc<Traffic>,
}

/// Whoever waits for an order.
struct Waiter {
    outcome: oneshot::Sender<Outcome>,
    /// What it does, for the log.
    span: Span,
}

/// A source that has come, by the discovery that found it.
struct Newcomer {
    place: usize,
    source: SourceId,
}

/// A transfer that is being carried out.
struct Running {
    task: AbortHandle,
    progress: Progress,
}

struct State {
    scheduler: Scheduler<SourceId, Subject>,
    waiters: HashMap<Ticket, Waiter>,
    transfers: HashMap<TransferId, Running>,
    /// What is just being looked for, and by which discovery.
    searching: HashSet<(usize, ContentId)>,
}

impl Fetcher {
    /// A fetcher that fills the store behind `disk` from the sources of `registry`, which the discoveries find. Other nodes
    /// know this one by `identity` ([`Source::identity`](crate::source::Source::identity)). [`Fetcher::run`] makes it work.
    pub fn new(
        limits: Limits,
        identity: u64,
        registry: Arc<Registry>,
        discoveries: Vec<Arc<dyn Discovery>>,
        disk: Disk,
        traffic: Arc<Traffic>,
    ) -> Self {
        Fetcher {
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    scheduler: Scheduler::new(limits, fastrand::u64(..), identity),
                    waiters: HashMap::new(),
                    transfers: HashMap::new(),
                    searching: HashSet::new(),
                }),
                changed: Notify::new(),
                searches: Arc::new(Semaphore::new(SEARCHES)),
                registry,
                discoveries,
                disk,
                traffic,
            }),
        }
    }

    /// Fetches chunks of a pack of which parts were wanted here, for another node, if an origin has them, and asks no other node
    /// to do the same; `None` if it is not known of such a one. Otherwise as [`Fetcher::fetch`].
    ///
    /// # Errors
    /// [`Full`] if too many orders wait.
    pub async fn fetch_through(
        &self,
        content: ContentId,
        number: u32,
        priority: Priority,
        deadline: Instant,
    ) -> Result<Option<Outcome>, Full> {
        let (ticket, outcome) = {
            let mut state = self.shared.lock();
            let (scheduler, part) = (&mut state.scheduler, Part::Chunk(number));
            match scheduler.order_through(content, part, priority, deadline)? {
                Some(ticket) => (ticket, state.expect(ticket)),
                None => return Ok(None),
            }
        };
        Ok(Some(self.wait(ticket, outcome).await))
    }

    /// Fetches what is ordered. All parts are verified and in the store when it was
    /// [`Outcome::Complete`]. Dropping the future cancels the order.
    ///
    /// # Errors
    /// [`Full`] if too many orders wait.
    pub async fn fetch(&self, order: Order<Subject>) -> Result<Outcome, Full> {
        debug!(content = %order.content, parts = order.parts.len(), "wanted");
        let (ticket, outcome) = {
            let mut state = self.shared.lock();
            let ticket = state.scheduler.order(order)?;
            (ticket, state.expect(ticket))
        };
        Ok(self.wait(ticket, outcome).await)
    }

    /// Waits for what was ordered; cancels it when that is given up.
    async fn wait(&self, ticket: Ticket, outcome: oneshot::Receiver<Outcome>) -> Outcome {
        let _guard = CancelGuard {
            shared: &self.shared,
            ticket,
        };
        self.shared.changed.notify_one();
        // The sender is only dropped with the order or with the fetcher, and both are still here.
        outcome.await.unwrap_or(Outcome::Unreachable)
    }

    /// Works until `shutdown`; then all that is under way is broken off, and those who wait are not
    /// told: the kernel's requests are for the next daemon.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut tasks = JoinSet::new();
        let mut newcomers = self.shared.newcomers();
        let mut news = self.shared.news().ready_chunks(NEWS_AT_A_TIME);
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
                Some(newcomer) = newcomers.next() => {
                    tasks.spawn(Arc::clone(&self.shared).ask_for_all(newcomer));
                }
                Some(news) = news.next() => self.shared.take_news(news),
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

impl State {
    /// What whoever has ordered something waits for.
    fn expect(&mut self, ticket: Ticket) -> oneshot::Receiver<Outcome> {
        let (outcome, receiver) = oneshot::channel();
        let span = Span::current();
        self.waiters.insert(ticket, Waiter { outcome, span });
        receiver
    }

    /// Tells the scheduler what has come of the parts that are on their way. Each piece alone is no reason to decide
    /// anything.
    fn note_progress(&mut self) {
        for (&transfer, running) in &self.transfers {
            if let Some(at) = running.progress.take() {
                self.scheduler.progressed(transfer, at);
            }
        }
    }
}

impl Shared {
    fn newcomers(&self) -> impl stream::Stream<Item = Newcomer> + Unpin {
        let discoveries = self.discoveries.iter().enumerate();
        stream::select_all(discoveries.map(|(place, discovery)| {
            let newcomers = discovery.newcomers();
            newcomers.map(move |source| Newcomer { place, source })
        }))
    }

    fn news(&self) -> impl stream::Stream<Item = News> + Unpin {
        stream::select_all(self.discoveries.iter().map(|discovery| discovery.news()))
    }

    fn take_news(&self, news: Vec<News>) {
        let (scheduler, now) = (&mut self.lock().scheduler, Instant::now());
        for news in news {
            match news {
                News::Has(content, source, have) => {
                    self.introduce(scheduler, source);
                    let is_whole = have == Have::Complete;
                    scheduler.offer(content, source, have);
                    if !is_whole {
                        // Who has begun with the image goes on, even if there is nothing of it yet.
                        scheduler.gained(content, source, &[], now);
                    }
                }
                News::Gained(content, source, runs) => {
                    scheduler.gained(content, source, &runs, now);
                }
                News::Gone(source) => scheduler.gone(source),
                News::Measured(source, round_trip) => scheduler.measured(source, round_trip),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The scheduler does not panic; should it, the daemon goes on as well as it can.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the scheduler decide and carries it out; returns when it wants to decide again.
    fn decide(self: &Arc<Self>, tasks: &mut JoinSet<()>) -> Option<Instant> {
        let mut state = self.lock();
        let now = Instant::now();
        state.note_progress();
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
                    through,
                    subject,
                } => {
                    let progress = Progress::default();
                    let transfer_task = transfer::Transfer {
                        id: transfer,
                        source,
                        content,
                        parts,
                        priority,
                        through,
                        subject,
                        progress: progress.clone(),
                    };
                    let span = self.span_of(&state, transfer, source, content);
                    let transferring = Arc::clone(self).transfer(transfer_task);
                    let task = tasks.spawn(transferring.instrument(span));
                    let running = Running { task, progress };
                    state.transfers.insert(transfer, running);
                }
                Action::Suggest {
                    content,
                    source,
                    count,
                    subject,
                } => {
                    let asking = Arc::clone(self).ask_what(content, source, count, subject);
                    tasks.spawn(asking);
                }
                Action::Stop { transfer } => {
                    if let Some(running) = state.transfers.remove(&transfer) {
                        running.task.abort();
                    }
                }
                Action::Finish { ticket, outcome } => {
                    if let Some(waiter) = state.waiters.remove(&ticket) {
                        // Whoever is not there any more needs no answer.
                        let _ = waiter.outcome.send(outcome);
                    }
                }
            }
        }
        state.scheduler.next_wakeup()
    }

    /// What a transfer does, as a part of what the first one does that waits for it; the others are told.
    fn span_of(
        &self,
        state: &State,
        transfer: TransferId,
        source: SourceId,
        content: ContentId,
    ) -> Span {
        let source = self.registry.get(source);
        let source = source.as_ref().map(|source| source.name());
        let waiting = state.scheduler.waiting_for(transfer);
        let mut spans = waiting
            .iter()
            .filter_map(|ticket| Some(&state.waiters.get(ticket)?.span));
        let first = spans.next().and_then(Span::id);
        let span = debug_span!(parent: first, "transfer", %content, source);
        for other in spans {
            other.in_scope(|| debug!(%content, source, "comes with what another one waits for"));
        }
        span
    }

    /// Tells the scheduler something.
    fn tell<T>(&self, tell: impl FnOnce(&mut Scheduler<SourceId, Subject>) -> T) -> T {
        let told = tell(&mut self.lock().scheduler);
        self.changed.notify_one();
        told
    }
}
