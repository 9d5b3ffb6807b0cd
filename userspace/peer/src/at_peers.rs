// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Streams that this node has with each of the peers it is connected to.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use libp2p::{PeerId, Stream, StreamProtocol};
use libp2p_stream::Control;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{interval, timeout, Interval, MissedTickBehavior};
use tokio_util::task::AbortOnDropHandle;

use crate::peer_table::PeerTable;
use crate::Event;

/// How long opening a stream may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// How often peers are asked again whose streams have ended.
const AGAIN: Duration = Duration::from_secs(30);

/// A stream with each connected peer, the nearest first, up to a bound.
pub(crate) struct AtPeers {
    control: Control,
    protocol: StreamProtocol,
    most: usize,
    peers: Arc<PeerTable>,
    events: broadcast::Receiver<Event>,
    again: Interval,
    streams: HashMap<PeerId, AbortOnDropHandle<()>>,
}

impl AtPeers {
    /// With nobody yet, and at most so many at a time. Must be called within a tokio runtime.
    pub(crate) fn new(
        control: Control,
        protocol: StreamProtocol,
        most: usize,
        peers: Arc<PeerTable>,
        events: broadcast::Receiver<Event>,
    ) -> Self {
        let mut again = interval(AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        AtPeers {
            control,
            protocol,
            most,
            peers,
            events,
            again,
            streams: HashMap::new(),
        }
    }

    /// Opens streams with those that have none; `speak` is what is done on each.
    pub(crate) fn open<F>(&mut self, speak: impl Fn(Stream) -> F + Clone + Send + 'static)
    where
        F: Future<Output = io::Result<()>> + Send,
    {
        for info in self.peers.infos() {
            if self.streams.len() >= self.most {
                return;
            }
            let peer = info.id;
            self.streams.entry(peer).or_insert_with(|| {
                let (mut control, speak) = (self.control.clone(), speak.clone());
                let protocol = self.protocol.clone();
                let spoken = async move {
                    let opening = control.open_stream(peer, protocol);
                    let opened = timeout(OPEN_TIMEOUT, opening).await?;
                    speak(opened.map_err(io::Error::other)?).await
                };
                let protocol = self.protocol.clone();
                AbortOnDropHandle::new(tokio::spawn(async move {
                    if let Err(error) = spoken.await {
                        tracing::debug!(%peer, %protocol, %error, "a stream with a peer ended");
                    }
                }))
            });
        }
    }

    /// Ends all streams.
    pub(crate) fn close(&mut self) {
        self.streams.clear();
    }

    /// Waits until streams may be missing; false if the node has ended. May be dropped.
    pub(crate) async fn changed(&mut self) -> bool {
        tokio::select! {
            event = self.events.recv() => match event {
                Ok(Event::PeerDisconnected(peer)) => drop(self.streams.remove(&peer)),
                Ok(_) => (),
                Err(RecvError::Lagged(_)) => {
                    self.streams.retain(|peer, _| self.peers.is_connected(*peer));
                }
                Err(RecvError::Closed) => return false,
            },
            _ = self.again.tick() => self.streams.retain(|_, stream| !stream.is_finished()),
        }
        true
    }
}
