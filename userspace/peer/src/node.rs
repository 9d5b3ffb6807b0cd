// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The handle of a running node.

mod names;
mod willing;

use std::collections::HashSet;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream::BoxStream;
use libp2p::core::transport::TransportError;
use libp2p::{Multiaddr, PeerId, Swarm};
use libp2p_stream::Control;
use peerfs_exchange::{Have, Priority, Progress, Suggestion};
use peerfs_format::Digest;
use peerfs_text::Causes;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::{timeout, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::addresses::keep_meaningful;
use crate::arrivals::ArrivalLog;
use crate::ban_list::{BanInfo, BanList};
use crate::behaviour::{self, Behaviour};
use crate::client::Client;
use crate::driver::{Command, Driver, Outlets, Parts};
use crate::followers::read_record;
use crate::internet::Configured;
use crate::lookup::{Finder, Lookup};
use crate::names::NameServer;
use crate::peer_table::PeerTable;
use crate::server::Server;
use crate::willing::WillingServer;
use crate::{
    ChunkStream, Error, Event, Listener, NetworkInfo, NodeConfig, PeerInfo, Provider, RequestError,
};

/// The commands that may wait for the driver.
const COMMANDS_MAX: usize = 64;
/// The events that a subscriber may be behind.
const EVENTS_MAX: usize = 256;
/// How long to wait for the first listen address. Where the network comes up later, the addresses
/// do too.
const LISTEN_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a shutdown may take.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// A running node: finds peers, asks them, and serves what its [`Provider`] has. Clones are handles
/// of the same node, which runs until [`Node::shutdown`] or until the last handle is dropped.
///
/// Nothing that a peer sends is verified here: whoever asked checks it against its digest, and
/// calls [`Node::ban`] when it is wrong. Every call is bounded in time and may be cancelled by
/// dropping its future.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    peer_id: PeerId,
    peers: Arc<PeerTable>,
    bans: Arc<BanList>,
    client: Arc<Client>,
    arrivals: Arc<ArrivalLog>,
    lookup: Lookup,
    names: Arc<NameServer>,
    willing: Arc<WillingServer>,
    control: Control,
    commands: mpsc::Sender<Command>,
    events: broadcast::Sender<Event>,
    listen_addresses: watch::Receiver<Vec<Multiaddr>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Node {
    /// Starts a node: listens, looks for peers, and serves `provider`. Must be called within a
    /// tokio runtime.
    pub async fn start(config: NodeConfig, provider: Arc<dyn Provider>) -> Result<Node, Error> {
        let bans = Arc::new(BanList::load(config.ban_list.clone(), SystemTime::now())?);
        let peers = Arc::new(PeerTable::default());
        let tasks = TaskTracker::new();
        let shutdown = CancellationToken::new();
        let configured = Configured::default();
        let mut swarm = behaviour::swarm(&config, &bans, peers.clone(), configured.clone())?;
        listen(&mut swarm, &config.listen)?;

        let control = swarm.behaviour().outbound.new_control();
        let names = Arc::new(NameServer::new(tasks.clone(), shutdown.clone()));
        let willing = Arc::new(WillingServer::new(tasks.clone(), shutdown.clone()));
        let client = Arc::new(Client::new(
            control.clone(),
            &config,
            peers.clone(),
            bans.clone(),
            tasks.clone(),
            shutdown.clone(),
        ));
        let arrivals = Arc::new(ArrivalLog::default());
        let server = Server::new(
            &config,
            provider,
            client.clone(),
            peers.clone(),
            arrivals.clone(),
            tasks.clone(),
            shutdown.clone(),
        );

        let (commands, commands_receiver) = mpsc::channel(COMMANDS_MAX);
        let (events, _) = broadcast::channel(EVENTS_MAX);
        let (listen_sender, mut listen_addresses) = watch::channel(Vec::new());
        let driver = Driver::new(
            &config,
            swarm,
            commands_receiver,
            Parts {
                peers: peers.clone(),
                client: client.clone(),
                server: Arc::new(server),
                names: names.clone(),
                willing: willing.clone(),
                bans: bans.clone(),
                configured,
            },
            Outlets {
                events: events.clone(),
                listen_addresses: listen_sender,
            },
        );
        tasks.spawn(driver.run(shutdown.clone()));
        let first_address = listen_addresses.wait_for(|addresses| !addresses.is_empty());
        // Without a network it takes longer, and the node does without.
        let _ = timeout(LISTEN_TIMEOUT, first_address).await;

        let finder = Finder {
            client: client.clone(),
            peers: peers.clone(),
            bans: bans.clone(),
            commands: commands.clone(),
            events: events.clone(),
        };
        Ok(Node {
            inner: Arc::new(Inner {
                peer_id: config.identity.peer_id(),
                peers,
                bans,
                client,
                arrivals,
                lookup: Lookup::new(finder, tasks.clone()),
                names,
                willing,
                control,
                commands,
                events,
                listen_addresses,
                tasks,
                shutdown,
            }),
        })
    }

    /// The node's id.
    pub fn peer_id(&self) -> PeerId {
        self.inner.peer_id
    }

    /// The addresses that the node listens on now, without its id.
    pub fn listen_addresses(&self) -> Vec<Multiaddr> {
        self.inner.listen_addresses.borrow().clone()
    }

    /// The peers that are connected now, the nearest first.
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.inner.peers.infos()
    }

    /// How the node is connected; None while it shuts down.
    pub async fn network(&self) -> Option<NetworkInfo> {
        let (asked, told) = oneshot::channel();
        self.command(Command::Describe(asked)).await;
        told.await.ok()
    }

    /// Bytes of blobs and chunks that were sent since the node started, to all peers together.
    pub fn bytes_sent(&self) -> u64 {
        self.inner.peers.bytes_sent()
    }

    /// Changes among the connected peers from now on. A receiver that lags behind loses the oldest
    /// ones.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    /// Connects to a peer at this address, with or without `/p2p/<peer id>` at its end, once and
    /// in the background; [`Event::PeerConnected`] tells when it worked.
    pub async fn connect(&self, address: Multiaddr) {
        self.command(Command::Connect(address)).await;
    }

    /// The peers that have all or a part of a blob or pack, each with how much, as soon as it says so: connected
    /// ones, those that connect meanwhile, and those that the DHT names if they can be reached, for `whole`, the
    /// manifest of the image that it belongs to, or for the blob or pack itself without one. Ends soon after the first
    /// answers, and after 3 seconds at most.
    ///
    /// Nobody in `known` is asked.
    pub fn find_providers(
        &self,
        digest: Digest,
        whole: Option<Digest>,
        known: HashSet<PeerId>,
    ) -> BoxStream<'static, (PeerId, Have)> {
        self.inner.lookup.find_providers(digest, whole, known)
    }

    /// Where the owner says what comes into its store.
    pub fn arrivals(&self) -> &Arc<ArrivalLog> {
        &self.inner.arrivals
    }

    /// Has a peer tell a listener what it has of all packs of an image, now and when it changes, until
    /// [`Listener::ended`]. At most [`FOLLOWS_MAX`](crate::FOLLOWS_MAX) images are followed at a peer; further ones
    /// wait until one of them is not any more.
    pub async fn follow(&self, peer: PeerId, manifest: Digest, listener: Arc<dyn Listener>) {
        self.inner.client.follow(peer, manifest, listener).await;
    }

    /// The peers that follow an image, as another one says, which are not connected: at most
    /// [`PEERS_MAX`](peerfs_exchange::limits::PEERS_MAX), with the addresses to [`connect`](Self::connect) to.
    pub async fn followers(
        &self,
        peer: PeerId,
        manifest: Digest,
        deadline: Instant,
    ) -> Result<Vec<(PeerId, Vec<Multiaddr>)>, RequestError> {
        let client = &self.inner.client;
        let records = client.followers(peer, manifest, deadline).await?;
        let named = records.iter().filter_map(read_record);
        let here = self.inner.peers.address(peer);
        let is_new = |peer: PeerId| {
            peer != self.inner.peer_id
                && !self.inner.peers.is_connected(peer)
                && !self.inner.bans.contains(peer)
        };
        let named = named.filter(|(peer, _)| is_new(*peer));
        let reached = named.map(|(peer, mut addresses)| {
            keep_meaningful(&mut addresses, here.as_ref());
            (peer, addresses)
        });
        Ok(reached
            .filter(|(_, addresses)| !addresses.is_empty())
            .collect())
    }

    /// Whether a peer is near, or has an address of a local network.
    pub fn is_neighbour(&self, peer: PeerId) -> bool {
        self.inner.peers.is_neighbour(peer)
    }

    /// Asks a peer how much it has of a pack by this index, which it may ask for in turn.
    pub async fn have_pack(
        &self,
        peer: PeerId,
        pack: Digest,
        index: Digest,
        deadline: Instant,
    ) -> Result<Have, RequestError> {
        let client = &self.inner.client;
        client.have_pack(peer, pack, index, deadline).await
    }

    /// Which chunks of a pack a peer suggests that it be asked for, if it has all of it: 1 to
    /// [`SUGGESTED_MAX`](peerfs_exchange::limits::SUGGESTED_MAX) of them at most.
    pub async fn suggestion(
        &self,
        peer: PeerId,
        pack: Digest,
        index: Digest,
        count: u32,
        deadline: Instant,
    ) -> Result<Suggestion, RequestError> {
        let client = &self.inner.client;
        client.suggestion(peer, pack, index, count, deadline).await
    }

    /// Announces in the DHT that this node has a manifest or a pack (at least some chunks), now and
    /// regularly until [`Node::stop_providing`].
    pub async fn provide(&self, digest: Digest) {
        self.command(Command::Provide(digest)).await;
    }

    /// Stops announcing; the records at other nodes expire.
    pub async fn stop_providing(&self, digest: Digest) {
        self.command(Command::StopProviding(digest)).await;
    }

    /// Asks a peer how much it has of a blob or pack.
    pub async fn have(
        &self,
        peer: PeerId,
        digest: Digest,
        deadline: Instant,
    ) -> Result<Have, RequestError> {
        self.inner.client.have(peer, digest, deadline).await
    }

    /// Fetches a whole blob of at most `maximum` bytes, and notes when something of it comes.
    pub async fn fetch_blob(
        &self,
        peer: PeerId,
        digest: Digest,
        maximum: u64,
        priority: Priority,
        deadline: Instant,
        progress: &Progress,
    ) -> Result<Bytes, RequestError> {
        let client = &self.inner.client;
        client
            .fetch_blob(peer, digest, maximum, priority, deadline, progress)
            .await
    }

    /// Fetches chunks of `pack`, which the pack index `index` describes, and notes when something of one comes.
    /// They are delivered as they arrive, in any order. Bytes that arrived and were not taken hold up other transfers from the
    /// peer with the same urgency, so take them promptly. Dropping the stream cancels the rest.
    /// Must be called within a tokio runtime.
    pub fn fetch_chunks(
        &self,
        peer: PeerId,
        pack: Digest,
        index: Digest,
        chunks: &[u32],
        priority: Priority,
        progress: &Progress,
    ) -> ChunkStream {
        let (client, through) = (&self.inner.client, false);
        client.fetch_chunks(peer, (pack, index), chunks, through, priority, progress)
    }

    /// The same, and the peer is asked to fetch of an origin what it lacks (*fetch-through*). It need not do that.
    pub fn fetch_through(
        &self,
        peer: PeerId,
        pack: Digest,
        index: Digest,
        chunks: &[u32],
        priority: Priority,
        progress: &Progress,
    ) -> ChunkStream {
        let (client, through) = (&self.inner.client, true);
        client.fetch_chunks(peer, (pack, index), chunks, through, priority, progress)
    }

    /// Disconnects a peer and has nothing to do with it for some time, longer each time: it is neither asked
    /// nor served. Remembered for the life of the process, and beyond if the node has a ban list.
    pub async fn ban(&self, peer: PeerId, reason: &str) {
        let Some(lasts) = self.inner.bans.add(peer, reason, SystemTime::now()) else {
            return;
        };
        let hours = lasts.as_secs() / 3600;
        tracing::warn!(%peer, reason, hours, "peer banned");
        self.command(Command::Ban(peer)).await;
        self.save_bans().await;
    }

    /// The banned peers, the one whose ban ends first before the others.
    pub fn bans(&self) -> Vec<BanInfo> {
        self.inner.bans.infos()
    }

    /// Lifts the ban of a peer, or of all; returns whose it was.
    pub async fn unban(&self, peer: Option<PeerId>) -> Vec<PeerId> {
        let lifted = self.inner.bans.lift(peer);
        for peer in &lifted {
            tracing::info!(%peer, "its ban is lifted");
            self.command(Command::Unban(*peer)).await;
        }
        if !lifted.is_empty() {
            self.save_bans().await;
        }
        lifted
    }

    async fn save_bans(&self) {
        let bans = self.inner.bans.clone();
        let saved = self.inner.tasks.spawn_blocking(move || bans.save());
        if let Ok(Err(error)) = saved.await {
            tracing::warn!(%error, "cannot write the list of banned peers");
        }
    }

    /// Runs a task of the owner's for as long as the node runs: [`Node::shutdown`] drops it, and waits for that.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.inner.shutdown.clone();
        self.inner.tasks.spawn(async move {
            shutdown.run_until_cancelled(task).await;
        });
    }

    /// Ends all connections and tasks, and waits for that, 3 seconds at most. Outstanding requests
    /// fail with [`RequestError::ShuttingDown`] or [`RequestError::Disconnected`].
    pub async fn shutdown(&self) {
        self.inner.shutdown.cancel();
        self.inner.tasks.close();
        if timeout(SHUTDOWN_TIMEOUT, self.inner.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("some tasks of the node did not end in time");
        }
    }

    async fn command(&self, command: Command) {
        if self.inner.commands.send(command).await.is_err() {
            tracing::debug!("the node is shutting down");
        }
    }
}

/// Listens on all addresses that can be listened on; at least one, if there are any.
fn listen(swarm: &mut Swarm<Behaviour>, addresses: &[Multiaddr]) -> Result<(), Error> {
    let mut failed = None;
    let mut listening = addresses.is_empty();
    for address in addresses {
        match swarm.listen_on(address.clone()) {
            Ok(_) => listening = true,
            Err(error) => {
                let error = listen_error(error);
                tracing::warn!(%address, error = %Causes(&error), "cannot listen");
                failed = Some(Error::Listen {
                    address: address.clone(),
                    source: Box::new(error),
                });
            }
        }
    }
    match failed {
        Some(error) if !listening => Err(error),
        _ => Ok(()),
    }
}

/// Why an address cannot be listened on; libp2p's error says nothing of its own.
fn listen_error(error: TransportError<io::Error>) -> io::Error {
    match error {
        TransportError::Other(error) => error,
        TransportError::MultiaddrNotSupported(_) => io::Error::new(
            io::ErrorKind::Unsupported,
            "only TCP over IPv4 or IPv6 is spoken here",
        ),
    }
}

#[cfg(test)]
mod tests;
