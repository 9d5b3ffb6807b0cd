// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The parts of libp2p that a node is made of.

use std::num::NonZeroUsize;
use std::time::Duration;

use libp2p::allow_block_list::{self, BlockedPeers};
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig};
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::NetworkBehaviour;
use libp2p::{
    identify, kad, mdns, noise, ping, tcp, yamux, PeerId, StreamProtocol, Swarm, SwarmBuilder,
};

use crate::ban_list::BanList;
use crate::inbound;
use crate::{Error, NodeConfig};

/// The DHT's protocol: a network of its own.
pub(crate) const KADEMLIA_PROTOCOL: StreamProtocol = StreamProtocol::new("/peerfs/kad/1");
/// What nodes call this protocol family when they introduce themselves.
const IDENTIFY_PROTOCOL: &str = "/peerfs/1";

/// The most keys in this node's part of the DHT, its own included: a terabyte of packs, and the
/// records of a few thousand nodes.
const PROVIDED_KEYS_MAX: usize = 65536;
/// The most providers of one key.
const PROVIDERS_PER_KEY: usize = 20;
/// How long a lookup or an announcement in the DHT may take.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// How often neighbours on the link are looked for when nothing is heard from them; at the start
/// the intervals are 0.5 s, 1 s, 2 s and so on.
const MDNS_QUERY_INTERVAL: Duration = Duration::from_secs(15);
/// How long a neighbour counts as being there after it was heard.
const MDNS_TIME_TO_LIVE: Duration = Duration::from_secs(120);
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections stay open while both nodes live: a peer that is connected can be asked at once.
const IDLE_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// A peer may have one for each transport and direction.
const CONNECTIONS_PER_PEER: u32 = 4;
/// Connections that are being set up, in each direction.
const PENDING_CONNECTIONS: u32 = 64;

#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) limits: connection_limits::Behaviour,
    pub(crate) bans: allow_block_list::Behaviour<BlockedPeers>,
    /// The exchange streams that peers open.
    pub(crate) inbound: inbound::Behaviour,
    /// Those that this node opens.
    pub(crate) outbound: libp2p_stream::Behaviour,
    pub(crate) mdns: Toggle<mdns::tokio::Behaviour>,
    pub(crate) kademlia: kad::Behaviour<MemoryStore>,
    pub(crate) identify: identify::Behaviour,
    pub(crate) ping: ping::Behaviour,
}

impl Behaviour {
    fn new(config: &NodeConfig, bans: &BanList) -> Result<Self, Error> {
        let keypair = config.identity.keypair();
        let id = config.identity.peer_id();
        let limits = ConnectionLimits::default()
            .with_max_established(Some(config.connections_max))
            .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER))
            .with_max_pending_incoming(Some(PENDING_CONNECTIONS))
            .with_max_pending_outgoing(Some(PENDING_CONNECTIONS));
        let mut blocked = allow_block_list::Behaviour::default();
        for peer in bans.peers() {
            blocked.block_peer(peer);
        }
        let mdns = match config.mdns {
            true => Some(Self::mdns(id)?),
            false => None,
        };
        let identify = identify::Config::new(IDENTIFY_PROTOCOL.to_owned(), keypair.public())
            .with_agent_version(concat!("peerfs/", env!("CARGO_PKG_VERSION")).to_owned())
            // Those that are of use to others are the external addresses.
            .with_hide_listen_addrs(true);
        let ping = ping::Config::new()
            .with_interval(PING_INTERVAL)
            .with_timeout(PING_TIMEOUT);
        Ok(Behaviour {
            limits: connection_limits::Behaviour::new(limits),
            bans: blocked,
            inbound: inbound::Behaviour::default(),
            outbound: libp2p_stream::Behaviour::new(),
            mdns: mdns.into(),
            kademlia: Self::kademlia(config, id),
            identify: identify::Behaviour::new(identify),
            ping: ping::Behaviour::new(ping),
        })
    }

    fn mdns(id: PeerId) -> Result<mdns::tokio::Behaviour, Error> {
        let config = mdns::Config {
            ttl: MDNS_TIME_TO_LIVE,
            query_interval: MDNS_QUERY_INTERVAL,
            enable_ipv6: false,
        };
        mdns::tokio::Behaviour::new(config, id).map_err(Error::Mdns)
    }

    fn kademlia(config: &NodeConfig, id: PeerId) -> kad::Behaviour<MemoryStore> {
        let store = MemoryStore::with_config(
            id,
            MemoryStoreConfig {
                // Only provider records are used.
                max_records: 0,
                max_value_bytes: 0,
                max_providers_per_key: PROVIDERS_PER_KEY,
                max_provided_keys: PROVIDED_KEYS_MAX,
            },
        );
        let mut settings = kad::Config::new(KADEMLIA_PROTOCOL);
        settings
            .set_query_timeout(QUERY_TIMEOUT)
            .set_provider_record_ttl(Some(config.provider_record_lifetime))
            // The announcer does it, a few at a time.
            .set_provider_publication_interval(None)
            .set_publication_interval(None)
            .set_replication_interval(None)
            .set_parallelism(NonZeroUsize::MIN.saturating_add(2));
        let mut kademlia = kad::Behaviour::with_config(id, store, settings);
        // Without waiting to be found reachable from everywhere: on a LAN no node ever is.
        kademlia.set_mode(Some(kad::Mode::Server));
        kademlia
    }
}

/// The swarm of a node, which does not listen yet.
pub(crate) fn swarm(config: &NodeConfig, bans: &BanList) -> Result<Swarm<Behaviour>, Error> {
    let behaviour = Behaviour::new(config, bans)?;
    let swarm = SwarmBuilder::with_existing_identity(config.identity.keypair().clone())
        .with_tokio()
        .with_tcp(
            tcp::Config::default().nodelay(true),
            noise::Config::new,
            yamux::Config::default,
        )
        .map_err(|error| Error::Transport(Box::new(error)))?
        .with_behaviour(|_| behaviour)
        .unwrap_or_else(|never| match never {})
        .with_swarm_config(|settings| settings.with_idle_connection_timeout(IDLE_TIMEOUT))
        .with_connection_timeout(config.connect_timeout)
        .build();
    Ok(swarm)
}
