// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a node needs where others are behind firewalls and address translation, and it may be itself: others try to
//! connect to it, relays lead to it, holes are punched, and a router is asked to forward a port.

mod discreet;
mod guard;
mod reachability;

use std::num::NonZeroU32;
use std::time::Duration;

use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::behaviour::NewListenAddr;
use libp2p::swarm::{FromSwarm, NetworkBehaviour};
use libp2p::{autonat, dcutr, kad, relay, upnp, Multiaddr, PeerId};

use crate::network::{is_relayed, tcp_port, Network};
use crate::provider_records::ProviderRecords;
use crate::InternetConfig;
pub(crate) use discreet::Discreet;
pub(crate) use guard::{Configured, Guard};
pub use reachability::Reachability;
pub(crate) use reachability::{Tested, Ways};

/// What others ask for who want to be reached through a relay.
pub(crate) const RELAY_PROTOCOL: libp2p::StreamProtocol = relay::HOP_PROTOCOL_NAME;

/// Those that are led to by a relay at a time, and how many connections to them it passes on.
const RESERVATIONS: usize = 128;
const CIRCUITS: usize = 256;
const CIRCUITS_PER_PEER: usize = 8;
/// After these a connection through a relay ends, and whoever needs it makes another one.
const CIRCUIT_LASTS: Duration = Duration::from_secs(3600);
const CIRCUIT_BYTES: u64 = 1 << 30;

/// The parts of libp2p for the Internet.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) autonat: Discreet<autonat::Behaviour>,
    relay_client: relay::client::Behaviour,
    relay_server: Toggle<relay::Behaviour>,
    dcutr: Discreet<dcutr::Behaviour>,
    upnp: Toggle<upnp::tokio::Behaviour>,
}

impl Behaviour {
    pub(crate) fn new(
        config: &InternetConfig,
        id: PeerId,
        relay_client: relay::client::Behaviour,
    ) -> Self {
        Behaviour {
            autonat: autonat(config, id),
            relay_client,
            relay_server: config
                .relay
                .then(|| relay::Behaviour::new(id, relay_config()))
                .into(),
            dcutr: Discreet::new(
                dcutr::Behaviour::new(id),
                |_, event| !is_of_local_address(event),
                |_| false,
            ),
            upnp: config.upnp.then(upnp::tokio::Behaviour::default).into(),
        }
    }
}

/// The first version of AutoNAT: what it has found it tries again from time to time, where the second one, as it is in this version of
/// libp2p, tries each address once.
fn autonat(config: &InternetConfig, id: PeerId) -> Discreet<autonat::Behaviour> {
    let settings = autonat::Config {
        boot_delay: config.test_interval,
        retry_interval: config.test_interval,
        throttle_server_period: config.test_interval,
        ..autonat::Config::default()
    };
    Discreet::new(
        autonat::Behaviour::new(id, settings),
        |autonat, event| match event {
            // Whoever tries puts the address from which the node came in the place of the one that it is told.
            FromSwarm::NewListenAddr(NewListenAddr { addr, .. }) => {
                if let Some(port) = tcp_port(addr).filter(|_| !is_relayed(addr)) {
                    let anywhere = Multiaddr::from(std::net::Ipv4Addr::UNSPECIFIED);
                    autonat.probe_address(anywhere.with(port));
                }
                false
            }
            FromSwarm::ExpiredListenAddr(_) | FromSwarm::NewExternalAddrCandidate(_) => false,
            _ => true,
        },
        |found| Network::outside(found).is_some(),
    )
}

fn relay_config() -> relay::Config {
    let often = NonZeroU32::MIN.saturating_add(29);
    relay::Config {
        max_reservations: RESERVATIONS,
        max_circuits: CIRCUITS,
        max_circuits_per_peer: CIRCUITS_PER_PEER,
        max_circuit_duration: CIRCUIT_LASTS,
        max_circuit_bytes: CIRCUIT_BYTES,
        ..relay::Config::default()
    }
    .reservation_rate_per_peer(often, Duration::from_secs(120))
    .circuit_src_per_peer(often, Duration::from_secs(60))
}

/// The DHT, which would tell others where the node listens, also those who can't reach it there: what is told are the
/// external addresses.
pub(crate) fn discreet_dht(
    dht: kad::Behaviour<ProviderRecords>,
) -> Discreet<kad::Behaviour<ProviderRecords>> {
    Discreet::new(
        dht,
        |_, event| {
            !matches!(
                event,
                FromSwarm::NewListenAddr(_) | FromSwarm::ExpiredListenAddr(_)
            )
        },
        |_| true,
    )
}

/// Whether somebody on the node's own network has told it its address there.
fn is_of_local_address(event: &FromSwarm<'_>) -> bool {
    match event {
        FromSwarm::NewExternalAddrCandidate(candidate) => {
            Network::outside(candidate.addr).is_none()
        }
        _ => false,
    }
}
