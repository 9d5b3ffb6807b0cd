// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Which connections a node has: who is let in, and who goes for that.
//!
//! A plain type: no I/O and no clock. Its rules:
//!
//! - Half of all connections at least is for those that this node makes, so that nobody who comes from
//!   outside can shut it off from the peers of its own choice.
//! - Bootstrap peers are always let in, and never closed.
//! - Who comes when all is full takes the place of the least valuable: of those that wait for nothing and
//!   have been here for a while, one that was never of use, and of these the one that was idle longest.
//! - From outside, few come from one network: addresses cost more than ids.
//! - Of two connections to one peer both ends close the same one.
//! - A connection through a relay ends when there is one without.
//! - A peer that could not be reached is left alone for a growing time, whoever names it.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};

use crate::network::Network;
use crate::peer_table::Activity;
use crate::Direction;

/// The connections of one peer: one for each direction, and some that are about to end.
const OF_PEER: usize = 4;
/// The inbound connections from one network, unless it is a local one.
const OF_NETWORK: usize = 8;
/// The connections that are being set up, in each direction.
const PENDING: usize = 64;
/// How long a connection is safe from those who come later. More than a moment, or those who find no place
/// would drive each other out in turns.
const SAFE: Duration = Duration::from_secs(30);
/// How long a connection must have been idle to be closed only because there are many.
const IDLE: Duration = Duration::from_secs(600);
/// When the second of two connections to a peer is closed: after those who want something have settled.
const DUPLICATE: Duration = Duration::from_secs(10);
/// How long a connection without a relay stands before the one through it is closed.
const DIRECT: Duration = Duration::from_secs(2);
/// How long a peer that could not be reached is left alone; doubles with each failure.
const UNREACHABLE_MIN: Duration = Duration::from_secs(2);
const UNREACHABLE_MAX: Duration = Duration::from_secs(30);
/// The unreachable peers that are remembered.
const UNREACHABLE_PEERS: usize = 4096;

/// Why a connection is not made.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("all connections are in use")]
    Full,
    #[error("too many connections from this network")]
    Network,
    #[error("too many connections with this peer")]
    Peer,
    #[error("too many connections are being set up")]
    Pending,
    #[error("the peer could not be reached a moment ago")]
    Unreachable,
}

/// The connections of a node.
pub(crate) struct Connections {
    local: PeerId,
    max: usize,
    open: HashMap<ConnectionId, Connection>,
    /// Those that are being set up, inbound ones with their network.
    pending_inbound: HashMap<ConnectionId, Option<Network>>,
    pending_outbound: HashSet<ConnectionId>,
    /// Dials that the node itself has decided on, and whether whoever answers is a bootstrap peer.
    expected: HashMap<ConnectionId, bool>,
    /// Bootstrap peers that were configured by their ids.
    bootstrap: HashSet<PeerId>,
    /// Those that were configured by an address alone, while they are connected.
    bootstrap_found: HashSet<PeerId>,
    unreachable: HashMap<PeerId, Unreachable>,
}

struct Connection {
    peer: PeerId,
    direction: Direction,
    network: Option<Network>,
    since: Instant,
    relayed: bool,
}

struct Unreachable {
    until: Instant,
    pause: Duration,
}

impl Connections {
    /// Of this node; `max` connections at most, those with bootstrap peers aside.
    pub(crate) fn new(local: PeerId, max: usize, bootstrap: HashSet<PeerId>) -> Self {
        Connections {
            local,
            max,
            open: HashMap::new(),
            pending_inbound: HashMap::new(),
            pending_outbound: HashSet::new(),
            expected: HashMap::new(),
            bootstrap,
            bootstrap_found: HashSet::new(),
            unreachable: HashMap::new(),
        }
    }

    /// The network is another one: who could not be reached may be now.
    pub(crate) fn forget_failures(&mut self) {
        self.unreachable.clear();
    }

    /// Whether there is room for connections that nobody waits for.
    pub(crate) fn has_room(&self) -> bool {
        self.open.len() < self.low()
    }

    /// The node is about to dial by its own decision: nothing but the peer itself prevents that.
    pub(crate) fn expect(&mut self, id: ConnectionId, bootstrap: bool) {
        self.expected.insert(id, bootstrap);
    }

    /// Somebody is connecting from this address.
    pub(crate) fn knocks(&mut self, id: ConnectionId, from: &Multiaddr) -> Result<(), Refusal> {
        let network = Network::outside(from);
        if self.pending_inbound.len() >= PENDING {
            return Err(Refusal::Pending);
        }
        if network.is_some() && self.of_network(network) >= OF_NETWORK {
            return Err(Refusal::Network);
        }
        self.pending_inbound.insert(id, network);
        Ok(())
    }

    /// Somebody, perhaps a peer that named it, wants a peer to be dialled.
    pub(crate) fn dials(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        activity: impl Fn(PeerId) -> Activity,
        now: Instant,
    ) -> Result<(), Refusal> {
        let wanted =
            self.expected.contains_key(&id) || peer.is_some_and(|peer| self.is_bootstrap(&peer));
        if !wanted {
            if self.pending_outbound.len() >= PENDING {
                return Err(Refusal::Pending);
            }
            let unreachable = peer.and_then(|peer| self.unreachable.get(&peer));
            if unreachable.is_some_and(|failure| now < failure.until) {
                return Err(Refusal::Unreachable);
            }
            self.room_for(Direction::Outbound, activity, now)?;
        }
        self.pending_outbound.insert(id);
        Ok(())
    }

    /// A connection was set up. Whether it may stay, and which one goes for it.
    pub(crate) fn admit(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        direction: Direction,
        activity: impl Fn(PeerId) -> Activity,
        now: Instant,
    ) -> Result<Option<(PeerId, ConnectionId)>, Refusal> {
        self.pending_outbound.remove(&id);
        self.unreachable.remove(&peer);
        if self.expected.remove(&id) == Some(true) && !self.bootstrap.contains(&peer) {
            self.bootstrap_found.insert(peer);
        }
        if self.with(peer).count() >= OF_PEER {
            return Err(Refusal::Peer);
        }
        if self.is_bootstrap(&peer) {
            return Ok(None);
        }
        let victim = self.room_for(direction, activity, now)?;
        // Its place is taken, however long it takes to close it.
        Ok(victim.and_then(|victim| self.close(victim)))
    }

    /// A connection that was admitted is open.
    pub(crate) fn opened(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        direction: Direction,
        relayed: bool,
        now: Instant,
    ) {
        let network = self.pending_inbound.remove(&id).flatten();
        self.open.insert(
            id,
            Connection {
                peer,
                direction,
                network,
                since: now,
                relayed,
            },
        );
    }

    /// A connection that was open is not any more.
    pub(crate) fn closed(&mut self, id: ConnectionId) {
        if let Some(Connection { peer, .. }) = self.open.remove(&id) {
            if self.with(peer).next().is_none() {
                self.bootstrap_found.remove(&peer);
            }
        }
    }

    /// A connection could not be set up. `unreachable` names a peer of which that says something.
    pub(crate) fn failed(&mut self, id: ConnectionId, unreachable: Option<PeerId>, now: Instant) {
        self.pending_inbound.remove(&id);
        self.pending_outbound.remove(&id);
        self.expected.remove(&id);
        // One that is connected by a relay is reached, and more is tried.
        let Some(peer) = unreachable.filter(|peer| self.with(*peer).next().is_none()) else {
            return;
        };
        if self.unreachable.len() >= UNREACHABLE_PEERS {
            self.unreachable.retain(|_, failure| now < failure.until);
        }
        if self.unreachable.len() < UNREACHABLE_PEERS || self.unreachable.contains_key(&peer) {
            let failure = self.unreachable.entry(peer).or_insert(Unreachable {
                until: now,
                pause: UNREACHABLE_MIN,
            });
            failure.until = now + failure.pause;
            failure.pause = (failure.pause * 2).min(UNREACHABLE_MAX);
        }
    }

    /// The connections that are to be closed now: second ones to a peer, and idle ones when there are many.
    pub(crate) fn superfluous(
        &mut self,
        activity: impl Fn(PeerId) -> Activity,
        now: Instant,
    ) -> Vec<(PeerId, ConnectionId)> {
        let mut superfluous = self.duplicates(&activity, now);
        let left = self.open.len() - superfluous.len();
        if left > self.high() {
            let mut idle: Vec<_> = self
                .open
                .iter()
                .filter(|(id, _)| !superfluous.contains(id))
                .filter_map(|(id, connection)| self.value(connection, &activity, IDLE, now, *id))
                .collect();
            idle.sort_unstable();
            let too_many = left - self.low();
            superfluous.extend(idle.into_iter().take(too_many).map(|(.., id)| id));
        }
        superfluous
            .into_iter()
            .filter_map(|id| self.close(id))
            .collect()
    }

    fn close(&mut self, id: ConnectionId) -> Option<(PeerId, ConnectionId)> {
        let peer = self.open.get(&id)?.peer;
        self.closed(id);
        Some((peer, id))
    }

    fn duplicates(&self, activity: impl Fn(PeerId) -> Activity, now: Instant) -> Vec<ConnectionId> {
        let mut of_peers: HashMap<PeerId, Vec<(ConnectionId, &Connection)>> = HashMap::new();
        for (id, connection) in &self.open {
            let connections = of_peers.entry(connection.peer).or_default();
            connections.push((*id, connection));
        }
        let mut duplicates = Vec::new();
        for (peer, mut connections) in of_peers {
            let settled = |(_, connection): &(_, &Connection)| {
                now.saturating_duration_since(connection.since) >= DUPLICATE
            };
            let direct = connections
                .iter()
                .filter(|(_, connection)| !connection.relayed);
            let direct_since = direct.map(|(_, connection)| connection.since).min();
            if direct_since.is_some_and(|since| now.saturating_duration_since(since) >= DIRECT) {
                // What was asked through the relay is asked again.
                let relayed = connections
                    .iter()
                    .filter(|(_, connection)| connection.relayed);
                duplicates.extend(relayed.map(|(id, _)| *id));
                connections.retain(|(_, connection)| !connection.relayed);
            }
            if connections.len() < 2 || !connections.iter().all(settled) || activity(peer).waiting {
                continue;
            }
            // Both ends know both ids, and who dialled.
            let kept = match self.local < peer {
                true => Direction::Outbound,
                false => Direction::Inbound,
            };
            connections.sort_by_key(|(id, connection)| {
                (connection.direction != kept, connection.since, *id)
            });
            let same_side = |connection: &Connection| {
                connections
                    .first()
                    .is_some_and(|(_, first)| first.direction == connection.direction)
            };
            // Which of two that one side made is the first one, that side says.
            duplicates.extend(
                connections
                    .iter()
                    .skip(1)
                    .filter(|(_, connection)| {
                        !same_side(connection) || connection.direction == Direction::Outbound
                    })
                    .map(|(id, _)| *id),
            );
        }
        duplicates
    }

    /// Whether one more may come, and which one goes for it.
    fn room_for(
        &self,
        direction: Direction,
        activity: impl Fn(PeerId) -> Activity,
        now: Instant,
    ) -> Result<Option<ConnectionId>, Refusal> {
        let full = self.open.len() >= self.max;
        let inbound_full = direction == Direction::Inbound
            && self.count(Direction::Inbound) >= self.max.div_ceil(2);
        if !full && !inbound_full {
            return Ok(None);
        }
        self.open
            .iter()
            .filter(|(_, connection)| !inbound_full || connection.direction == Direction::Inbound)
            .filter_map(|(id, connection)| self.value(connection, &activity, SAFE, now, *id))
            .min()
            .map(|(.., id)| Some(id))
            .ok_or(Refusal::Full)
    }

    /// How much a connection is worth, if it may be closed at all after having been idle for so long.
    fn value(
        &self,
        connection: &Connection,
        activity: impl Fn(PeerId) -> Activity,
        idle: Duration,
        now: Instant,
        id: ConnectionId,
    ) -> Option<(bool, Instant, ConnectionId)> {
        let Activity { waiting, useful } = activity(connection.peer);
        let last = useful.map_or(connection.since, |useful| useful.max(connection.since));
        let spared = waiting
            || self.is_bootstrap(&connection.peer)
            || now.saturating_duration_since(last) < idle;
        (!spared).then_some((useful.is_some(), last, id))
    }

    fn is_bootstrap(&self, peer: &PeerId) -> bool {
        self.bootstrap.contains(peer) || self.bootstrap_found.contains(peer)
    }

    fn with(&self, peer: PeerId) -> impl Iterator<Item = &Connection> {
        self.open
            .values()
            .filter(move |connection| connection.peer == peer)
    }

    fn count(&self, direction: Direction) -> usize {
        let same = |connection: &&Connection| connection.direction == direction;
        self.open.values().filter(same).count()
    }

    fn of_network(&self, network: Option<Network>) -> usize {
        let open = self.open.values().map(|connection| connection.network);
        let pending = self.pending_inbound.values().copied();
        open.chain(pending)
            .filter(|other| *other == network)
            .count()
    }

    /// Above it, idle connections are closed.
    fn high(&self) -> usize {
        self.max - self.max / 4
    }

    /// Until there are so many.
    fn low(&self) -> usize {
        self.high() - self.max / 8
    }
}

#[cfg(test)]
#[path = "connections_tests.rs"]
mod tests;
