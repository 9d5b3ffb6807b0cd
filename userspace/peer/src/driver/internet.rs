// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A node on the Internet: whether others reach it, and what follows from that.

use std::time::Instant;

use libp2p::autonat::{self, NatStatus};
use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::{dcutr, identify, kad, upnp, Multiaddr, PeerId};

use super::Driver;
use crate::internet::{BehaviourEvent, Configured, Reachability, Tested, Ways, RELAY_PROTOCOL};
use crate::network::{is_relayed, Network};
use crate::InternetConfig;

/// What a node knows that is on the Internet.
pub(super) struct Internet {
    /// Where others reach it, as somebody has configured.
    external: Vec<Multiaddr>,
    ways: Ways,
    pub(super) reachability: Reachability,
    configured: Configured,
}

impl Internet {
    pub(super) fn new(config: &InternetConfig, configured: Configured) -> Self {
        Internet {
            external: config.external.clone(),
            ways: Ways::default(),
            reachability: Reachability::default(),
            configured,
        }
    }

    /// Addresses that are about to be dialled because they were configured.
    pub(super) fn dials_configured(&self, addresses: &[Multiaddr]) {
        for address in addresses {
            self.configured.add(address);
        }
    }
}

impl Driver {
    pub(super) fn begin_internet(&mut self) {
        let external = self
            .internet
            .as_ref()
            .map(|internet| internet.external.clone());
        for address in external.unwrap_or_default() {
            self.swarm.add_external_address(address);
        }
        self.look_at_ways();
    }

    /// Draws the conclusions from the addresses at which others reach the node.
    pub(super) fn look_at_ways(&mut self) {
        let Some(internet) = &mut self.internet else {
            return;
        };
        let reachability = internet.ways.reachability(self.swarm.external_addresses());
        let before = std::mem::replace(&mut internet.reachability, reachability);
        if before == reachability {
            return;
        }
        match reachability {
            Reachability::Unknown => {
                tracing::info!("it is not known whether others reach this node")
            }
            Reachability::Direct => tracing::info!("others reach this node"),
            Reachability::Relayed => tracing::info!("others reach this node through a relay"),
            Reachability::Not => {
                tracing::info!("others do not reach this node, which reaches them")
            }
        }
        let is_direct = reachability == Reachability::Direct;
        if is_direct {
            for listener in internet.ways.leave_all() {
                self.swarm.remove_listener(listener);
            }
        }
        // A node that nobody reaches would cost each of those who look something up a vain attempt.
        let mode = if is_direct {
            kad::Mode::Server
        } else {
            kad::Mode::Client
        };
        self.swarm.behaviour_mut().kademlia.set_mode(Some(mode));
        self.tell_addresses();
    }

    /// The node may be in another network: what others found is not true any more, until they find it again.
    pub(super) fn forget_ways(&mut self) {
        let Some(internet) = &self.internet else {
            return;
        };
        let is_found =
            |address: &&Multiaddr| !is_relayed(address) && !internet.external.contains(address);
        let found: Vec<Multiaddr> = self
            .swarm
            .external_addresses()
            .filter(is_found)
            .cloned()
            .collect();
        for address in found {
            self.swarm.remove_external_address(&address);
        }
        self.look_at_ways();
    }

    /// A peer said what it speaks and where it listens.
    pub(super) fn look_for_relay(
        &mut self,
        peer: PeerId,
        info: &identify::Info,
        addresses: &[Multiaddr],
    ) {
        let Some(internet) = &mut self.internet else {
            return;
        };
        let is_way =
            |address: &&Multiaddr| !is_relayed(address) && Network::outside(address).is_some();
        match addresses.iter().find(is_way) {
            Some(address) if info.protocols.contains(&RELAY_PROTOCOL) => {
                internet.ways.offered(peer, address.clone(), Instant::now());
            }
            _ => internet.ways.withdrawn(peer),
        }
    }

    /// A peer is not connected any more.
    pub(super) fn lost_relay(&mut self, peer: PeerId) {
        if let Some(internet) = &mut self.internet {
            internet.ways.withdrawn(peer);
        }
    }

    /// Asks relays to lead to the node, as long as others do not reach it.
    pub(super) fn ask_relays(&mut self) {
        let now = Instant::now();
        while let Some(internet) = &mut self.internet {
            if internet.reachability == Reachability::Direct {
                return;
            }
            let Some((relay, address)) = internet.ways.wanted(now) else {
                return;
            };
            let way = address
                .with(Protocol::P2p(relay))
                .with(Protocol::P2pCircuit);
            match self.swarm.listen_on(way) {
                Ok(listener) => internet.ways.asked(listener, relay),
                Err(error) => {
                    tracing::debug!(%relay, %error, "a relay can't be asked");
                    internet.ways.refused(relay, now);
                }
            }
        }
    }

    /// A listener has ended. Whether it was a relay.
    pub(super) fn relay_ended(&mut self, listener: ListenerId) -> bool {
        let Some(internet) = &mut self.internet else {
            return false;
        };
        let Some(relay) = internet.ways.relay_of(listener) else {
            return false;
        };
        tracing::debug!(%relay, "a relay does not lead to this node any more");
        internet.ways.refused(relay, Instant::now());
        true
    }

    pub(super) fn on_internet_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Autonat(autonat::Event::StatusChanged { old, new }) => {
                self.on_tested(old, &new);
            }
            BehaviourEvent::Dcutr(dcutr::Event {
                remote_peer_id,
                result,
            }) => match result {
                Ok(_) => tracing::debug!(peer = %remote_peer_id, "connected without the relay"),
                Err(error) => {
                    tracing::debug!(peer = %remote_peer_id, %error, "the relay stays needed")
                }
            },
            BehaviourEvent::Upnp(upnp::Event::NewExternalAddr { external_addr, .. }) => {
                tracing::info!(address = %external_addr, "the router forwards a port");
            }
            _ => {}
        }
    }

    fn on_tested(&mut self, old: NatStatus, new: &NatStatus) {
        let Some(internet) = &mut self.internet else {
            return;
        };
        internet.ways.tested = match new {
            NatStatus::Public(_) => Tested::Reached,
            NatStatus::Private => Tested::NotReached,
            NatStatus::Unknown => Tested::NotYet,
        };
        match old {
            NatStatus::Public(address)
                if !new.is_public() && !internet.external.contains(&address) =>
            {
                self.swarm.remove_external_address(&address);
            }
            _ => {}
        }
        self.look_at_ways();
    }
}
