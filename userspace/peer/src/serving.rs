// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Streams on which peers are told what the node's owner knows, one for each peer.

use std::collections::HashSet;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use libp2p::{PeerId, Stream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::inbound::Opened;

/// Serves the streams of one protocol.
pub(crate) struct Serving<Book: ?Sized> {
    /// None as long as the node's owner has nothing to tell.
    book: OnceLock<Arc<Book>>,
    seats: Seats,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl<Book: ?Sized> Serving<Book> {
    /// Serves nobody yet, and so many peers at a time.
    pub(crate) fn new(most: usize, tasks: TaskTracker, shutdown: CancellationToken) -> Self {
        Serving {
            book: OnceLock::new(),
            seats: Seats::new(most),
            tasks,
            shutdown,
        }
    }

    /// Whether from now on what is in this book is told; it is not if another one is already.
    pub(crate) fn open(&self, book: Arc<Book>) -> bool {
        self.book.set(book).is_ok()
    }

    /// Serves a stream that a peer opened, if it has no other one and there is room.
    pub(crate) fn accept<F>(&self, opened: Opened, serve: impl FnOnce(Stream, Arc<Book>) -> F)
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let Opened { peer, stream, .. } = opened;
        let Some(book) = self.book.get().cloned() else {
            return;
        };
        let Some(seat) = self.seats.take(peer) else {
            return;
        };
        let serving = serve(stream, book);
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            let _seat = seat;
            if let Some(Err(error)) = shutdown.run_until_cancelled(serving).await {
                tracing::debug!(%peer, %error, "a stream on which a peer was told something ended");
            }
        });
    }
}

/// Places for peers, one for each: so many.
struct Seats {
    most: usize,
    taken: Arc<Mutex<HashSet<PeerId>>>,
}

/// A peer's place, until it is dropped.
struct Seat {
    taken: Arc<Mutex<HashSet<PeerId>>>,
    peer: PeerId,
}

impl Seats {
    fn new(most: usize) -> Self {
        Seats {
            most,
            taken: Arc::default(),
        }
    }

    /// A place for a peer, if it has none and there is one.
    fn take(&self, peer: PeerId) -> Option<Seat> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = taken.len() < self.most && taken.insert(peer);
        is_new.then(|| Seat {
            taken: Arc::clone(&self.taken),
            peer,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.remove(&self.peer);
    }
}
