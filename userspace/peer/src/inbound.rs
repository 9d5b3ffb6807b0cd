// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The streams of exchange, names and announcements that peers open, as events of the swarm.
//!
//! libp2p-stream, which opens ours, hands those of others to a channel with room for one, and drops a
//! stream that finds it full: with many peers, or a busy machine, each loses some. Here a stream waits
//! in the task of its connection until the swarm takes it, so a connection is held up and nothing is
//! lost.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{ready, Ready};
use std::task::{Context, Poll};

use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{DeniedUpgrade, InboundUpgrade, UpgradeInfo};
use libp2p::core::Endpoint;
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
    NetworkBehaviour, SubstreamProtocol, THandlerInEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol};

use crate::client::EXCHANGE_PROTOCOL;
use crate::names::NAMES_PROTOCOL;
use crate::willing::WILLING_PROTOCOL;
use peerfs_exchange::limits::STREAMS_PER_PEER;

/// A stream that a peer opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) peer: PeerId,
    pub(crate) protocol: StreamProtocol,
    pub(crate) stream: Stream,
}

/// Accepts streams.
#[derive(Default)]
pub(crate) struct Behaviour {
    /// What the swarm has not taken yet. It polls after each that comes, so there are few.
    opened: VecDeque<Opened>,
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Opened;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        _: ConnectionId,
        (stream, protocol): Negotiated,
    ) {
        self.opened.push_back(Opened {
            peer,
            protocol,
            stream,
        });
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Opened, THandlerInEvent<Self>>> {
        // Woken by the swarm: it polls again after each event of a handler.
        match self.opened.pop_front() {
            Some(opened) => Poll::Ready(ToSwarm::GenerateEvent(opened)),
            None => Poll::Pending,
        }
    }
}

/// A stream, and what is spoken on it.
type Negotiated = (Stream, StreamProtocol);

/// Takes a stream of any of the protocols as it is.
pub(crate) struct Any;

impl UpgradeInfo for Any {
    type Info = StreamProtocol;
    type InfoIter = [StreamProtocol; 3];

    fn protocol_info(&self) -> Self::InfoIter {
        [EXCHANGE_PROTOCOL, NAMES_PROTOCOL, WILLING_PROTOCOL]
    }
}

impl InboundUpgrade<Stream> for Any {
    type Output = Negotiated;
    type Error = Infallible;
    type Future = Ready<Result<Negotiated, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

/// Accepts the streams of one connection.
#[derive(Default)]
pub(crate) struct Handler {
    /// At most as many as a peer may have, that the swarm has not taken; more are closed.
    opened: VecDeque<Negotiated>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Negotiated;
    type InboundProtocol = Any;
    type OutboundProtocol = DeniedUpgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(Any, ())
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Negotiated>> {
        // Woken by the connection: it polls again after each stream.
        match self.opened.pop_front() {
            Some(stream) => Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(stream)),
            None => Poll::Pending,
        }
    }

    fn on_behaviour_event(&mut self, never: Infallible) {
        match never {}
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>,
    ) {
        if let ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
            protocol: stream,
            ..
        }) = event
        {
            if self.opened.len() < STREAMS_PER_PEER {
                self.opened.push_back(stream);
            }
        }
    }
}
