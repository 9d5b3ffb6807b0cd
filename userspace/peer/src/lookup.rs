// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Who has what.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, BoxStream, FuturesUnordered, StreamExt};
use libp2p::PeerId;
use peerfs_exchange::Have;
use peerfs_format::Digest;
use peerfs_text::Causes;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::{sleep_until, timeout, Instant};
use tokio_util::task::TaskTracker;

use crate::ban_list::BanList;
use crate::client::Client;
use crate::driver::Command;
use crate::peer_table::PeerTable;
use crate::{Event, RequestError};

/// How long a lookup may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);
/// How long to wait for more providers when there is one.
const GRACE: Duration = Duration::from_millis(50);
/// How long the peers are remembered that the DHT names.
const LIFETIME: Duration = Duration::from_secs(10);
/// The most digests for which they are remembered.
const NAMES_MAX: usize = 1024;
/// The most peers that are asked for one digest: the nearest ones.
const ASKED_MAX: usize = 64;

/// Finds the peers that have a digest. What they have is asked anew each time, since it grows; whom the DHT names
/// is remembered for a short time.
pub(crate) struct Lookup {
    finder: Arc<Finder>,
    tasks: TaskTracker,
    names: Mutex<HashMap<Digest, Names>>,
}

/// What a search needs.
pub(crate) struct Finder {
    pub(crate) client: Arc<Client>,
    pub(crate) peers: Arc<PeerTable>,
    pub(crate) bans: Arc<BanList>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) events: broadcast::Sender<Event>,
}

/// The peers that the DHT names for a digest, as far as they are known.
#[derive(Clone)]
struct Names {
    /// Its sender is dropped when there are no more to come.
    peers: watch::Receiver<Vec<PeerId>>,
    begun: Instant,
}

impl Names {
    /// Whether they may be given to others: while they are looked for, and then for some time unless there are none.
    fn is_good(&self, now: Instant) -> bool {
        self.peers.has_changed().is_ok()
            || (!self.peers.borrow().is_empty() && now < self.begun + LIFETIME)
    }

    /// One after the other, as they become known.
    fn stream(self) -> BoxStream<'static, PeerId> {
        stream::unfold((self.peers, 0), |(mut peers, place)| async move {
            loop {
                let next = peers.borrow().get(place).copied();
                if let Some(peer) = next {
                    return Some((peer, (peers, place + 1)));
                }
                peers.changed().await.ok()?;
            }
        })
        .boxed()
    }
}

impl Lookup {
    pub(crate) fn new(finder: Finder, tasks: TaskTracker) -> Self {
        Lookup {
            finder: Arc::new(finder),
            tasks,
            names: Mutex::default(),
        }
    }

    /// The peers that have something of a digest, each with how much, the nearest first. Each is asked once:
    /// the connected ones, those that connect meanwhile, and those that the DHT names for `whole`, or for the digest if
    /// there is none; of none of `known` is it asked.
    pub(crate) fn find_providers(
        &self,
        digest: Digest,
        whole: Option<Digest>,
        known: HashSet<PeerId>,
    ) -> BoxStream<'static, (PeerId, Have)> {
        // What is announced is whole images.
        let named = self.named(whole.unwrap_or(digest)).stream();
        let mut search = Search {
            digest,
            named,
            are_all_named: false,
            connecting: Some(self.finder.events.subscribe()),
            known,
            asked: HashSet::new(),
            answers: FuturesUnordered::new(),
            deadline: Instant::now() + LOOKUP_TIMEOUT,
            end: Instant::now() + LOOKUP_TIMEOUT,
            is_found: false,
            finder: Arc::clone(&self.finder),
        };
        search.ask_connected();
        stream::unfold(search, |mut search| async {
            let found = search.next().await?;
            Some((found, search))
        })
        .boxed()
    }

    fn named(&self, digest: Digest) -> Names {
        let now = Instant::now();
        let mut names = self.lock();
        if let Some(known) = names.get(&digest).filter(|known| known.is_good(now)) {
            return known.clone();
        }
        let (sender, peers) = watch::channel(Vec::new());
        // A task of its own: who asked first may give up while others wait for the same.
        let finder = Arc::clone(&self.finder);
        self.tasks.spawn(async move {
            let collected = timeout(LOOKUP_TIMEOUT, finder.collect_names(digest, sender));
            // What came in time is known.
            let _ = collected.await;
        });
        let new = Names { peers, begun: now };
        if names.len() >= NAMES_MAX {
            names.retain(|_, known| known.is_good(now));
        }
        if names.len() < NAMES_MAX {
            names.insert(digest, new.clone());
        }
        new
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Names>> {
        // Nothing that is done under the lock leaves the map half changed.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Finder {
    async fn collect_names(&self, digest: Digest, names: watch::Sender<Vec<PeerId>>) {
        let (found, mut named) = mpsc::channel(ASKED_MAX);
        let command = Command::FindProviders { digest, found };
        // The driver is only gone when the node is.
        if self.commands.send(command).await.is_err() {
            return;
        }
        while let Some(peer) = named.recv().await {
            names.send_if_modified(|peers| {
                let is_new = peers.len() < ASKED_MAX && !peers.contains(&peer);
                if is_new {
                    peers.push(peer);
                }
                is_new
            });
        }
    }
}

type Answer = (PeerId, Result<Have, RequestError>);

/// A search under way.
struct Search {
    finder: Arc<Finder>,
    digest: Digest,
    named: BoxStream<'static, PeerId>,
    are_all_named: bool,
    /// Not there any more when the node is not.
    connecting: Option<broadcast::Receiver<Event>>,
    /// Those of whom it is known what they have.
    known: HashSet<PeerId>,
    asked: HashSet<PeerId>,
    answers: FuturesUnordered<BoxFuture<'static, Answer>>,
    /// When who was asked must have answered.
    deadline: Instant,
    end: Instant,
    is_found: bool,
}

impl Search {
    async fn next(&mut self) -> Option<(PeerId, Have)> {
        loop {
            if self.answers.is_empty() && (self.are_all_named || self.is_found) {
                return None;
            }
            tokio::select! {
                Some((peer, answer)) = self.answers.next() => match answer {
                    Ok(Have::Absent) => (),
                    Ok(have) => {
                        self.is_found = true;
                        self.end = self.end.min(Instant::now() + GRACE);
                        return Some((peer, have));
                    }
                    Err(error) => {
                        let digest = self.digest;
                        tracing::debug!(%peer, %digest, error = %Causes(&error), "does not say what it has");
                    }
                },
                peer = self.named.next(), if !self.are_all_named => match peer {
                    Some(peer) => self.ask(peer),
                    None => self.are_all_named = true,
                },
                event = connecting(&mut self.connecting) => match event {
                    Ok(Event::PeerConnected(peer)) => self.ask(peer),
                    // Who was missed is among those that are connected now.
                    Err(RecvError::Lagged(_)) => self.ask_connected(),
                    Ok(Event::PeerDisconnected(_) | Event::PeerMeasured(..)) => (),
                    Err(RecvError::Closed) => self.connecting = None,
                },
                () = sleep_until(self.end) => return None,
            }
        }
    }

    fn ask_connected(&mut self) {
        for info in self.finder.peers.infos() {
            self.ask(info.id);
        }
    }

    fn ask(&mut self, peer: PeerId) {
        let may = self.asked.len() < ASKED_MAX
            && !self.known.contains(&peer)
            && !self.finder.bans.contains(peer);
        if may && self.asked.insert(peer) {
            let (client, digest) = (Arc::clone(&self.finder.client), self.digest);
            let deadline = self.deadline;
            let asking = async move { (peer, client.have(peer, digest, deadline).await) };
            self.answers.push(asking.boxed());
        }
    }
}

/// The next event, if there may be one.
async fn connecting(events: &mut Option<broadcast::Receiver<Event>>) -> Result<Event, RecvError> {
    match events {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}
