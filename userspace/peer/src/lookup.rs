// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Who has what.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, Shared};
use futures::stream::{FuturesUnordered, StreamExt};
use libp2p::PeerId;
use peerfs_format::Digest;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{sleep_until, Instant};
use tokio_util::task::TaskTracker;

use crate::ban_list::BanList;
use crate::client::Client;
use crate::driver::Command;
use crate::peer_table::PeerTable;
use crate::{Event, Have, RequestError};

/// How long a lookup may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);
/// How long to wait for more providers when there is one.
const GRACE: Duration = Duration::from_millis(50);
/// How long providers are remembered.
const LIFETIME: Duration = Duration::from_secs(10);
/// The most answers that are remembered.
const ANSWERS_MAX: usize = 1024;
/// The most peers that are asked for one digest: the nearest ones.
const ASKED_MAX: usize = 64;

/// Finds the peers that have a digest, and remembers them for a short time.
pub(crate) struct Lookup {
    finder: Finder,
    tasks: TaskTracker,
    answers: Mutex<HashMap<Digest, Answer>>,
}

/// What a search needs.
#[derive(Clone)]
pub(crate) struct Finder {
    pub(crate) client: Arc<Client>,
    pub(crate) peers: Arc<PeerTable>,
    pub(crate) bans: Arc<BanList>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) events: broadcast::Sender<Event>,
}

struct Answer {
    providers: Shared<BoxFuture<'static, Vec<PeerId>>>,
    begun: Instant,
}

impl Answer {
    /// Whether it may be given to others: while it is looked for, and then for some time unless
    /// nothing was found.
    fn is_good(&self, now: Instant) -> bool {
        match self.providers.peek() {
            None => true,
            Some(providers) => !providers.is_empty() && now < self.begun + LIFETIME,
        }
    }
}

impl Lookup {
    pub(crate) fn new(finder: Finder, tasks: TaskTracker) -> Self {
        Lookup {
            finder,
            tasks,
            answers: Mutex::default(),
        }
    }

    /// The peers that have a digest, the nearest first.
    pub(crate) async fn find_providers(&self, digest: Digest) -> Vec<PeerId> {
        let providers = self.answer(digest).await;
        let bans = &self.finder.bans;
        providers
            .into_iter()
            .filter(|peer| !bans.contains(*peer))
            .collect()
    }

    fn answer(&self, digest: Digest) -> Shared<BoxFuture<'static, Vec<PeerId>>> {
        let now = Instant::now();
        let mut answers = self.lock();
        if let Some(answer) = answers.get(&digest).filter(|answer| answer.is_good(now)) {
            return answer.providers.clone();
        }
        // A task of its own: who asked first may give up while others wait for the same.
        let search = self.tasks.spawn(self.finder.clone().search(digest));
        let providers = search.map(Result::unwrap_or_default).boxed().shared();
        if answers.len() >= ANSWERS_MAX {
            answers.retain(|_, answer| answer.is_good(now));
        }
        if answers.len() < ANSWERS_MAX {
            let providers = providers.clone();
            let begun = now;
            answers.insert(digest, Answer { providers, begun });
        }
        providers
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Answer>> {
        // Nothing that is done under the lock leaves the map half changed.
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Finder {
    /// Asks the connected peers, those that connect meanwhile, and those that the DHT names.
    async fn search(self, digest: Digest) -> Vec<PeerId> {
        let deadline = Instant::now() + LOOKUP_TIMEOUT;
        let mut connected = self.events.subscribe();
        let (found, mut named) = mpsc::channel(ASKED_MAX);
        let command = Command::FindProviders { digest, found };
        // The driver is only gone when the node is.
        let mut dht_open = self.commands.send(command).await.is_ok();
        let mut asked = HashSet::new();
        let mut answers = FuturesUnordered::new();
        let mut ask = |peer: PeerId| {
            let wanted = asked.len() < ASKED_MAX && !self.bans.contains(peer);
            (wanted && asked.insert(peer)).then(|| self.ask(peer, digest, deadline))
        };
        answers.extend(
            self.peers
                .infos()
                .into_iter()
                .filter_map(|info| ask(info.id)),
        );
        let mut providers = Vec::new();
        let mut events_open = true;
        let mut end = deadline;
        loop {
            if answers.is_empty() && (!dht_open || !providers.is_empty()) {
                return providers;
            }
            tokio::select! {
                Some((peer, answer)) = answers.next() => {
                    if matches!(answer, Ok(Have::Complete | Have::Partial(_))) {
                        providers.push(peer);
                        end = end.min(Instant::now() + GRACE);
                    }
                }
                peer = named.recv(), if dht_open => match peer {
                    Some(peer) => answers.extend(ask(peer)),
                    None => dht_open = false,
                },
                event = connected.recv(), if events_open => match event {
                    Ok(Event::PeerConnected(peer)) => answers.extend(ask(peer)),
                    // Who was missed is among those that are connected now.
                    Err(RecvError::Lagged(_)) => {
                        let missed = self.peers.infos().into_iter();
                        answers.extend(missed.filter_map(|info| ask(info.id)));
                    }
                    Ok(Event::PeerDisconnected(_)) => {}
                    Err(RecvError::Closed) => events_open = false,
                },
                () = sleep_until(end) => return providers,
            }
        }
    }

    async fn ask(
        &self,
        peer: PeerId,
        digest: Digest,
        deadline: Instant,
    ) -> (PeerId, Result<Have, RequestError>) {
        (peer, self.client.have(peer, digest, deadline).await)
    }
}
