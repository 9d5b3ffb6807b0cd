// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Lets frames through in turn, and says who is served.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use peerfs_exchange::uplink::{Allotments, Copies, Slots, Turn, Turns};
use peerfs_exchange::{Found, Priority, Refused, Step, Suggestion};
use peerfs_format::Digest;
use tokio::sync::{oneshot, Notify};
use tokio::time::sleep_until;

/// Whose bytes are not taken for so long is held up by the line, or is slow.
const HELD_UP: Duration = Duration::from_millis(20);

/// The line to all peers.
pub(crate) struct Upload {
    /// With a limit, who waits for it.
    queue: Option<Mutex<Queue>>,
    changed: Notify,
    slots: Mutex<Slots<PeerId>>,
    copies: Mutex<Copies>,
    allotments: Mutex<Allotments>,
}

struct Queue {
    turns: Turns<PeerId>,
    waiting: HashMap<Turn, oneshot::Sender<()>>,
}

impl Upload {
    /// `limit` is in bytes a second.
    pub(crate) fn new(limit: Option<NonZeroU64>) -> Self {
        let now = Instant::now();
        Upload {
            queue: limit.map(|rate| {
                Mutex::new(Queue {
                    turns: Turns::new(rate, now),
                    waiting: HashMap::new(),
                })
            }),
            changed: Notify::new(),
            slots: Mutex::new(Slots::new(limit, now)),
            copies: Mutex::default(),
            allotments: Mutex::new(Allotments::new(fastrand::u64(..))),
        }
    }

    /// Tells those who wait that it is their turn.
    pub(crate) async fn run(&self) {
        let Some(queue) = &self.queue else {
            return;
        };
        loop {
            let next_at = {
                let Queue { turns, waiting } = &mut *lock(queue);
                while let Some(turn) = turns.next(Instant::now()) {
                    if let Some(waiting) = waiting.remove(&turn) {
                        // Who has gone in this moment has had its turn.
                        let _ = waiting.send(());
                    }
                }
                turns.next_at()
            };
            tokio::select! {
                () = self.changed.notified() => (),
                () = until(next_at) => (),
            }
        }
    }

    /// Waits until a frame with so many bytes of data may be written to a peer.
    pub(crate) async fn turn(&self, peer: PeerId, priority: Priority, bytes: u32) {
        let Some(queue) = self.queue.as_ref().filter(|_| bytes > 0) else {
            return;
        };
        let (told, turn_comes) = oneshot::channel();
        let turn = {
            let Queue { turns, waiting } = &mut *lock(queue);
            let turn = turns.ask(peer, priority, bytes);
            waiting.insert(turn, told);
            turn
        };
        let _waits = Waits {
            queue,
            peer,
            priority,
            turn,
        };
        self.changed.notify_one();
        // The sender is dropped with the queue.
        let _ = turn_comes.await;
    }

    /// A frame with so many bytes of data was taken, after so long.
    pub(crate) fn sent(&self, peer: PeerId, bytes: u32, after: Duration) {
        if bytes > 0 {
            lock(&self.slots).sent(peer, bytes, after >= HELD_UP, Instant::now());
        }
    }

    /// Whether something is read for a peer now.
    pub(crate) fn serves(&self, peer: PeerId, step: &Step) -> Result<(), Refused> {
        match step {
            Step::Chunk {
                priority: Priority::Background,
                ..
            } => lock(&self.slots).ask(peer, Instant::now()),
            _ => Ok(()),
        }
    }

    /// Counts a chunk that is sent.
    pub(crate) fn note_copy(&self, step: &Step, found: &Found) {
        if let (Step::Chunk { pack, number, .. }, Found::Chunk(_)) = (step, found) {
            lock(&self.copies).add(pack, *number);
            lock(&self.allotments).sent(pack, *number, Instant::now());
        }
    }

    /// What to ask for next of a pack of so many chunks.
    pub(crate) fn suggest(&self, pack: &Digest, chunks: u32, count: u32) -> Suggestion {
        lock(&self.allotments).suggest(pack, chunks, count as usize, Instant::now())
    }

    /// How often chunks were sent.
    pub(crate) fn copies(&self) -> MutexGuard<'_, Copies> {
        lock(&self.copies)
    }
}

/// Somebody who waits for its turn.
struct Waits<'a> {
    queue: &'a Mutex<Queue>,
    peer: PeerId,
    priority: Priority,
    turn: Turn,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let mut queue = lock(self.queue);
        queue.turns.forget(self.peer, self.priority, self.turn);
        queue.waiting.remove(&self.turn);
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// Nothing that is done under these locks can leave the data half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
