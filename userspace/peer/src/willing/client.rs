// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Asks connected peers who is willing.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use libp2p_stream::Control;
use peerfs_replica::roster::WILLING_MAX;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{interval, sleep, timeout, MissedTickBehavior};
use tokio_util::task::AbortOnDropHandle;

use super::wire::Frames;
use super::{WillingBook, WILLING_PROTOCOL};
use crate::peer_table::PeerTable;
use crate::Event;

/// The peers that are listened to at a time: those that are nearest.
const PEERS_MAX: usize = 32;
/// How long opening a stream may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// How often peers are asked again whose streams have ended.
const AGAIN: Duration = Duration::from_secs(30);
/// Announcements of a stream that are taken as they come; further ones at most a hundred a second, for each is verified.
const BURST: usize = WILLING_MAX;
const PAUSE: Duration = Duration::from_millis(10);

/// Has connected peers say who is willing.
pub(crate) struct Listening {
    pub(crate) control: Control,
    pub(crate) peers: Arc<PeerTable>,
    pub(crate) events: broadcast::Receiver<Event>,
    pub(crate) book: Arc<dyn WillingBook>,
}

impl Listening {
    /// Runs until it is dropped, or the node ends.
    pub(crate) async fn run(mut self) {
        let mut streams: HashMap<PeerId, AbortOnDropHandle<()>> = HashMap::new();
        let mut again = interval(AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.open_streams(&mut streams);
            tokio::select! {
                event = self.events.recv() => match event {
                    Ok(Event::PeerDisconnected(peer)) => drop(streams.remove(&peer)),
                    Ok(_) => (),
                    Err(RecvError::Lagged(_)) => {
                        streams.retain(|peer, _| self.peers.is_connected(*peer));
                    }
                    Err(RecvError::Closed) => return,
                },
                _ = again.tick() => streams.retain(|_, stream| !stream.is_finished()),
            }
        }
    }

    fn open_streams(&self, streams: &mut HashMap<PeerId, AbortOnDropHandle<()>>) {
        for info in self.peers.infos() {
            if streams.len() >= PEERS_MAX {
                return;
            }
            streams.entry(info.id).or_insert_with(|| {
                let (control, book, peer) = (self.control.clone(), Arc::clone(&self.book), info.id);
                AbortOnDropHandle::new(tokio::spawn(async move {
                    if let Err(error) = listen_to(peer, control, book).await {
                        tracing::debug!(%peer, %error, "does not say who is willing");
                    }
                }))
            });
        }
    }
}

async fn listen_to(
    peer: PeerId,
    mut control: Control,
    book: Arc<dyn WillingBook>,
) -> io::Result<()> {
    let opened = timeout(OPEN_TIMEOUT, control.open_stream(peer, WILLING_PROTOCOL)).await?;
    let stream = opened.map_err(io::Error::other)?;
    listen(Frames::new(stream), book.as_ref()).await
}

/// Takes what is said on a stream, until it ends.
pub(super) async fn listen<S: AsyncRead + AsyncWrite + Unpin>(
    mut frames: Frames<S>,
    book: &dyn WillingBook,
) -> io::Result<()> {
    let mut announcements = 0_usize;
    while let Some(announcement) = frames.next().await? {
        book.offer(announcement);
        announcements += 1;
        if announcements > BURST {
            sleep(PAUSE).await;
        }
    }
    Ok(())
}
