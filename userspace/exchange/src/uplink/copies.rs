// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How often chunks were sent: of what nobody waits for, what was sent least often comes first, so that one copy
//! leaves a seed before a second, and those who have it have something for each other.

use std::num::NonZeroUsize;

use lru::LruCache;
use peerfs_format::Digest;

/// The chunks that are remembered, those sent last: about 4 GiB of them.
const CHUNKS_MAX: NonZeroUsize = NonZeroUsize::new(65536).expect("65536 is not 0");

/// How often chunks were sent.
pub struct Copies(LruCache<(Digest, u32), u8>);

impl Default for Copies {
    fn default() -> Self {
        Copies(LruCache::new(CHUNKS_MAX))
    }
}

impl Copies {
    /// How often this chunk of a pack was sent, as far as that is remembered; 255 is often.
    pub fn of(&self, pack: &Digest, number: u32) -> u8 {
        self.0.peek(&(*pack, number)).copied().unwrap_or(0)
    }

    /// A chunk is sent once more.
    pub fn add(&mut self, pack: &Digest, number: u32) {
        let copies = self.0.get_or_insert_mut((*pack, number), || 0);
        *copies = copies.saturating_add(1);
    }
}
