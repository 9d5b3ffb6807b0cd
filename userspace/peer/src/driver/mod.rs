// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The task that owns the swarm.

mod dht;
mod dialing;
mod internet;

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use libp2p::core::ConnectedPoint;
use libp2p::kad::{self, QueryId};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{ConnectionError, ListenError, SwarmEvent};
use libp2p::{identify, mdns, Multiaddr, PeerId, Swarm};
use peerfs_exchange::Republisher;
use peerfs_format::Digest;
use peerfs_names::SignedRecord;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::{interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::ban_list::BanList;
use crate::behaviour::{Behaviour, BehaviourEvent};
use crate::client::Client;
use crate::dialer::{Dialer, Target};
use crate::internet::Configured;
use crate::links::{Links, Neighbours};
use crate::names::{NameServer, NAMES_PROTOCOL};
use crate::network::{is_relayed, socket_of};
use crate::pauses::{Clocks, Pause, Pauses};
use crate::peer_table::PeerTable;
use crate::ping::Measured;
use crate::puts::Puts;
use crate::reopening::Reopening;
use crate::server::Server;
use crate::strangers::Strangers;
use crate::twins::{Ear, Twins};
use crate::willing::{WillingServer, WILLING_PROTOCOL};
use crate::{Direction, Event, Membership, NetworkInfo, NodeConfig};
use internet::Internet;

/// How often it is looked whether something is to be dialled or announced.
const TICK: Duration = Duration::from_millis(250);
/// How often the routing table of the DHT is filled anew; lookups do it too, and connections.
pub(crate) const BOOTSTRAP_INTERVAL: Duration = Duration::from_secs(4 * 60 * 60);
/// How often those that could not be reached are tried again. Others take their place at once.
const NEIGHBOURS_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// The lookups under way at a time; more are answered with nothing.
const LOOKUPS_MAX: usize = 256;

/// The lookups of host names at a time beyond which none is begun for [`Command::Connect`].
const RESOLUTIONS_MAX: usize = 1024;

/// What the other parts of a node want of the swarm.
pub(crate) enum Command {
    Connect(Multiaddr),
    Provide(Digest),
    StopProviding(Digest),
    /// The providers that the DHT names go to `found`, which is closed when there are no more.
    FindProviders {
        digest: Digest,
        found: mpsc::Sender<PeerId>,
    },
    /// Keeps a record of a name in the DHT.
    PutName(Box<SignedRecord>),
    /// The records of a name that the DHT has go to `found`, which is closed when there are no more.
    FindName {
        topic: Digest,
        found: mpsc::Sender<SignedRecord>,
    },
    Ban(PeerId),
    Unban(PeerId),
    Describe(oneshot::Sender<NetworkInfo>),
}

/// Whose addresses were looked up, and what came of it.
type Resolution = (Target, io::Result<Vec<Multiaddr>>);

/// Where the driver tells what happens.
pub(crate) struct Outlets {
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) listen_addresses: watch::Sender<Vec<Multiaddr>>,
}

/// The other parts of a node that have to do with the swarm.
pub(crate) struct Parts {
    pub(crate) peers: Arc<PeerTable>,
    pub(crate) client: Arc<Client>,
    pub(crate) server: Arc<Server>,
    pub(crate) names: Arc<NameServer>,
    pub(crate) willing: Arc<WillingServer>,
    pub(crate) bans: Arc<BanList>,
    pub(crate) configured: Configured,
}

/// Owns the swarm.
pub(crate) struct Driver {
    swarm: Swarm<Behaviour>,
    commands: mpsc::Receiver<Command>,
    peers: Arc<PeerTable>,
    client: Arc<Client>,
    server: Arc<Server>,
    names: Arc<NameServer>,
    willing: Arc<WillingServer>,
    bans: Arc<BanList>,
    /// Of a swarm whose nodes are certified.
    membership: Option<Arc<Membership>>,
    outlets: Outlets,
    /// To be tried always.
    bootstrap: Vec<Multiaddr>,
    /// Whether the node listens on the loopback interface and nowhere else.
    loopback_only: bool,
    dialer: Dialer,
    /// As many as there are targets, and some more.
    resolutions: FuturesUnordered<BoxFuture<'static, Resolution>>,
    republisher: Republisher,
    bootstrap_at: Instant,
    neighbours_at: Instant,
    /// Those on the link that could not be reached since they were tried the last time.
    given_up: HashSet<PeerId>,
    lookups: HashMap<QueryId, mpsc::Sender<PeerId>>,
    name_lookups: HashMap<QueryId, mpsc::Sender<SignedRecord>>,
    /// How many records of names others have had put here.
    puts: Puts,
    dht_messages: u64,
    twins: Twins,
    strangers: Strangers,
    pauses: Pauses,
    /// Whether multicast DNS is in use.
    mdns: bool,
    /// Those on the link that were found over IPv6.
    neighbours: Neighbours,
    /// None on a local network.
    internet: Option<Internet>,
}

/// The key of a manifest or pack in the DHT.
pub(crate) fn provider_key(digest: &Digest) -> kad::RecordKey {
    kad::RecordKey::new(&digest.0)
}

impl Driver {
    pub(crate) fn new(
        config: &NodeConfig,
        swarm: Swarm<Behaviour>,
        commands: mpsc::Receiver<Command>,
        parts: Parts,
        outlets: Outlets,
    ) -> Self {
        let Parts {
            peers,
            client,
            server,
            names,
            willing,
            bans,
            configured,
        } = parts;
        let mut driver = Driver {
            swarm,
            commands,
            peers,
            client,
            server,
            names,
            willing,
            bans,
            outlets,
            bootstrap: config.bootstrap.clone(),
            loopback_only: config.listen.iter().all(is_only_local),
            dialer: Dialer::new(config.swarm_key.is_some() || config.membership.is_some()),
            membership: config.membership.clone(),
            resolutions: FuturesUnordered::new(),
            republisher: Republisher::new(config.provider_record_lifetime / 2),
            bootstrap_at: Instant::now() + BOOTSTRAP_INTERVAL,
            neighbours_at: Instant::now() + NEIGHBOURS_INTERVAL,
            given_up: HashSet::new(),
            lookups: HashMap::new(),
            name_lookups: HashMap::new(),
            puts: Puts::new(Instant::now()),
            dht_messages: 0,
            twins: Twins::default(),
            strangers: Strangers::default(),
            pauses: Pauses::default(),
            mdns: config.mdns,
            neighbours: Neighbours::default(),
            internet: config
                .internet
                .as_ref()
                .map(|settings| Internet::new(settings, configured)),
        };
        driver.add_bootstrap();
        driver.begin_internet();
        driver
    }

    /// Those that are targets already stay as they are.
    fn add_bootstrap(&mut self) {
        for address in &self.bootstrap {
            let target = Target::Address(address.clone());
            self.dialer.add(target, false, Instant::now());
        }
    }

    /// Drives the swarm until `shutdown`. Dropping it then ends all connections.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let own_id = *self.swarm.local_peer_id();
        let mut ear = self.mdns.then(|| Reopening::new(Ear::open));
        let mut links = self.mdns.then(|| Reopening::new(Links::open));
        let addresses = self.outlets.listen_addresses.subscribe();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                event = self.swarm.select_next_some() => self.on_event(event),
                Some(command) = self.commands.recv() => self.on_command(command),
                Some((target, addresses)) = self.resolutions.next() => {
                    self.on_resolved(target, addresses);
                }
                heard = hear(&mut ear, &own_id) => self.on_heard(&heard),
                heard = hear_on(&mut links, &own_id, &addresses) => self.on_found(heard),
                _ = tick.tick() => self.tidy(),
            }
            self.dial_due();
            self.announce_due();
            self.ask_relays();
        }
    }

    /// What is to be done from time to time. The swarm is polled after it.
    fn tidy(&mut self) {
        if let Some(pause) = self.pauses.tick(Clocks::now()) {
            self.wake(pause);
        }
        for peer in self.bans.end(SystemTime::now()) {
            tracing::info!(%peer, "its ban is over");
            self.unban(peer);
        }
        self.cut_off_former_members();
        let now = Instant::now();
        let behaviour = self.swarm.behaviour_mut();
        behaviour.connections.tidy(now);
        behaviour.ping.tidy(now);
        behaviour.kademlia.store_mut().expire(now);
        if now >= self.bootstrap_at {
            self.bootstrap_at = now + BOOTSTRAP_INTERVAL;
            // Alone, there is nobody to ask; it begins by itself with the first node that is met.
            let _ = behaviour.kademlia.bootstrap();
        }
        if now >= self.neighbours_at {
            self.neighbours_at = now + NEIGHBOURS_INTERVAL;
            self.given_up.clear();
            self.add_neighbours();
        }
    }

    /// The machine has slept, or the process was stopped.
    fn wake(&mut self, pause: Pause) {
        let (seconds, asleep) = (pause.lasted.as_secs(), pause.unseen.as_secs());
        tracing::info!(seconds, asleep, "nothing was done for a while");
        let now = Instant::now();
        self.republisher.slept(pause.unseen);
        self.bootstrap_at = now;
        self.doubt(now);
    }

    /// Nothing that was known of the network need be true any more.
    fn doubt(&mut self, now: Instant) {
        self.dialer.retry(now);
        let behaviour = self.swarm.behaviour_mut();
        behaviour.connections.forget_failures();
        behaviour.ping.doubt();
        behaviour.ping.tidy(now);
    }

    /// Whether others are told that the node listens there. Containers that come and go change only what is not told.
    fn is_told(&self, address: &Multiaddr) -> bool {
        self.loopback_only || !is_only_local(address)
    }

    /// The node listens at other addresses than before.
    fn moved(&mut self) {
        self.tell_addresses();
        self.doubt(Instant::now());
    }

    /// Others reach the node at other addresses than before, which its peers are told.
    fn tell_addresses(&mut self) {
        // At the start there is nobody to tell.
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        if !peers.is_empty() {
            self.republisher.renew(Instant::now());
        }
        self.swarm.behaviour_mut().identify.push(peers);
    }

    /// Somebody with the node's id said its addresses, perhaps the node itself.
    fn on_heard(&mut self, addresses: &[Multiaddr]) {
        let own = self.outlets.listen_addresses.borrow();
        for address in addresses {
            self.twins.seen(address, &own, Instant::now());
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Connect(address) => {
                // Tried once: dialling again is for those who are always to be connected.
                if self.resolutions.len() < RESOLUTIONS_MAX {
                    self.resolve(Target::Address(address));
                }
            }
            Command::Provide(digest) => self.republisher.add(digest, Instant::now()),
            Command::StopProviding(digest) => {
                self.republisher.remove(&digest);
                let key = provider_key(&digest);
                self.swarm.behaviour_mut().kademlia.stop_providing(&key);
            }
            Command::FindProviders { digest, found } => {
                if self.lookups.len() < LOOKUPS_MAX {
                    let key = provider_key(&digest);
                    let query = self.swarm.behaviour_mut().kademlia.get_providers(key);
                    self.lookups.insert(query, found);
                }
            }
            Command::PutName(record) => self.put_name(&record),
            Command::FindName { topic, found } => self.find_name(&topic, found),
            Command::Ban(peer) => {
                self.dialer.remove_peer(peer);
                let behaviour = self.swarm.behaviour_mut();
                behaviour.bans.block_peer(peer);
                behaviour.kademlia.remove_peer(&peer);
            }
            Command::Unban(peer) => self.unban(peer),
            Command::Describe(asked) => {
                // Who asked may not wait any more.
                let _ = asked.send(self.describe());
            }
        }
    }

    fn describe(&mut self) -> NetworkInfo {
        let neighbours = self.mdns.then(|| self.found().len());
        let (bootstrap, bootstrap_connected) = self.dialer.bootstrap();
        NetworkInfo {
            neighbours,
            dht_nodes: self.dht_nodes(),
            dht_messages: self.dht_messages,
            reachability: self.internet.as_ref().map(|internet| internet.reachability),
            bootstrap,
            bootstrap_connected,
            told: self
                .swarm
                .external_addresses()
                .filter_map(socket_of)
                .collect(),
        }
    }

    /// A peer is let in again, and dialled if it is one of those that are.
    fn unban(&mut self, peer: PeerId) {
        self.swarm.behaviour_mut().bans.unblock_peer(peer);
        if self.is_neighbour(peer) {
            self.add_neighbour(peer);
        }
        self.add_bootstrap();
    }

    /// Whether a peer is known to be on the link.
    fn is_neighbour(&self, peer: PeerId) -> bool {
        self.found().contains(&peer)
    }

    /// The peers that are known to be on the link.
    fn found(&self) -> HashSet<PeerId> {
        let mdns = self.swarm.behaviour().mdns.as_ref();
        let found = mdns.into_iter().flat_map(|mdns| mdns.discovered_nodes());
        found.chain(self.neighbours.peers()).copied().collect()
    }

    /// Somebody on the link has said its addresses.
    fn on_found(&mut self, addresses: Vec<Multiaddr>) {
        for peer in self.neighbours.heard(addresses, Instant::now()) {
            self.add_neighbour(peer);
        }
    }

    fn announce_due(&mut self) {
        // A record without an address is of no use to anybody.
        if self.swarm.external_addresses().next().is_none() {
            return;
        }
        while let Some(digest) = self.republisher.next(Instant::now()) {
            let key = provider_key(&digest);
            let started = self.swarm.behaviour_mut().kademlia.start_providing(key);
            if let Err(error) = started {
                tracing::debug!(%digest, %error, "not announced");
                self.republisher.finished();
            }
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(event),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => {
                self.dialer
                    .connected(connection_id, peer_id, Instant::now());
                self.on_connected(peer_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, cause, .. } => {
                self.on_disconnected(peer_id, cause.as_ref());
            }
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                error,
                ..
            } => self.dial_failed(connection_id, &error),
            SwarmEvent::IncomingConnectionError {
                error: ListenError::LocalPeerId { .. },
                send_back_addr,
                ..
            } => {
                let own = self.outlets.listen_addresses.borrow();
                self.twins.came(&send_back_addr, &own);
            }
            // The relay says that it leads to the node, which is another event.
            SwarmEvent::NewListenAddr { address, .. }
            | SwarmEvent::ExpiredListenAddr { address, .. }
                if is_relayed(&address) => {}
            SwarmEvent::NewListenAddr { address, .. } => {
                tracing::info!(%address, "listening");
                let listen_addresses = &self.outlets.listen_addresses;
                listen_addresses.send_modify(|addresses| addresses.push(address.clone()));
                if self.is_told(&address) {
                    // No relay or observer is needed to know one's address on a LAN.
                    if self.internet.is_none() {
                        self.swarm.add_external_address(address);
                    }
                    self.moved();
                }
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                let listen_addresses = &self.outlets.listen_addresses;
                listen_addresses
                    .send_modify(|addresses| addresses.retain(|other| *other != address));
                if self.is_told(&address) {
                    if self.internet.is_none() {
                        self.swarm.remove_external_address(&address);
                    }
                    self.forget_ways();
                    self.moved();
                }
            }
            SwarmEvent::ExternalAddrConfirmed { .. } | SwarmEvent::ExternalAddrExpired { .. } => {
                self.look_at_ways();
            }
            SwarmEvent::ListenerClosed { listener_id, .. } if self.relay_ended(listener_id) => {}
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "a listener failed");
            }
            _ => {}
        }
    }

    fn on_connected(&mut self, peer: PeerId, endpoint: &ConnectedPoint) {
        let address = endpoint.get_remote_address();
        let direction = match endpoint.is_dialer() {
            true => Direction::Outbound,
            false => Direction::Inbound,
        };
        if self.peers.connected(peer, address.clone(), direction) {
            tracing::info!(%peer, %address, "peer connected");
            // Nobody may be listening, which is no error.
            let _ = self.outlets.events.send(Event::PeerConnected(peer));
        }
    }

    fn on_disconnected(&mut self, peer: PeerId, cause: Option<&ConnectionError>) {
        let useful = self.peers.activity(peer).useful.is_some();
        if self.peers.disconnected(peer) {
            self.dialer.disconnected(peer, useful, Instant::now());
            self.client.forget_unless_connected(peer);
            self.lost_relay(peer);
            if let Some(membership) = &self.membership {
                membership.forget(&peer);
            }
            let cause = cause.map(tracing::field::display);
            tracing::info!(%peer, cause, "peer disconnected");
            let _ = self.outlets.events.send(Event::PeerDisconnected(peer));
        }
    }

    fn on_behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                for (peer, _) in found {
                    self.add_neighbour(peer);
                }
            }
            BehaviourEvent::Mdns(mdns::Event::Expired(gone)) => {
                for (peer, _) in gone {
                    if !self.is_neighbour(peer) {
                        self.dialer.remove(&Target::Peer(peer));
                    }
                }
            }
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                self.on_identified(peer_id, info);
            }
            BehaviourEvent::Ping(Measured { peer, rtt }) => {
                self.peers.measured(peer, rtt);
                // Nobody need be interested.
                let _ = self.outlets.events.send(Event::PeerMeasured(peer, rtt));
            }
            BehaviourEvent::Inbound(opened) if opened.protocol == NAMES_PROTOCOL => {
                self.names.accept(opened);
            }
            BehaviourEvent::Inbound(opened) if opened.protocol == WILLING_PROTOCOL => {
                self.willing.accept(opened);
            }
            BehaviourEvent::Inbound(opened) => self.server.accept(opened),
            BehaviourEvent::Kademlia(event) => self.on_kademlia_event(event),
            BehaviourEvent::Internet(event) => self.on_internet_event(event),
            _ => {}
        }
    }
}

/// What is heard on the link of a node with this id.
async fn hear(ear: &mut Option<Reopening<Ear>>, id: &PeerId) -> Vec<Multiaddr> {
    let Some(ear) = ear else {
        return std::future::pending().await;
    };
    let heard = ear.opened().await.hear(id).await;
    heard.unwrap_or_else(|error| {
        ear.failed(&error);
        Vec::new()
    })
}

/// What is heard over IPv6 of who is on the link.
async fn hear_on(
    links: &mut Option<Reopening<Links>>,
    id: &PeerId,
    own: &watch::Receiver<Vec<Multiaddr>>,
) -> Vec<Multiaddr> {
    let Some(links) = links else {
        return std::future::pending().await;
    };
    let open = links.opened().await;
    let heard = open.hear(id, || own.borrow().clone()).await;
    heard.unwrap_or_else(|error| {
        links.failed(&error);
        Vec::new()
    })
}

/// Whether an address means something else, or nothing, on another machine.
fn is_only_local(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback() || ip.is_unicast_link_local(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_are_not_told_to_others() {
        for local in [
            "/ip4/127.0.0.1/tcp/1",
            "/ip6/::1/tcp/1",
            "/ip6/fe80::1/tcp/1",
        ] {
            assert!(is_only_local(&local.parse().unwrap()), "{local}");
        }
        for other in ["/ip4/10.0.0.1/tcp/1", "/ip6/fd00::1/tcp/1"] {
            assert!(!is_only_local(&other.parse().unwrap()), "{other}");
        }
    }
}
