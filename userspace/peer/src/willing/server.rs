// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Tells peers who is willing.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::wire::Frames;
use super::WillingBook;
use crate::inbound::Opened;
use crate::serving::Serving;

/// The peers that are told, on one stream each.
const LISTENERS_MAX: usize = 512;

/// Serves the streams on which peers are told who is willing.
pub(crate) struct WillingServer(Serving<dyn WillingBook>);

impl WillingServer {
    pub(crate) fn new(tasks: TaskTracker, shutdown: CancellationToken) -> Self {
        WillingServer(Serving::new(LISTENERS_MAX, tasks, shutdown))
    }

    /// As [`Serving::open`].
    pub(crate) fn open(&self, book: Arc<dyn WillingBook>) -> bool {
        self.0.open(book)
    }

    /// As [`Serving::accept`].
    pub(crate) fn accept(&self, opened: Opened) {
        let serve = |stream, book: Arc<dyn WillingBook>| async move {
            serve(Frames::new(stream), book.as_ref()).await
        };
        self.0.accept(opened, serve);
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
