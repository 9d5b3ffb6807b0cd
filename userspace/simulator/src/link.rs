// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A node's line.

use std::collections::{BTreeMap, VecDeque};

use peerfs_exchange::limits::PIECE_MAX;
use peerfs_exchange::scheduler::TransferId;

/// Nanoseconds since the beginning.
pub(crate) type Time = u64;

pub(crate) const SECOND: Time = 1_000_000_000;
pub(crate) const MILLISECOND: Time = SECOND / 1000;

/// A chunk that somebody is to be sent.
pub(crate) struct Sending {
    pub(crate) transfer: TransferId,
    pub(crate) chunk: u32,
    /// Bytes of it that were not sent.
    pub(crate) left: u32,
}

/// What is on the line.
#[derive(Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) to: u32,
    pub(crate) transfer: TransferId,
    pub(crate) chunk: u32,
    pub(crate) bytes: u32,
    /// The chunk's last.
    pub(crate) is_last: bool,
}

/// A line out: sends piece after piece, first what is waited for; those who wait take turns.
pub(crate) struct Uplink {
    rate: u64,
    pub(crate) is_sending: bool,
    demand: Turns,
    bulk: Turns,
    /// Bytes of data that were sent.
    pub(crate) sent: u64,
}

/// The pieces for several nodes, which take turns.
#[derive(Default)]
struct Turns {
    queues: BTreeMap<u32, VecDeque<Sending>>,
    turn: VecDeque<u32>,
}

impl Turns {
    fn push(&mut self, to: u32, sending: Sending) {
        let queue = self.queues.entry(to).or_default();
        if queue.is_empty() {
            self.turn.push_back(to);
        }
        queue.push_back(sending);
    }

    fn next(&mut self) -> Option<Piece> {
        let to = self.turn.pop_front()?;
        let queue = self.queues.get_mut(&to)?;
        let sending = queue.front_mut()?;
        let bytes = sending.left.min(PIECE_MAX);
        sending.left -= bytes;
        let piece = Piece {
            to,
            transfer: sending.transfer,
            chunk: sending.chunk,
            bytes,
            is_last: sending.left == 0,
        };
        if piece.is_last {
            queue.pop_front();
        }
        if queue.is_empty() {
            self.queues.remove(&to);
        } else {
            self.turn.push_back(to);
        }
        Some(piece)
    }

    fn cancel(&mut self, to: u32, transfer: TransferId) {
        if let Some(queue) = self.queues.get_mut(&to) {
            queue.retain(|sending| sending.transfer != transfer);
            if queue.is_empty() {
                self.queues.remove(&to);
                self.turn.retain(|&other| other != to);
            }
        }
    }
}

impl Uplink {
    pub(crate) fn new(rate: u64) -> Self {
        Uplink {
            rate,
            is_sending: false,
            demand: Turns::default(),
            bulk: Turns::default(),
            sent: 0,
        }
    }

    pub(crate) fn push(&mut self, to: u32, sending: Sending, is_demand: bool) {
        if is_demand {
            self.demand.push(to, sending);
        } else {
            self.bulk.push(to, sending);
        }
    }

    /// The next piece, and how long it is on the line.
    pub(crate) fn next(&mut self) -> Option<(Piece, Time)> {
        let piece = self.demand.next().or_else(|| self.bulk.next())?;
        self.sent += u64::from(piece.bytes);
        Some((piece, duration(piece.bytes, self.rate)))
    }

    pub(crate) fn cancel(&mut self, to: u32, transfer: TransferId) {
        self.demand.cancel(to, transfer);
        self.bulk.cancel(to, transfer);
    }
}

/// A line in: what arrives waits for what came before it.
pub(crate) struct Downlink {
    rate: u64,
    free_at: Time,
}

impl Downlink {
    pub(crate) fn new(rate: u64) -> Self {
        Downlink { rate, free_at: 0 }
    }

    /// When a piece is through that arrives now.
    pub(crate) fn take(&mut self, bytes: u32, now: Time) -> Time {
        self.free_at = self.free_at.max(now) + duration(bytes, self.rate);
        self.free_at
    }
}

fn duration(bytes: u32, rate: u64) -> Time {
    u64::from(bytes) * SECOND / rate.max(1)
}
