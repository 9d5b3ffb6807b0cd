// SPDX-License-Identifier: GPL-2.0

//! The entries of a table of places, in memory.
#![forbid(unsafe_code)]

use core::ops::Range;

use kernel::alloc::flags::GFP_KERNEL_ACCOUNT;
use kernel::prelude::*;
use peerfs_format::{Place, PLACE_SIZE};

/// An entry for each chunk of a pack, as the table has them.
pub(super) struct Entries(KVVec<u8>);

impl Entries {
    /// The entries of so many chunks. Those that the table lacked are empty.
    pub(super) fn new(chunk_count: u32, mut bytes: KVVec<u8>) -> Result<Self> {
        let length = (chunk_count as usize).saturating_mul(PLACE_SIZE);
        bytes.resize(length, 0, GFP_KERNEL_ACCOUNT)?;
        Ok(Entries(bytes))
    }

    /// The place in a chunk's entry.
    pub(super) fn get(&self, chunk: u32) -> Option<Place> {
        let start = (chunk as usize).checked_mul(PLACE_SIZE)?;
        place(self.0.get(start..)?)
    }

    /// Replaces the entries from a chunk on by others. `takes` is asked of each: the old place and the new one.
    pub(super) fn replace(
        &mut self,
        first: u32,
        entries: &[u8],
        takes: impl Fn(Option<Place>, Option<Place>) -> bool,
    ) {
        let start = (first as usize).saturating_mul(PLACE_SIZE);
        let old = self.0.get_mut(start..).unwrap_or_default();
        for (old, new) in old
            .chunks_exact_mut(PLACE_SIZE)
            .zip(entries.chunks_exact(PLACE_SIZE))
        {
            if takes(place(old), place(new)) {
                for (old, new) in old.iter_mut().zip(new) {
                    *old = *new;
                }
            }
        }
    }

    /// The first chunks in a range that are not here and follow each other, this many at the most.
    pub(super) fn first_missing(
        &self,
        chunks: Range<u32>,
        most: u32,
        is_here: impl Fn(Place) -> bool,
    ) -> Range<u32> {
        let is_here = |chunk: &u32| self.get(*chunk).is_some_and(&is_here);
        let end = chunks.end;
        let first = chunks.clone().find(|chunk| !is_here(chunk)).unwrap_or(end);
        let end = end.min(first.saturating_add(most));
        first..(first..end).find(is_here).unwrap_or(end)
    }
}

/// The place in the entry at the front of `bytes`.
fn place(bytes: &[u8]) -> Option<Place> {
    Place::of_entry(u64::from_le_bytes(*bytes.first_chunk()?))
}

/// KUnit tests. They run when the module is loaded.
#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(peerfs_places)]
mod tests {
    use super::*;

    /// A place in this slot.
    fn in_slot(slot: u32) -> Place {
        Place {
            slot,
            offset: 0xff_ffff_ffff,
        }
    }

    /// The bytes of entries, each in this slot.
    fn bytes(slots: &[u32]) -> Result<KVVec<u8>> {
        let mut bytes = KVVec::new();
        for slot in slots {
            let entry = in_slot(*slot).to_entry().to_le_bytes();
            bytes.extend_from_slice(&entry, GFP_KERNEL)?;
        }
        Ok(bytes)
    }

    #[test]
    fn what_a_table_lacks_is_not_here() -> Result {
        let mut cut = bytes(&[5, 6, 7])?;
        cut.truncate(20);
        let entries = Entries::new(4, cut)?;
        let places = [0, 1, 2, 3, 4, u32::MAX].map(|chunk| entries.get(chunk));
        let (first, second) = (Some(in_slot(5)), Some(in_slot(6)));
        assert_eq!(places, [first, second, None, None, None, None]);
        // And what is too much is nobody's.
        let entries = Entries::new(1, bytes(&[5, 6])?)?;
        assert_eq!((entries.get(0), entries.get(1)), (first, None));
        Ok(())
    }

    #[test]
    fn half_an_entry_is_none() -> Result {
        let mut cut = bytes(&[63])?;
        cut.truncate(4);
        assert_eq!(Entries::new(1, cut)?.get(0), None);
        Ok(())
    }

    #[test]
    fn entries_are_replaced_where_they_are_wanted_and_nowhere_else() -> Result {
        let mut entries = Entries::new(4, bytes(&[1, 1, 1, 1])?)?;
        entries.replace(1, &bytes(&[2, 3])?, |_, new| new == Some(in_slot(3)));
        let slots = [0, 1, 2, 3].map(|chunk| entries.get(chunk).map(|place| place.slot));
        assert_eq!(slots, [Some(1), Some(1), Some(3), Some(1)]);
        // There is none behind the last one.
        entries.replace(3, &bytes(&[4, 5, 6])?, |_, _| true);
        entries.replace(u32::MAX, &bytes(&[7])?, |_, _| true);
        assert_eq!(entries.get(3), Some(in_slot(4)));
        assert_eq!(entries.get(4), None);
        Ok(())
    }

    #[test]
    fn the_first_run_that_is_missing_ends_at_what_is_here() -> Result {
        let entries = Entries::new(8, bytes(&[0, 0, 9, 9, 9, 0, 9])?)?;
        let missing = |chunks, most| entries.first_missing(chunks, most, |place| place.slot == 0);
        assert_eq!(missing(0..8, 20), 2..5);
        assert_eq!(missing(0..8, 2), 2..4);
        assert_eq!(missing(3..4, 20), 3..4);
        assert_eq!(missing(5..8, 20), 6..8);
        assert!(missing(0..2, 20).is_empty());
        // What is beyond the table is never here.
        assert_eq!(missing(7..30, 20), 7..27);
        Ok(())
    }
}
