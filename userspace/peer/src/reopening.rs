// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A socket that is opened again when it has failed: the network of a machine comes and goes.

use std::io;
use std::time::Duration;

use tokio::time::{sleep_until, Instant};

/// The pause after the first failure; doubled with each further one.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause. What has worked for longer has not failed before.
const PAUSE_MAX: Duration = Duration::from_secs(5 * 60);

/// A socket, and how it is opened.
pub(crate) struct Reopening<S> {
    open: Box<dyn Fn() -> io::Result<S> + Send>,
    socket: Option<S>,
    /// When it was opened last, or is to be.
    at: Instant,
    pause: Duration,
}

impl<S> Reopening<S> {
    /// One that is opened when it is used first.
    pub(crate) fn new(open: impl Fn() -> io::Result<S> + Send + 'static) -> Self {
        Reopening {
            open: Box::new(open),
            socket: None,
            at: Instant::now(),
            pause: PAUSE_MIN,
        }
    }

    /// The socket, as soon as it is open. May be dropped and called again.
    pub(crate) async fn opened(&mut self) -> &mut S {
        while self.socket.is_none() {
            sleep_until(self.at).await;
            match (self.open)() {
                Ok(socket) => {
                    self.socket = Some(socket);
                    self.at = Instant::now();
                }
                Err(error) => self.failed(&error),
            }
        }
        match &mut self.socket {
            Some(socket) => socket,
            // It has just been opened.
            None => std::future::pending().await,
        }
    }

    /// Gives the socket up, to be opened again after a pause.
    pub(crate) fn failed(&mut self, error: &io::Error) {
        let now = Instant::now();
        if self.socket.take().is_some() && now - self.at > PAUSE_MAX {
            self.pause = PAUSE_MIN;
        }
        tracing::debug!(%error, pause = ?self.pause, "multicast DNS has failed, and is tried again");
        self.at = now + self.pause;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_opened_again_with_pauses_that_are_bounded() {
        let opened = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&opened);
        // Every third attempt succeeds.
        let mut socket = Reopening::new(move || {
            let number = counted.fetch_add(1, Ordering::Relaxed) + 1;
            match number % 3 {
                0 => Ok(number),
                _ => Err(io::ErrorKind::NetworkDown.into()),
            }
        });
        let start = Instant::now();
        let seconds = |from: Instant| from.elapsed().as_secs();
        assert_eq!(*socket.opened().await, 3);
        assert_eq!(seconds(start), 1 + 2);
        // What is open stays.
        assert_eq!(*socket.opened().await, 3);
        socket.failed(&io::ErrorKind::NetworkDown.into());
        assert_eq!(*socket.opened().await, 6);
        assert_eq!(seconds(start), 3 + 4 + 8 + 16);
        for _ in 0..20 {
            socket.failed(&io::ErrorKind::NetworkDown.into());
            socket.opened().await;
        }
        let before = Instant::now();
        socket.failed(&io::ErrorKind::NetworkDown.into());
        // Who waits may be interrupted.
        while tokio::time::timeout(Duration::from_secs(7), socket.opened())
            .await
            .is_err()
        {}
        assert_eq!(seconds(before), 3 * PAUSE_MAX.as_secs());
        // One that has worked for long is opened soon.
        tokio::time::sleep(2 * PAUSE_MAX).await;
        let before = Instant::now();
        socket.failed(&io::ErrorKind::NetworkDown.into());
        socket.opened().await;
        assert_eq!(seconds(before), 1 + 2 + 4);
        assert_eq!(opened.load(Ordering::Relaxed), 24 * 3);
    }
}
