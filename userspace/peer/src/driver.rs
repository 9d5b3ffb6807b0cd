// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The task that owns the swarm.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use libp2p::kad::{self, GetProvidersOk, QueryId, QueryResult};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ConnectionError, ConnectionId, DialError, ListenError, SwarmEvent};
use libp2p::{identify, mdns, ping, Multiaddr, PeerId, Swarm};
use peerfs_exchange::Republisher;
use peerfs_format::Digest;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::{interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::addresses;
use crate::behaviour::{Behaviour, BehaviourEvent, KADEMLIA_PROTOCOL};
use crate::client::{Client, EXCHANGE_PROTOCOL};
use crate::dialer::{peer_of, Dialer, Target};
use crate::peer_table::PeerTable;
use crate::provider_records::ProviderRecords;
use crate::resolver::resolve;
use crate::server::Server;
use crate::strangers::Strangers;
use crate::twins::{is_own, Ear, Twins};
use crate::{Event, NodeConfig};

/// How often it is looked whether something is to be dialled or announced.
const TICK: Duration = Duration::from_millis(250);
/// How often the routing table of the DHT is filled anew.
const BOOTSTRAP_INTERVAL: Duration = Duration::from_secs(5 * 60);
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
    Ban(PeerId),
}

/// Whose addresses were looked up, and what came of it.
type Resolution = (Target, io::Result<Vec<Multiaddr>>);

/// Where the driver tells what happens.
pub(crate) struct Outlets {
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) listen_addresses: watch::Sender<Vec<Multiaddr>>,
}

/// Owns the swarm.
pub(crate) struct Driver {
    swarm: Swarm<Behaviour>,
    commands: mpsc::Receiver<Command>,
    peers: Arc<PeerTable>,
    client: Arc<Client>,
    server: Arc<Server>,
    outlets: Outlets,
    /// Whether the node listens on the loopback interface and nowhere else.
    loopback_only: bool,
    dialer: Dialer,
    dialer_max: usize,
    /// As many as there are targets, and some more.
    resolutions: FuturesUnordered<BoxFuture<'static, Resolution>>,
    republisher: Republisher,
    bootstrap_at: Instant,
    lookups: HashMap<QueryId, mpsc::Sender<PeerId>>,
    twins: Twins,
    strangers: Strangers,
    /// Whether multicast DNS is in use.
    mdns: bool,
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
        peers: Arc<PeerTable>,
        client: Arc<Client>,
        server: Arc<Server>,
        outlets: Outlets,
    ) -> Self {
        let mut dialer = Dialer::default();
        for address in &config.bootstrap {
            dialer.add(Target::Address(address.clone()), false, Instant::now());
        }
        Driver {
            swarm,
            commands,
            peers,
            client,
            server,
            outlets,
            loopback_only: config.listen.iter().all(is_only_local),
            dialer_max: config.bootstrap.len() + config.connections_max as usize,
            dialer,
            resolutions: FuturesUnordered::new(),
            republisher: Republisher::new(config.provider_record_lifetime / 3),
            bootstrap_at: Instant::now() + BOOTSTRAP_INTERVAL,
            lookups: HashMap::new(),
            twins: Twins::default(),
            strangers: Strangers::default(),
            mdns: config.mdns,
        }
    }

    /// Drives the swarm until `shutdown`. Dropping it then ends all connections.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let own_id = *self.swarm.local_peer_id();
        let mut ear = self.mdns.then(Ear::open).and_then(Result::ok);
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
                _ = tick.tick() => self.tidy(),
            }
            self.dial_due();
            self.announce_due();
        }
    }

    /// What is to be done from time to time. The swarm is polled after it.
    fn tidy(&mut self) {
        let now = Instant::now();
        let behaviour = self.swarm.behaviour_mut();
        behaviour.connections.tidy(now);
        behaviour.kademlia.store_mut().expire(now);
        if now >= self.bootstrap_at {
            self.bootstrap_at = now + BOOTSTRAP_INTERVAL;
            // Alone, there is nobody to ask; it begins by itself with the first node that is met.
            let _ = behaviour.kademlia.bootstrap();
        }
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
            Command::Ban(peer) => {
                self.dialer.remove_peer(peer);
                let behaviour = self.swarm.behaviour_mut();
                behaviour.bans.block_peer(peer);
                behaviour.kademlia.remove_peer(&peer);
            }
        }
    }

    fn dial_due(&mut self) {
        let room = self.swarm.behaviour().connections.has_room();
        while let Some(target) = self.dialer.due(room, Instant::now()) {
            self.dialer.resolving(&target);
            self.resolve(target);
        }
    }

    /// Looks up the addresses of a target; what comes of it goes to [`Self::on_resolved`].
    fn resolve(&mut self, target: Target) {
        let resolution = async move {
            let addresses = match &target {
                Target::Address(address) => resolve(address).await,
                // Those that the behaviours know are used.
                Target::Peer(_) => Ok(Vec::new()),
            };
            (target, addresses)
        };
        self.resolutions.push(resolution.boxed());
    }

    fn on_resolved(&mut self, target: Target, addresses: io::Result<Vec<Multiaddr>>) {
        let addresses = match (&target, addresses) {
            (Target::Address(address), Err(error)) => {
                tracing::warn!(%address, %error, "cannot look up the address");
                self.dialer.unresolved(&target, Instant::now());
                return;
            }
            (_, addresses) => addresses.unwrap_or_default(),
        };
        if self.is_this_node(&target, &addresses) {
            self.dialer.remove(&target);
            return;
        }
        let options = dial_options(&target, addresses);
        let connection = options.connection_id();
        let bootstrap = self.dialer.is_bootstrap(&target);
        self.swarm
            .behaviour_mut()
            .connections
            .expect(connection, bootstrap);
        self.dialer.dialing(&target, connection);
        if let Err(error) = self.swarm.dial(options) {
            self.dial_failed(connection, &error);
        }
    }

    /// Whether a target is the node itself, or another one with its key: dialling would never succeed.
    fn is_this_node(&mut self, target: &Target, addresses: &[Multiaddr]) -> bool {
        let own = self.outlets.listen_addresses.borrow();
        let id = match target {
            Target::Peer(peer) => Some(*peer),
            Target::Address(address) => peer_of(address),
        };
        let with_own_id = id == Some(*self.swarm.local_peer_id());
        match addresses.first() {
            Some(first) if with_own_id || addresses.iter().all(|one| is_own(one, &own)) => {
                self.twins.met(first, &own);
                true
            }
            _ => with_own_id,
        }
    }

    fn dial_failed(&mut self, connection: ConnectionId, error: &DialError) {
        log_dial(error);
        if let DialError::LocalPeerId { address } = error {
            self.dialer.hopeless(connection);
            self.twins
                .met(address, &self.outlets.listen_addresses.borrow());
            return;
        }
        // Somebody configured this one, and wants to know.
        if let Some(Target::Address(address)) = self.dialer.failed(connection, Instant::now()) {
            tracing::warn!(%address, %error, "cannot reach a bootstrap peer, will try again");
        }
    }

    fn announce_due(&mut self) {
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
                self.on_connected(peer_id, endpoint.get_remote_address());
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
            SwarmEvent::NewListenAddr { address, .. } => {
                tracing::info!(%address, "listening");
                // No relay or observer is needed to know one's address on a LAN.
                if self.loopback_only || !is_only_local(&address) {
                    self.swarm.add_external_address(address.clone());
                }
                self.outlets
                    .listen_addresses
                    .send_modify(|addresses| addresses.push(address));
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.swarm.remove_external_address(&address);
                self.outlets
                    .listen_addresses
                    .send_modify(|addresses| addresses.retain(|other| *other != address));
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "a listener failed");
            }
            _ => {}
        }
    }

    fn on_connected(&mut self, peer: PeerId, address: &Multiaddr) {
        if self.peers.connected(peer, address.clone()) {
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
            let cause = cause.map(tracing::field::display);
            tracing::info!(%peer, cause, "peer disconnected");
            let _ = self.outlets.events.send(Event::PeerDisconnected(peer));
        }
    }

    fn on_behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                for (peer, _) in found {
                    if self.dialer.len() < self.dialer_max {
                        let connected = self.peers.is_connected(peer);
                        let target = Target::Peer(peer);
                        self.dialer.add(target, connected, Instant::now());
                    }
                }
            }
            BehaviourEvent::Mdns(mdns::Event::Expired(gone)) => {
                for (peer, _) in gone {
                    let mdns = self.swarm.behaviour().mdns.as_ref();
                    let mut left = mdns.into_iter().flat_map(|mdns| mdns.discovered_nodes());
                    if !left.any(|other| *other == peer) {
                        self.dialer.remove(&Target::Peer(peer));
                    }
                }
            }
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                self.on_identified(peer_id, info);
            }
            BehaviourEvent::Ping(ping::Event {
                peer,
                connection,
                result,
            }) => match result {
                Ok(rtt) => self.peers.measured(peer, rtt),
                Err(ping::Failure::Unsupported) => {}
                Err(error) => {
                    tracing::debug!(%peer, %error, "no answer to a ping");
                    self.swarm.close_connection(connection);
                }
            },
            BehaviourEvent::Inbound(opened) => self.server.accept(opened),
            BehaviourEvent::Kademlia(event) => self.on_kademlia_event(event),
            _ => {}
        }
    }

    /// A peer said who it is: its addresses go to the DHT's routing table. Other programs use the
    /// same multicast DNS service name; those are left alone.
    fn on_identified(&mut self, peer: PeerId, info: identify::Info) {
        if !info.protocols.contains(&EXCHANGE_PROTOCOL) {
            self.strangers.met(peer, &info);
            self.dialer.remove_peer(peer);
            // An error only says that it has gone already.
            let _ = self.swarm.disconnect_peer_id(peer);
            return;
        }
        let addresses = addresses::useful(info.listen_addrs);
        self.peers.introduced(peer, addresses.clone());
        if !info.protocols.contains(&KADEMLIA_PROTOCOL) {
            return;
        }
        let kademlia = &mut self.swarm.behaviour_mut().kademlia;
        for address in &addresses {
            kademlia.add_address(&peer, address.clone());
        }
        // Those that it said earlier: a table grows with peers, not with what they say.
        let known = known_addresses(kademlia, peer);
        let excess = known.len().saturating_sub(addresses::ADDRESSES_MAX);
        let stale = known.iter().filter(|known| !addresses.contains(known));
        for address in stale.take(excess) {
            kademlia.remove_address(&peer, address);
        }
    }

    fn on_kademlia_event(&mut self, event: kad::Event) {
        match event {
            kad::Event::OutboundQueryProgressed {
                id, result, step, ..
            } => {
                match result {
                    QueryResult::GetProviders(Ok(GetProvidersOk::FoundProviders {
                        providers,
                        ..
                    })) => self.on_providers(id, providers),
                    QueryResult::StartProviding(_) => self.republisher.finished(),
                    _ => {}
                }
                if step.last {
                    self.lookups.remove(&id);
                }
            }
            kad::Event::RoutingUpdated {
                is_new_peer: true, ..
            } => self.republisher.hurry(Instant::now()),
            _ => {}
        }
    }

    fn on_providers(&mut self, query: QueryId, providers: impl IntoIterator<Item = PeerId>) {
        let own_id = *self.swarm.local_peer_id();
        for peer in providers {
            if peer == own_id {
                continue;
            }
            // Now, because the addresses are only known while the query lasts.
            if !self.swarm.is_connected(&peer) {
                if let Err(error) = self
                    .swarm
                    .dial(DialOpts::peer_id(peer).allocate_new_port().build())
                {
                    log_dial(&error);
                }
            }
            if let Some(found) = self.lookups.get(&query) {
                // Full when there are more than the one who asks wants to know.
                let _ = found.try_send(peer);
            }
        }
    }
}

/// The addresses of a peer in the routing table.
fn known_addresses(kademlia: &mut kad::Behaviour<ProviderRecords>, peer: PeerId) -> Vec<Multiaddr> {
    let Some(bucket) = kademlia.kbucket(peer) else {
        return Vec::new();
    };
    let entry = bucket
        .iter()
        .find(|entry| *entry.node.key.preimage() == peer);
    entry.map_or(Vec::new(), |entry| {
        entry.node.value.iter().cloned().collect()
    })
}

/// What is heard on the link of a node with this id; nothing more after an error.
async fn hear(ear: &mut Option<Ear>, id: &PeerId) -> Vec<Multiaddr> {
    let Some(open) = ear else {
        return std::future::pending().await;
    };
    match open.hear(id).await {
        Ok(addresses) => addresses,
        Err(_) => {
            *ear = None;
            Vec::new()
        }
    }
}

/// Whether an address means something else, or nothing, on another machine.
fn is_only_local(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback() || ip.is_unicast_link_local(),
        _ => false,
    }
}

/// Without the id of the peer there can be one address only: two might be two peers.
///
/// From a port of its own: two nodes that find each other by mDNS dial at the same moment, and if both
/// did so from the ports that they listen at, TCP would make one connection of the two, on which both
/// believe that they dialled and neither handshake succeeds. Their pauses are the same, so it can happen
/// again and again.
fn dial_options(target: &Target, mut addresses: Vec<Multiaddr>) -> DialOpts {
    let peer = match target {
        Target::Peer(peer) => return DialOpts::peer_id(*peer).allocate_new_port().build(),
        Target::Address(address) => peer_of(address),
    };
    match peer {
        Some(peer) => DialOpts::peer_id(peer)
            .addresses(addresses)
            .allocate_new_port()
            .build(),
        None => {
            addresses.truncate(1);
            let address = addresses.pop().unwrap_or_else(Multiaddr::empty);
            DialOpts::unknown_peer_id()
                .address(address)
                .allocate_new_port()
                .build()
        }
    }
}

fn log_dial(error: &DialError) {
    tracing::debug!(%error, "dialling failed");
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
