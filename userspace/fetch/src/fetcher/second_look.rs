// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Before anybody is called a liar.

use peerfs_store::{Error, Result};
use tracing::warn;

/// Has what was received verified and stored, and does both once more if it is found to be wrong: a fault of this
/// machine, of which honest peers know nothing, seldom happens twice at the same place.
pub(super) fn store_received<T>(store: impl Fn() -> Result<T>) -> Result<T> {
    let first = store();
    if !matches!(
        first,
        Err(Error::Mismatch { .. } | Error::ChunkDamaged { .. })
    ) {
        return first;
    }
    let second = store();
    if second.is_ok() {
        warn!(
            "what was received had a wrong digest, and a moment later the right one: this machine's memory or \
             processor is faulty; test it, with memtest86+ for example"
        );
    }
    second
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use peerfs_format::Digest;

    use super::*;

    /// How often it is tried to store what is wrong so many times.
    fn tries(wrong: u32) -> (u32, Result<u32>) {
        let tries = Cell::new(0);
        let result = store_received(|| {
            tries.set(tries.get() + 1);
            let damaged = Error::ChunkDamaged {
                pack: Digest([0; 32]),
                chunk: 0,
            };
            (tries.get() > wrong).then_some(7).ok_or(damaged)
        });
        (tries.get(), result)
    }

    #[test]
    fn nobody_lies_who_is_right_at_the_second_look() {
        assert!(matches!(tries(0), (1, Ok(7))));
        assert!(matches!(tries(1), (2, Ok(7))));
        assert!(matches!(tries(2), (2, Err(Error::ChunkDamaged { .. }))));
        let tries = Cell::new(0);
        let failed: Result<()> = store_received(|| {
            tries.set(tries.get() + 1);
            Err(Error::BlobMissing(Digest([0; 32])))
        });
        assert!(
            failed.is_err() && tries.get() == 1,
            "of other errors no two"
        );
    }
}
