// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Sends records of names to those who follow them.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use peerfs_format::Digest;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::wire::{Frame, Frames};
use super::NameBook;
use crate::inbound::Opened;
use crate::serving::Serving;

/// The names that a peer may follow.
pub(super) const TOPICS_MAX: usize = 256;
/// The peers that follow names, one stream each.
const FOLLOWERS_MAX: usize = 512;

/// Serves the streams on which peers follow names.
pub(crate) struct NameServer(Serving<dyn NameBook>);

impl NameServer {
    pub(crate) fn new(tasks: TaskTracker, shutdown: CancellationToken) -> Self {
        NameServer(Serving::new(FOLLOWERS_MAX, tasks, shutdown))
    }

    /// As [`Serving::open`].
    pub(crate) fn open(&self, book: Arc<dyn NameBook>) -> bool {
        self.0.open(book)
    }

    /// As [`Serving::accept`].
    pub(crate) fn accept(&self, opened: Opened) {
        let serve = |stream, book: Arc<dyn NameBook>| async move {
            serve(Frames::new(stream), book.as_ref()).await
        };
        self.0.accept(opened, serve);
    }
}

/// Sends what is known of the topics that are followed, and what becomes known of them. A question is not read before the
/// last one was answered, so that what is not read holds up its own stream alone.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut frames: Frames<S>,
    book: &dyn NameBook,
) -> io::Result<()> {
    let mut followed = BTreeSet::new();
    // Before anything is told, so that nothing is missed.
    let mut changes = book.changes();
    loop {
        tokio::select! {
            frame = frames.next() => match frame? {
                None => return Ok(()),
                Some(Frame::Follow(topic)) => {
                    followed.insert(topic);
                    if followed.len() > TOPICS_MAX {
                        return Err(io::Error::other("too many names are followed"));
                    }
                    tell(&mut frames, book, &topic).await?;
                }
                Some(Frame::Leave(topic)) => {
                    followed.remove(&topic);
                }
                Some(_) => return Err(io::Error::other("an answer that nobody asked for")),
            },
            changed = changes.recv() => match changed {
                Ok(topic) if followed.contains(&topic) => tell(&mut frames, book, &topic).await?,
                Ok(_) => (),
                Err(RecvError::Lagged(_)) => for topic in &followed {
                    tell(&mut frames, book, topic).await?;
                },
                Err(RecvError::Closed) => return Ok(()),
            },
        }
    }
}

async fn tell<S: AsyncRead + AsyncWrite + Unpin>(
    frames: &mut Frames<S>,
    book: &dyn NameBook,
    topic: &Digest,
) -> io::Result<()> {
    let records = book.records(topic);
    if records.is_empty() {
        return frames.send(Frame::Unknown(*topic)).await;
    }
    for record in records {
        let bytes = Bytes::copy_from_slice(record.bytes());
        frames.send(Frame::Record(*topic, bytes)).await?;
    }
    Ok(())
}
