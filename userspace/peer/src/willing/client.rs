// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Asks connected peers who is willing.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use peerfs_replica::roster::WILLING_MAX;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;

use super::wire::Frames;
use super::WillingBook;
use crate::at_peers::AtPeers;

/// The peers that are listened to at a time: those that are nearest.
pub(crate) const PEERS_MAX: usize = 32;
/// Announcements of a stream that are taken as they come; further ones at most a hundred a second, for each is verified.
const BURST: usize = WILLING_MAX;
const PAUSE: Duration = Duration::from_millis(10);

/// Has connected peers say who is willing.
pub(crate) struct Listening {
    pub(crate) at: AtPeers,
    pub(crate) book: Arc<dyn WillingBook>,
}

impl Listening {
    /// Runs until it is dropped, or the node ends.
    pub(crate) async fn run(self) {
        let Listening { mut at, book } = self;
        loop {
            let book = Arc::clone(&book);
            at.open(move |stream| {
                let book = Arc::clone(&book);
                async move { listen(Frames::new(stream), book.as_ref()).await }
            });
            if !at.changed().await {
                return;
            }
        }
    }
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
