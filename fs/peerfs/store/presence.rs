// SPDX-License-Identifier: GPL-2.0

//! Which chunks of a pack are in its file.
#![forbid(unsafe_code)]

use core::ops::Range;

use kernel::alloc::flags::GFP_KERNEL_ACCOUNT;
use kernel::prelude::*;
use peerfs_format::{Bitmap, PackRecord, PresenceHeader, PRESENCE_HEADER_SIZE};

use crate::rust::fs::OpenedFile;

/// Which chunks of a pack are in its file, as far as this mount knows. A hint: what is read is
/// verified whatever it says.
pub(super) enum Presence {
    /// All of them.
    Whole,
    /// Those whose bits are set.
    Partial(Bitmap<KVVec<u8>>),
}

impl Presence {
    /// None of a pack's chunks.
    pub(super) fn nothing(pack: &PackRecord) -> Result<Self> {
        let bytes = Bitmap::size(pack.chunk_count);
        let bits = KVVec::from_elem(0, bytes, GFP_KERNEL_ACCOUNT)?;
        Ok(Presence::Partial(Bitmap(bits)))
    }

    /// What a map file says; nothing if it is not the map of this pack with this index.
    pub(super) fn read(pack: &PackRecord, map: &OpenedFile) -> Result<Self> {
        let expected = PresenceHeader {
            chunk_count: pack.chunk_count,
            pack: pack.digest,
            index: pack.index_digest,
        };
        let mut header = [0; PRESENCE_HEADER_SIZE];
        let mut nothing = Self::nothing(pack)?;
        let fits = map.read_exact_at(&mut header, 0).is_ok()
            && PresenceHeader::parse(&header) == Ok(expected);
        if let (true, Presence::Partial(bits)) = (fits, &mut nothing) {
            // A map that ends early says nothing about the rest.
            map.read_at(&mut bits.0, PRESENCE_HEADER_SIZE as u64)?;
            bits.clear_padding(pack.chunk_count);
        }
        Ok(nothing)
    }

    pub(super) fn has(&self, chunk: u32) -> bool {
        match self {
            Presence::Whole => true,
            Presence::Partial(bits) => bits.has(chunk),
        }
    }

    /// The first chunks in a range that are not there and follow each other, this many at the most.
    pub(super) fn missing(&self, chunks: Range<u32>, most: u32) -> Range<u32> {
        match self {
            Presence::Whole => chunks.end..chunks.end,
            Presence::Partial(bits) => bits.first_unset(chunks, most),
        }
    }

    pub(super) fn set(&mut self, chunk: u32, present: bool) {
        if let Presence::Partial(bits) = self {
            bits.set(chunk, present);
        }
    }
}

/// KUnit tests. They run when the module is loaded.
#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(peerfs_presence)]
mod tests {
    use super::*;
    use peerfs_format::Digest;

    /// A map of 20 chunks, of which these are there.
    fn presence(chunks: &[u32]) -> Result<Presence> {
        let mut presence = Presence::nothing(&PackRecord {
            digest: Digest([1; Digest::SIZE]),
            index_digest: Digest([2; Digest::SIZE]),
            contents_digest: Digest([3; Digest::SIZE]),
            stored_length: 1 << 20,
            logical_length: 1 << 20,
            index_length: 4096,
            chunk_count: 20,
        })?;
        for chunk in chunks {
            presence.set(*chunk, true);
        }
        Ok(presence)
    }

    #[test]
    fn what_is_lost_is_missing_again() -> Result {
        let mut presence = presence(&[7, 8, 9])?;
        presence.set(8, false);
        assert!(presence.has(7) && !presence.has(8) && presence.has(9));
        assert_eq!(presence.missing(7..10, 20), 8..9);
        Ok(())
    }

    #[test]
    fn chunks_beyond_the_map_are_never_there() -> Result {
        let mut presence = presence(&[])?;
        presence.set(1000, true);
        assert!(!presence.has(1000) && !presence.has(u32::MAX));
        assert_eq!(presence.missing(18..30, 20), 18..30);
        Ok(())
    }

    #[test]
    fn of_a_whole_pack_nothing_is_missing() -> Result {
        let mut whole = Presence::Whole;
        whole.set(3, false);
        assert!(whole.has(3));
        assert!(whole.missing(0..20, 20).is_empty());
        Ok(())
    }
}
