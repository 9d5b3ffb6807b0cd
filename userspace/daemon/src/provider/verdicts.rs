// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What was found to be unreadable, so that it is neither read nor logged for each peer that asks.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;
use peerfs_format::Digest;

/// How long a verdict holds: what is damaged may be fetched anew meanwhile.
const LIFETIME: Duration = Duration::from_secs(60);
/// The verdicts that are remembered.
const VERDICTS_MAX: NonZeroUsize = NonZeroUsize::new(4096).expect("4096 is not 0");

/// What peers ask for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Asked {
    /// A metadata blob.
    Blob(Digest),
    /// A pack, as this index describes it.
    Pack { pack: Digest, index: Digest },
    /// A chunk of a pack.
    Chunk {
        pack: Digest,
        index: Digest,
        number: u32,
    },
}

/// The verdicts of the last minute.
pub(super) struct Verdicts {
    until: LruCache<Asked, Instant>,
}

impl Default for Verdicts {
    fn default() -> Self {
        Verdicts {
            until: LruCache::new(VERDICTS_MAX),
        }
    }
}

impl Verdicts {
    /// Whether it was found unreadable a short time ago.
    pub(super) fn is_unreadable(&mut self, asked: &Asked, now: Instant) -> bool {
        self.until.get(asked).is_some_and(|until| now < *until)
    }

    /// The chunks of a pack that were found unreadable a short time ago, in no order.
    pub(super) fn unreadable_chunks(
        &self,
        pack: &Digest,
        index: &Digest,
        now: Instant,
    ) -> Vec<u32> {
        let of_pack = |asked: &Asked| match asked {
            Asked::Chunk {
                pack: other,
                index: by,
                number,
            } if other == pack && by == index => Some(*number),
            _ => None,
        };
        let verdicts = self.until.iter().filter(|(_, until)| now < **until);
        verdicts.filter_map(|(asked, _)| of_pack(asked)).collect()
    }

    /// It was found unreadable now; true if that was not known.
    pub(super) fn unreadable(&mut self, asked: Asked, now: Instant) -> bool {
        let before = self.until.put(asked, now + LIFETIME);
        before.is_none_or(|until| until <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_told_once_and_holds_for_a_minute() {
        let (mut verdicts, now) = (Verdicts::default(), Instant::now());
        let blob = Asked::Blob(Digest([1; 32]));
        assert!(!verdicts.is_unreadable(&blob, now));
        assert!(verdicts.unreadable(blob, now));
        assert!(!verdicts.unreadable(blob, now));
        assert!(verdicts.is_unreadable(&blob, now + LIFETIME / 2));
        assert!(!verdicts.is_unreadable(&blob, now + LIFETIME));
        assert!(verdicts.unreadable(blob, now + LIFETIME));
    }
}
