// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The numbers that bound the scheduler.

use std::num::NonZeroUsize;
use std::time::Duration;

/// What a scheduler may hold and how long it waits.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Orders that may wait.
    pub orders: usize,
    /// Contents whose sources are remembered when nothing of them is wanted.
    pub contents: usize,
    /// Sources that are remembered if they offer nothing.
    pub sources: usize,
    /// Sources that are remembered to have lied.
    pub banned: NonZeroUsize,
    /// Transfers at a time, over all sources; an eighth of them is kept for demand.
    pub transfers: usize,
    /// Transfers at a time from one source; one of them is kept for demand.
    pub transfers_per_source: usize,
    /// Parts that one transfer asks for.
    pub parts_per_transfer: usize,
    /// The bytes that a source has on the way at most of what nobody waits for, whatever its line would take.
    pub window_max: u64,
    /// What nobody waits for is asked for so long before a source has nothing to send: the shorter, the later it is
    /// decided who sends what, and the less a reader waits for.
    pub window_ahead: Duration,
    /// A part that a reader waits for is asked for again if so many that nobody waits for come before
    /// it on the line.
    pub overtake_from: usize,
    /// A part that a reader waits for is not asked of a second source before, in the same network.
    pub hedge_after_near: Duration,
    /// The same for sources that are further away.
    pub hedge_after_far: Duration,
    /// A transfer is broken off when nothing of it has come for so long, and nothing of others from the same source;
    /// or for so much longer as the source has others. That a peer is gone is noticed earlier by the node.
    pub stall_after: Duration,
    /// For how long a source is left alone after its first failure; doubled with each further one.
    pub backoff_first: Duration,
    /// The longest that a source is left alone.
    pub backoff_longest: Duration,
    /// Between two searches for sources of a content that nobody known delivers.
    pub seek_interval: Duration,
    /// When sources of a wanted content are looked for again although some are known: there may be
    /// more, and those who fetch have more than they said.
    pub seek_again_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            orders: 1024,
            contents: 1024,
            sources: 4096,
            banned: NonZeroUsize::new(4096).expect("4096 is not 0"),
            transfers: 512,
            transfers_per_source: 16,
            parts_per_transfer: 16,
            window_max: 2 * 1024 * 1024,
            window_ahead: Duration::from_millis(60),
            overtake_from: 4,
            hedge_after_near: Duration::from_millis(8),
            hedge_after_far: Duration::from_millis(50),
            stall_after: Duration::from_secs(20),
            backoff_first: Duration::from_millis(250),
            backoff_longest: Duration::from_secs(8),
            seek_interval: Duration::from_secs(1),
            seek_again_after: Duration::from_secs(5),
        }
    }
}
