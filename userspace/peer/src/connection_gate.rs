// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Carries out what [`Connections`] decides, as a part of the swarm.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use libp2p::core::transport::PortUse;
use libp2p::core::{ConnectedPoint, Endpoint};
use libp2p::swarm::behaviour::{
    ConnectionClosed, ConnectionEstablished, DialFailure, ListenFailure,
};
use libp2p::swarm::{
    dummy, CloseConnection, ConnectionDenied, ConnectionId, DialError, FromSwarm, NetworkBehaviour,
    THandlerInEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};

use crate::connections::Connections;
use crate::peer_table::PeerTable;
use crate::Direction;

/// Lets connections in, and closes those that are to go.
pub(crate) struct Behaviour {
    connections: Connections,
    peers: Arc<PeerTable>,
    /// With the peers that they are to.
    closing: VecDeque<(PeerId, ConnectionId)>,
}

impl Behaviour {
    pub(crate) fn new(connections: Connections, peers: Arc<PeerTable>) -> Self {
        Behaviour {
            connections,
            peers,
            closing: VecDeque::new(),
        }
    }

    /// Whether there is room for connections that nobody waits for.
    pub(crate) fn has_room(&self) -> bool {
        self.connections.has_room()
    }

    /// The network is another one: who could not be reached may be now.
    pub(crate) fn forget_failures(&mut self) {
        self.connections.forget_failures();
    }

    /// The node is about to dial by its own decision.
    pub(crate) fn expect(&mut self, id: ConnectionId, bootstrap: bool) {
        self.connections.expect(id, bootstrap);
    }

    /// Closes what is superfluous now. The swarm must be polled after it.
    pub(crate) fn tidy(&mut self, now: Instant) {
        let peers = &self.peers;
        let superfluous = self
            .connections
            .superfluous(|peer| peers.activity(peer), now);
        self.closing.extend(superfluous);
    }

    fn admit(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        direction: Direction,
    ) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        let peers = &self.peers;
        let victim = self
            .connections
            .admit(
                id,
                peer,
                direction,
                |peer| peers.activity(peer),
                Instant::now(),
            )
            .map_err(ConnectionDenied::new)?;
        self.closing.extend(victim);
        Ok(dummy::ConnectionHandler)
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        from: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.connections
            .knocks(id, from)
            .map_err(ConnectionDenied::new)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        self.admit(id, peer, Direction::Inbound)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let peers = &self.peers;
        self.connections
            .dials(id, peer, |peer| peers.activity(peer), Instant::now())
            .map_err(ConnectionDenied::new)?;
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        self.admit(id, peer, Direction::Outbound)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        let now = Instant::now();
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            }) => {
                let direction = match endpoint {
                    ConnectedPoint::Dialer { .. } => Direction::Outbound,
                    ConnectedPoint::Listener { .. } => Direction::Inbound,
                };
                self.connections.opened(
                    connection_id,
                    peer_id,
                    direction,
                    endpoint.is_relayed(),
                    now,
                );
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. }) => {
                self.connections.closed(connection_id);
            }
            FromSwarm::DialFailure(DialFailure {
                peer_id,
                error,
                connection_id,
            }) => {
                let says_something = matches!(
                    error,
                    DialError::Transport(_)
                        | DialError::NoAddresses
                        | DialError::WrongPeerId { .. }
                );
                let unreachable = peer_id.filter(|_| says_something);
                self.connections.failed(connection_id, unreachable, now);
            }
            FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => {
                self.connections.failed(connection_id, None, now);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, never: Infallible) {
        match never {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        // Woken by the swarm: it polls again after each event, and the driver polls it after `tidy`.
        match self.closing.pop_front() {
            Some((peer_id, connection)) => Poll::Ready(ToSwarm::CloseConnection {
                peer_id,
                connection: CloseConnection::One(connection),
            }),
            None => Poll::Pending,
        }
    }
}
