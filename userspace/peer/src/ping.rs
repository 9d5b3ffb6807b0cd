// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Asks the ends of connections whether they are there, as [`Heartbeat`] says.
//!
//! The protocol is libp2p's: 32 bytes go there and come back, on a stream that stays open. libp2p's own part asks at
//! one pace, whether somebody waits or not.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt};
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::core::Endpoint;
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished};
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId,
    FromSwarm, NetworkBehaviour, NotifyHandler, StreamUpgradeError, SubstreamProtocol,
    THandlerInEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol};

use crate::heartbeat::{Heartbeat, Step};
use crate::peer_table::PeerTable;

const PROTOCOL: StreamProtocol = StreamProtocol::new("/ipfs/ping/1.0.0");
/// Bytes of a question, and of its answer.
const LENGTH: usize = 32;

/// The round-trip time to a peer was measured.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) peer: PeerId,
    pub(crate) rtt: Duration,
}

/// Asks, and answers.
pub(crate) struct Behaviour {
    heartbeat: Heartbeat,
    peers: Arc<PeerTable>,
    /// What the swarm has not taken yet.
    events: VecDeque<ToSwarm<Measured, Ask>>,
}

impl Behaviour {
    pub(crate) fn new(peers: Arc<PeerTable>) -> Self {
        Behaviour {
            heartbeat: Heartbeat::default(),
            peers,
            events: VecDeque::new(),
        }
    }

    /// Asks whom it is time to ask, and closes what does not answer. The swarm must be polled after it.
    pub(crate) fn tidy(&mut self, now: Instant) {
        let peers = &self.peers;
        let steps = self.heartbeat.steps(|peer| peers.activity(peer), now);
        self.events.extend(steps.into_iter().map(|step| match step {
            Step::Ask(peer_id, id) => ToSwarm::NotifyHandler {
                peer_id,
                handler: NotifyHandler::One(id),
                event: Ask,
            },
            Step::Close(peer_id, id) => {
                tracing::debug!(peer = %peer_id, "does not answer any more");
                ToSwarm::CloseConnection {
                    peer_id,
                    connection: CloseConnection::One(id),
                }
            }
        }));
    }

    /// Each connection may be dead.
    pub(crate) fn doubt(&mut self) {
        self.heartbeat.doubt();
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Measured;

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

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id,
                ..
            }) => self.heartbeat.opened(connection_id, peer_id),
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. }) => {
                self.heartbeat.closed(connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: Heard) {
        match event {
            Heard::Answer(rtt) => {
                self.heartbeat.heard(id, Instant::now());
                self.events
                    .push_back(ToSwarm::GenerateEvent(Measured { peer, rtt }));
            }
            Heard::Question => self.heartbeat.heard(id, Instant::now()),
            Heard::Nothing => self.heartbeat.mute(id),
        }
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Measured, THandlerInEvent<Self>>> {
        // Woken by the swarm: it polls again after each event, and the driver polls it after `tidy`.
        match self.events.pop_front() {
            Some(event) => Poll::Ready(event),
            None => Poll::Pending,
        }
    }
}

/// What a connection is to do: ask.
#[derive(Debug)]
pub(crate) struct Ask;

/// What came of it.
#[derive(Debug)]
pub(crate) enum Heard {
    /// The other end has answered after this time.
    Answer(Duration),
    /// The other end has asked.
    Question,
    /// The other end does not speak the protocol.
    Nothing,
}

type Answered = io::Result<(Stream, Duration)>;

/// Asks and answers on one connection.
#[derive(Default)]
pub(crate) struct Handler {
    outbound: Outbound,
    inbound: Option<BoxFuture<'static, io::Result<Stream>>>,
    heard: VecDeque<Heard>,
}

#[derive(Default)]
enum Outbound {
    #[default]
    Closed,
    /// A stream is wanted, to ask on it.
    Wanted,
    Opening,
    Idle(Stream),
    /// Whether the stream has been used before, and may be one that the other end has closed.
    Asking(BoxFuture<'static, Answered>, bool),
}

impl Handler {
    fn poll_outbound(&mut self, context: &mut Context<'_>) {
        let Outbound::Asking(asking, is_used) = &mut self.outbound else {
            return;
        };
        let Poll::Ready(answered) = asking.poll_unpin(context) else {
            return;
        };
        self.outbound = match answered {
            Ok((stream, rtt)) => {
                self.heard.push_back(Heard::Answer(rtt));
                Outbound::Idle(stream)
            }
            Err(_) if *is_used => Outbound::Wanted,
            // Without an answer the connection is closed in time.
            Err(_) => Outbound::Closed,
        };
    }

    fn poll_inbound(&mut self, context: &mut Context<'_>) {
        let Some(answering) = &mut self.inbound else {
            return;
        };
        self.inbound = match answering.poll_unpin(context) {
            Poll::Pending => return,
            Poll::Ready(Ok(stream)) => {
                self.heard.push_back(Heard::Question);
                // Its waker is set when it is polled next, after what was heard is taken.
                Some(answer(stream).boxed())
            }
            Poll::Ready(Err(_)) => None,
        };
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Ask;
    type ToBehaviour = Heard;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ())
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Heard>> {
        self.poll_inbound(context);
        self.poll_outbound(context);
        if let Some(heard) = self.heard.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(heard));
        }
        if matches!(self.outbound, Outbound::Wanted) {
            self.outbound = Outbound::Opening;
            let protocol = SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ());
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, Ask: Ask) {
        self.outbound = match std::mem::take(&mut self.outbound) {
            Outbound::Closed => Outbound::Wanted,
            Outbound::Idle(stream) => Outbound::Asking(ask(stream).boxed(), true),
            // It is being done.
            other => other,
        };
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: mut stream,
                ..
            }) => {
                stream.ignore_for_keep_alive();
                // The latest one only: more than one is of no use to anybody.
                self.inbound = Some(answer(stream).boxed());
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: mut stream,
                ..
            }) => {
                stream.ignore_for_keep_alive();
                self.outbound = Outbound::Asking(ask(stream).boxed(), false);
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, .. }) => {
                self.outbound = Outbound::Closed;
                if matches!(error, StreamUpgradeError::NegotiationFailed) {
                    self.heard.push_back(Heard::Nothing);
                }
            }
            _ => {}
        }
    }
}

async fn ask(mut stream: Stream) -> Answered {
    let mut question = [0; LENGTH];
    fastrand::Rng::new().fill(&mut question);
    stream.write_all(&question).await?;
    stream.flush().await?;
    let asked = Instant::now();
    let mut answer = [0; LENGTH];
    stream.read_exact(&mut answer).await?;
    if answer != question {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((stream, asked.elapsed()))
}

async fn answer(mut stream: Stream) -> io::Result<Stream> {
    let mut question = [0; LENGTH];
    stream.read_exact(&mut question).await?;
    stream.write_all(&question).await?;
    stream.flush().await?;
    Ok(stream)
}
