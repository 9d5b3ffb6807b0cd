// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Connecting to those who are to be connected.

use std::io;
use std::time::{Instant, SystemTime};

use futures::future::FutureExt;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ConnectionId, DialError};
use libp2p::{Multiaddr, PeerId};

use super::Driver;
use crate::dialer::{peer_of, Target};
use crate::resolver::resolve;
use crate::twins::is_own;

/// The neighbours on the link that are dialled: whom else the DHT names is dialled for that. Were it all, each of a
/// thousand nodes would have a thousand connections.
const NEIGHBOURS_MAX: usize = 16;

impl Driver {
    /// Closes the connections to those whose certificates have ended.
    pub(super) fn cut_off_former_members(&mut self) {
        let Some(membership) = &self.membership else {
            return;
        };
        for peer in membership.ended(SystemTime::now()) {
            tracing::info!(%peer, "it is no member of the swarm any more");
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }

    /// Dials some of those on the link, if too few are.
    pub(super) fn add_neighbours(&mut self) {
        let mut found: Vec<PeerId> = self.found().difference(&self.given_up).copied().collect();
        fastrand::shuffle(&mut found);
        for peer in found {
            self.add_neighbour(peer);
        }
    }

    /// A peer was found on the link.
    pub(super) fn add_neighbour(&mut self, peer: PeerId) {
        if self.dialer.neighbours() < NEIGHBOURS_MAX {
            let connected = self.peers.is_connected(peer);
            self.dialer
                .add(Target::Peer(peer), connected, Instant::now());
        }
    }

    pub(super) fn dial_due(&mut self) {
        let room = self.swarm.behaviour().connections.has_room();
        while let Some(target) = self.dialer.due(room, Instant::now()) {
            self.dialer.resolving(&target);
            self.resolve(target);
        }
    }

    /// Looks up the addresses of a target; what comes of it goes to [`Self::on_resolved`].
    pub(super) fn resolve(&mut self, target: Target) {
        let resolution = async move {
            let addresses = match &target {
                Target::Address(address) => resolve(address).await,
                // Those that are known of its link are used, and those that the behaviours know.
                Target::Peer(_) => Ok(Vec::new()),
            };
            (target, addresses)
        };
        self.resolutions.push(resolution.boxed());
    }

    pub(super) fn on_resolved(&mut self, target: Target, addresses: io::Result<Vec<Multiaddr>>) {
        let addresses = match (&target, addresses) {
            (Target::Peer(peer), _) => self.neighbours.addresses(peer),
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
        let is_bootstrap = self.dialer.is_bootstrap(&target);
        if let Some(internet) = self.internet.as_ref().filter(|_| is_bootstrap) {
            internet.dials_configured(&addresses);
        }
        let options = dial_options(&target, addresses, self.internet.is_some());
        let connection = options.connection_id();
        self.swarm
            .behaviour_mut()
            .connections
            .expect(connection, is_bootstrap);
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

    pub(super) fn dial_failed(&mut self, connection: ConnectionId, error: &DialError) {
        log_dial(error);
        if let DialError::LocalPeerId { address } = error {
            self.dialer.hopeless(connection);
            self.twins
                .met(address, &self.outlets.listen_addresses.borrow());
            return;
        }
        match self.dialer.failed(connection, Instant::now()) {
            // Somebody configured this one, and wants to know.
            Some((Target::Address(address), _)) => {
                tracing::warn!(%address, %error, "cannot reach a bootstrap peer, will try again");
            }
            Some((Target::Peer(peer), true)) => {
                self.given_up.insert(peer);
                self.add_neighbours();
            }
            _ => {}
        }
    }
}

/// Without the id of the peer there can be one address only: two might be two peers.
///
/// From a port of its own: two nodes that find each other by mDNS dial at the same moment, and if both
/// did so from the ports that they listen at, TCP would make one connection of the two, on which both
/// believe that they dialled and neither handshake succeeds. Their pauses are the same, so it can happen
/// again and again.
///
/// On the Internet what was configured is dialled from the port that the node listens at, all the same: the address
/// that the other end sees then is the one to which holes are punched.
fn dial_options(target: &Target, mut addresses: Vec<Multiaddr>, internet: bool) -> DialOpts {
    let peer = match target {
        Target::Peer(peer) => {
            return DialOpts::peer_id(*peer)
                .addresses(addresses)
                .extend_addresses_through_behaviour()
                .allocate_new_port()
                .build()
        }
        Target::Address(address) => peer_of(address),
    };
    match peer {
        Some(peer) => {
            let options = DialOpts::peer_id(peer).addresses(addresses);
            match internet {
                true => options.build(),
                false => options.allocate_new_port().build(),
            }
        }
        None => {
            addresses.truncate(1);
            let address = addresses.pop().unwrap_or_else(Multiaddr::empty);
            let options = DialOpts::unknown_peer_id().address(address);
            match internet {
                true => options.build(),
                false => options.allocate_new_port().build(),
            }
        }
    }
}

pub(super) fn log_dial(error: &DialError) {
    tracing::debug!(%error, "dialling failed");
}
