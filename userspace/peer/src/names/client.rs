// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Follows names at connected peers.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use libp2p_stream::Control;
use peerfs_format::Digest;
use peerfs_names::SignedRecord;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio::time::{interval, sleep, timeout, MissedTickBehavior};
use tokio_util::task::AbortOnDropHandle;

use super::wire::{Frame, Frames};
use super::{NameBook, NAMES_PROTOCOL};
use crate::peer_table::PeerTable;
use crate::Event;

/// The peers at which names are followed at a time: those that are nearest.
const PEERS_MAX: usize = 64;
/// How long opening a stream may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// How often peers are asked again whose streams have ended.
const AGAIN: Duration = Duration::from_secs(30);
/// Records of a stream that are taken as they come; further ones at most a hundred a second, for each is verified.
const BURST: usize = 64;
const PAUSE: Duration = Duration::from_millis(10);

/// Follows at all connected peers what a book wants.
pub(crate) struct Follower {
    pub(crate) control: Control,
    pub(crate) peers: Arc<PeerTable>,
    pub(crate) events: broadcast::Receiver<Event>,
    pub(crate) book: Arc<dyn NameBook>,
}

impl Follower {
    /// Runs until it is dropped, or the node ends.
    pub(crate) async fn run(mut self) {
        let mut wanted = self.book.wanted();
        let mut streams: HashMap<PeerId, AbortOnDropHandle<()>> = HashMap::new();
        let mut again = interval(AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if wanted.borrow_and_update().is_empty() {
                streams.clear();
            } else {
                self.open_streams(&mut streams, &wanted);
            }
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() {
                    return;
                },
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

    fn open_streams(
        &self,
        streams: &mut HashMap<PeerId, AbortOnDropHandle<()>>,
        wanted: &watch::Receiver<Arc<BTreeSet<Digest>>>,
    ) {
        for info in self.peers.infos() {
            if streams.len() >= PEERS_MAX {
                return;
            }
            streams.entry(info.id).or_insert_with(|| {
                let (control, book) = (self.control.clone(), Arc::clone(&self.book));
                let (peer, wanted) = (info.id, wanted.clone());
                AbortOnDropHandle::new(tokio::spawn(async move {
                    if let Err(error) = follow_at(peer, control, wanted, book).await {
                        tracing::debug!(%peer, %error, "names can't be followed there");
                    }
                }))
            });
        }
    }
}

async fn follow_at(
    peer: PeerId,
    mut control: Control,
    wanted: watch::Receiver<Arc<BTreeSet<Digest>>>,
    book: Arc<dyn NameBook>,
) -> io::Result<()> {
    let opened = timeout(OPEN_TIMEOUT, control.open_stream(peer, NAMES_PROTOCOL)).await?;
    let stream = opened.map_err(io::Error::other)?;
    follow(Frames::new(stream), wanted, book.as_ref()).await
}

/// Follows on a stream what is wanted, until it ends.
pub(super) async fn follow<S: AsyncRead + AsyncWrite + Unpin>(
    mut frames: Frames<S>,
    mut wanted: watch::Receiver<Arc<BTreeSet<Digest>>>,
    book: &dyn NameBook,
) -> io::Result<()> {
    let mut followed = BTreeSet::new();
    let mut records = 0_usize;
    loop {
        let topics = wanted.borrow_and_update().clone();
        for topic in followed.difference(&topics) {
            frames.send(Frame::Leave(*topic)).await?;
        }
        for topic in topics.difference(&followed) {
            frames.send(Frame::Follow(*topic)).await?;
        }
        followed.clone_from(&topics);
        let frame = tokio::select! {
            changed = wanted.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return Ok(()),
            },
            frame = frames.next() => frame?,
        };
        match frame {
            None => return Ok(()),
            Some(Frame::Unknown(_)) => (),
            Some(Frame::Record(topic, bytes)) => {
                let record = SignedRecord::parse(&bytes).map_err(io::Error::other)?;
                if record.record().name.topic() != topic {
                    return Err(io::Error::other("a record of another name"));
                }
                // It may have been on its way when it was not wanted any more.
                if followed.contains(&topic) {
                    book.offer(record).await;
                }
            }
            Some(_) => return Err(io::Error::other("a question in the place of an answer")),
        }
        records += 1;
        if records > BURST {
            sleep(PAUSE).await;
        }
    }
}
