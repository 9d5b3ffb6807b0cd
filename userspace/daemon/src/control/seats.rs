// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How many clients there may be: some that get an answer at once, and others that stay for long.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Clients at a time that get an answer; others wait in the socket's queue.
const SHORT_MAX: usize = 16;
/// Clients at a time that wait for images or events; others are refused.
const LONG_MAX: usize = 64;

/// The seats that there are.
pub(super) struct Seats {
    short: Arc<Semaphore>,
    long: Arc<Semaphore>,
}

/// The seat of a client.
pub(super) struct Seat {
    taken: OwnedSemaphorePermit,
    long: Arc<Semaphore>,
}

impl Seats {
    pub(super) fn new() -> Self {
        Seats {
            short: Arc::new(Semaphore::new(SHORT_MAX)),
            long: Arc::new(Semaphore::new(LONG_MAX)),
        }
    }

    /// A seat, as soon as there is one; None never: nobody closes them.
    pub(super) async fn take(&self) -> Option<Seat> {
        let taken = Arc::clone(&self.short).acquire_owned().await.ok()?;
        Some(Seat {
            taken,
            long: Arc::clone(&self.long),
        })
    }
}

impl Seat {
    /// Makes room for those who get an answer at once; false if there are too many others.
    pub(super) fn change_to_long(&mut self) -> bool {
        match Arc::clone(&self.long).try_acquire_owned() {
            Ok(taken) => {
                self.taken = taken;
                true
            }
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_stays_for_long_makes_room_until_there_are_too_many() {
        let seats = Seats::new();
        let mut staying = Vec::new();
        for _ in 0..LONG_MAX {
            let mut seat = seats.take().await.unwrap();
            assert!(seat.change_to_long());
            staying.push(seat);
        }
        let mut seat = seats.take().await.unwrap();
        assert!(!seat.change_to_long());
        staying.pop();
        assert!(seat.change_to_long());
        assert_eq!(seats.short.available_permits(), SHORT_MAX);
    }
}
