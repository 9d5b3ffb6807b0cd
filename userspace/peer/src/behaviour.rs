// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The parts of libp2p that a node is made of.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use either::Either;
use libp2p::allow_block_list::{self, BlockedPeers};
use libp2p::core::upgrade::Version;
use libp2p::core::Transport;
use libp2p::pnet::PnetConfig;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::NetworkBehaviour;
use libp2p::{identify, kad, mdns, noise, relay, tcp, PeerId, StreamProtocol, Swarm, SwarmBuilder};

use crate::admission::Authenticated;
use crate::ban_list::BanList;
use crate::connections::Connections;
use crate::dialer::peer_of;
use crate::internet::{self, discreet_dht, Configured, Discreet, Guard};
use crate::peer_table::PeerTable;
use crate::provider_records::ProviderRecords;
use crate::{connection_gate, inbound, muxer, ping};
use crate::{Error, NodeConfig};

/// The DHT's protocol: a network of its own.
pub(crate) const KADEMLIA_PROTOCOL: StreamProtocol = StreamProtocol::new("/peerfs/kad/2");
/// What nodes call this protocol family when they introduce themselves.
const IDENTIFY_PROTOCOL: &str = "/peerfs/2";

/// How long a lookup or an announcement in the DHT may take.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// How often neighbours on the link are looked for when nothing is heard from them; at the start
/// the intervals are 0.5 s, 1 s, 2 s and so on. Seldom, for all answer to all: who comes asks by itself.
pub(crate) const MDNS_QUERY_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// How long a neighbour counts as being there after it was heard.
const MDNS_TIME_TO_LIVE: Duration = Duration::from_secs(15 * 60);
/// How often peers introduce themselves again: what changes is told when it does.
const IDENTIFY_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
/// Connections are closed by [`Connections`], not because there is no stream on them at the moment: a peer
/// that is connected can be asked at once.
const IDLE_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    /// Asked first, so that nobody goes for somebody who is not let in.
    pub(crate) bans: allow_block_list::Behaviour<BlockedPeers>,
    pub(crate) connections: connection_gate::Behaviour,
    /// The exchange streams that peers open.
    pub(crate) inbound: inbound::Behaviour,
    /// Those that this node opens.
    pub(crate) outbound: libp2p_stream::Behaviour,
    pub(crate) mdns: Toggle<mdns::tokio::Behaviour>,
    pub(crate) kademlia: Discreet<kad::Behaviour<ProviderRecords>>,
    pub(crate) identify: identify::Behaviour,
    pub(crate) ping: ping::Behaviour,
    pub(crate) internet: Toggle<internet::Behaviour>,
}

impl Behaviour {
    fn new(
        config: &NodeConfig,
        bans: &BanList,
        peers: Arc<PeerTable>,
        mdns: Option<mdns::tokio::Behaviour>,
        relay: relay::client::Behaviour,
    ) -> Self {
        let keypair = config.identity.keypair();
        let id = config.identity.peer_id();
        let bootstrap: HashSet<PeerId> = config.bootstrap.iter().filter_map(peer_of).collect();
        let connections = Connections::new(id, config.connections_max as usize, bootstrap);
        let mut blocked = allow_block_list::Behaviour::default();
        for ban in bans.infos() {
            blocked.block_peer(ban.peer);
        }
        let identify = identify::Config::new(IDENTIFY_PROTOCOL.to_owned(), keypair.public())
            .with_agent_version(concat!("peerfs/", env!("CARGO_PKG_VERSION")).to_owned())
            // Those that are of use to others are the external addresses.
            .with_hide_listen_addrs(true)
            // Those of others are looked at before they are used.
            .with_cache_size(0)
            .with_interval(IDENTIFY_INTERVAL);
        Behaviour {
            connections: connection_gate::Behaviour::new(connections, peers.clone()),
            bans: blocked,
            inbound: inbound::Behaviour::default(),
            outbound: libp2p_stream::Behaviour::new(),
            mdns: mdns.into(),
            kademlia: discreet_dht(Self::kademlia(config, id)),
            identify: identify::Behaviour::new(identify),
            ping: ping::Behaviour::new(peers),
            internet: config
                .internet
                .as_ref()
                .map(|settings| internet::Behaviour::new(settings, id, relay))
                .into(),
        }
    }

    fn mdns(id: PeerId) -> Result<mdns::tokio::Behaviour, Error> {
        let config = mdns::Config {
            ttl: MDNS_TIME_TO_LIVE,
            query_interval: MDNS_QUERY_INTERVAL,
            enable_ipv6: false,
        };
        mdns::tokio::Behaviour::new(config, id).map_err(Error::Mdns)
    }

    fn kademlia(config: &NodeConfig, id: PeerId) -> kad::Behaviour<ProviderRecords> {
        let store = ProviderRecords::new(id, fastrand::Rng::new());
        let mut settings = kad::Config::new(KADEMLIA_PROTOCOL);
        settings
            .set_query_timeout(QUERY_TIMEOUT)
            .set_provider_record_ttl(Some(config.provider_record_lifetime))
            // The announcer does it, a few at a time.
            .set_provider_publication_interval(None)
            .set_publication_interval(None)
            .set_replication_interval(None)
            // The driver does it, when there is somebody to ask.
            .set_periodic_bootstrap_interval(None)
            // The driver adds them, when it has looked at their addresses.
            .set_record_filtering(kad::StoreInserts::FilterBoth)
            .set_parallelism(NonZeroUsize::MIN.saturating_add(2));
        let mut kademlia = kad::Behaviour::with_config(id, store, settings);
        // On a LAN without waiting to be found reachable from everywhere: no node ever is.
        let mode = match config.internet {
            None => kad::Mode::Server,
            Some(_) => kad::Mode::Client,
        };
        kademlia.set_mode(Some(mode));
        kademlia
    }
}

/// The swarm of a node, which does not listen yet. Of local addresses a node on the Internet dials those that are
/// `configured`.
pub(crate) fn swarm(
    config: &NodeConfig,
    bans: &BanList,
    peers: Arc<PeerTable>,
    configured: Configured,
) -> Result<Swarm<Behaviour>, Error> {
    let configured = config.internet.as_ref().map(|_| configured);
    let noise = |keypair: &libp2p::identity::Keypair| {
        noise::Config::new(keypair).map_err(|error| Error::Transport(Box::new(error)))
    };
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    let keypair = config.identity.keypair();
    let mdns = match config.mdns {
        true => Some(Behaviour::mdns(config.identity.peer_id())?),
        false => None,
    };
    let tcp = Guard::new(tcp, configured);
    // At the bottom, so that nothing is said to who does not have the key. What a relay passes on is not encrypted by it once
    // more: it goes over connections with the relay that are.
    let connected = match &config.swarm_key {
        None => Either::Left(tcp),
        Some(key) => {
            let private = PnetConfig::new(key.pre_shared());
            Either::Right(tcp.and_then(move |socket, _| private.handshake(socket)))
        }
    };
    let authenticated = |keypair: &libp2p::identity::Keypair| {
        let membership = config.membership.clone();
        noise(keypair).map(|noise| Authenticated::new(noise, membership))
    };
    let transport = connected
        .upgrade(Version::V1Lazy)
        .authenticate(authenticated(keypair)?)
        .multiplex(muxer::Config::default());
    let swarm = SwarmBuilder::with_existing_identity(keypair.clone())
        .with_tokio()
        .with_other_transport(|_| transport)
        .unwrap_or_else(|never| match never {})
        .with_relay_client(authenticated, muxer::Config::default)
        .map_err(|error| Error::Transport(Box::new(error)))?
        .with_behaviour(|_, relay| Behaviour::new(config, bans, peers, mdns, relay))
        .unwrap_or_else(|never| match never {})
        .with_swarm_config(|settings| settings.with_idle_connection_timeout(IDLE_TIMEOUT))
        .with_connection_timeout(config.connect_timeout)
        .build();
    Ok(swarm)
}
