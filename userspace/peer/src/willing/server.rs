// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Tells peers who is willing.

use std::io;
use std::sync::{Arc, OnceLock};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::wire::Frames;
use super::WillingBook;
use crate::inbound::Opened;
use crate::seats::Seats;

/// The peers that are told, on one stream each.
const LISTENERS_MAX: usize = 512;

/// Serves the streams on which peers are told who is willing.
pub(crate) struct WillingServer {
    /// None as long as the node's owner has nothing to do with it.
    book: OnceLock<Arc<dyn WillingBook>>,
    seats: Seats,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl WillingServer {
    pub(crate) fn new(tasks: TaskTracker, shutdown: CancellationToken) -> Self {
        WillingServer {
            book: OnceLock::new(),
            seats: Seats::new(LISTENERS_MAX),
            tasks,
            shutdown,
        }
    }

    /// Whether from now on what is in this book is told; it is not if another one is already.
    pub(crate) fn open(&self, book: Arc<dyn WillingBook>) -> bool {
        self.book.set(book).is_ok()
    }

    /// Serves a stream that a peer opened, if it has no other one and there is room.
    pub(crate) fn accept(&self, Opened { peer, stream, .. }: Opened) {
        let Some(book) = self.book.get().cloned() else {
            return;
        };
        let Some(seat) = self.seats.take(peer) else {
            return;
        };
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            let _seat = seat;
            let serving = async { serve(Frames::new(stream), book.as_ref()).await };
            if let Some(Err(error)) = shutdown.run_until_cancelled(serving).await {
                tracing::debug!(%peer, %error, "a stream of announcements ended");
            }
        });
    }
}

/// Sends what is known, and what becomes known.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut frames: Frames<S>,
    book: &dyn WillingBook,
) -> io::Result<()> {
    // Before anything is told, so that nothing is missed.
    let mut changes = book.changes();
    for announcement in book.announcements() {
        frames.send(&announcement).await?;
    }
    loop {
        tokio::select! {
            said = frames.next() => match said? {
                None => return Ok(()),
                Some(_) => return Err(io::Error::other("an answer that nobody asked for")),
            },
            changed = changes.recv() => match changed {
                Ok(announcement) => frames.send(&announcement).await?,
                Err(RecvError::Lagged(_)) => for announcement in book.announcements() {
                    frames.send(&announcement).await?;
                },
                Err(RecvError::Closed) => return Ok(()),
            },
        }
    }
}
