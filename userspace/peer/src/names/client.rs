// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Follows names at connected peers.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use peerfs_format::Digest;
use peerfs_names::SignedRecord;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::sleep;

use super::wire::{Frame, Frames};
use super::NameBook;
use crate::at_peers::AtPeers;

/// The peers at which names are followed at a time: those that are nearest.
pub(crate) const PEERS_MAX: usize = 64;
/// Records of a stream that are taken as they come; further ones at most a hundred a second, for each is verified.
const BURST: usize = 64;
const PAUSE: Duration = Duration::from_millis(10);

/// Follows at all connected peers what a book wants.
pub(crate) struct Follower {
    pub(crate) at: AtPeers,
    pub(crate) book: Arc<dyn NameBook>,
}

impl Follower {
    /// Runs until it is dropped, or the node ends.
    pub(crate) async fn run(self) {
        let Follower { mut at, book } = self;
        let mut wanted = book.wanted();
        loop {
            if wanted.borrow_and_update().is_empty() {
                at.close();
            } else {
                let (wanted, book) = (wanted.clone(), Arc::clone(&book));
                at.open(move |stream| {
                    let (wanted, book) = (wanted.clone(), Arc::clone(&book));
                    async move { follow(Frames::new(stream), wanted, book.as_ref()).await }
                });
            }
            let goes_on = tokio::select! {
                changed = wanted.changed() => changed.is_ok(),
                goes_on = at.changed() => goes_on,
            };
            if !goes_on {
                return;
            }
        }
    }
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
