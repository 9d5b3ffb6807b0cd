// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What comes into the store behind a node.

use std::sync::{Mutex, MutexGuard, PoisonError};

use peerfs_exchange::{Arrival, Arrivals};
use tokio::sync::watch;

/// Where the owner of a node says what comes into its store: those who follow an image are told.
#[derive(Debug)]
pub struct ArrivalLog {
    arrivals: Mutex<Arrivals>,
    /// The cursor behind the last one.
    end: watch::Sender<u64>,
}

impl Default for ArrivalLog {
    fn default() -> Self {
        ArrivalLog {
            arrivals: Mutex::default(),
            end: watch::channel(0).0,
        }
    }
}

impl ArrivalLog {
    /// Notes that something came or went. Does not block.
    pub fn note(&self, arrival: Arrival) {
        let mut arrivals = self.lock();
        arrivals.push(arrival);
        let end = arrivals.end();
        drop(arrivals);
        self.end.send_replace(end);
    }

    /// Changes when something is noted.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.end.subscribe()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Arrivals> {
        // A log is valid after every step.
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
