// SPDX-License-Identifier: GPL-2.0

//! Which chunks were read from a store, whichever mounts read them: noted here until a daemon asks, which keeps the store
//! within a size by it. It is a hint: what has no room is forgotten.
//!
//! Locking: the lock is a leaf, taken when a pack's index is read for the first time, when a mount gives its packs up, and by who
//! asks. Nothing is allocated under it. Readers note what they read without it.
#![forbid(unsafe_code)]

use kernel::alloc::flags::GFP_KERNEL_ACCOUNT;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNode};
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::{Arc, Mutex};
use peerfs_format::upcall::{UsedRun, USED_PAYLOAD_MAX};
use peerfs_format::{Digest, PackRecord, Record};

/// Bytes of notes that are kept of packs that no mount has any more, at the most: of 2 million chunks.
const LEFT_MAX: usize = 256 * 1024;

/// What was read from a store since somebody asked last.
#[pin_data]
pub(crate) struct Usage {
    #[pin]
    packs: Mutex<Packs>,
}

struct Packs {
    by_key: RBTree<Key, Noted>,
    /// Bytes of the notes of packs that have no users.
    left: usize,
    /// The pack with which whoever asks goes on, and the word of its notes; from the first one if there is none.
    next: Option<(Key, usize)>,
}

/// The digests of a pack and its index.
type Key = (Digest, Digest);

struct Noted {
    notes: Arc<Notes>,
    /// How many [`PackUsage`]s there are of it.
    users: usize,
}

/// A bit for each chunk of a pack.
struct Notes(KVVec<Atomic<u64>>);

/// Where readers of a pack note what they read.
pub(super) struct PackUsage {
    usage: Arc<Usage>,
    key: Key,
    notes: Arc<Notes>,
}

impl Usage {
    /// Nothing was read.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            packs <- new_mutex!(
                Packs {
                    by_key: RBTree::new(),
                    left: 0,
                    next: None,
                },
                "peerfs usage"
            ),
        })
    }

    /// The notes of a pack, whose index says that it has as many chunks as its record does. They are one for all mounts.
    pub(super) fn of_pack(self: &Arc<Self>, pack: &PackRecord) -> Result<PackUsage> {
        let key = (pack.digest, pack.index_digest);
        let new = Arc::new(Notes::new(pack.chunk_count)?, GFP_KERNEL_ACCOUNT)?;
        let noted = Noted {
            notes: new.clone(),
            users: 1,
        };
        let node = RBTreeNode::new(key, noted, GFP_KERNEL_ACCOUNT)?;
        let mut packs = self.packs.lock();
        let Packs { by_key, left, .. } = &mut *packs;
        let notes = match by_key.get_mut(&key) {
            Some(noted) => {
                if noted.users == 0 {
                    *left = left.saturating_sub(noted.notes.size());
                }
                noted.users = noted.users.saturating_add(1);
                noted.notes.clone()
            }
            None => {
                // There is none that it would replace.
                let _ = by_key.insert(node);
                new
            }
        };
        drop(packs);
        Ok(PackUsage {
            usage: self.clone(),
            key,
            notes,
        })
    }

    /// Takes notes, as a message to a daemon has them, as many as one has room for. None are left of what was read before
    /// somebody asked first if what comes is empty.
    pub(crate) fn take(&self) -> Result<KVVec<u8>> {
        let mut payload = KVVec::with_capacity(USED_PAYLOAD_MAX, GFP_KERNEL)?;
        let mut packs = self.packs.lock();
        let Packs { by_key, left, next } = &mut *packs;
        let from = next.take();
        let mut cursor = match &from {
            Some((key, _)) => by_key.cursor_lower_bound_mut(key),
            None => by_key.cursor_front_mut(),
        };
        while let Some(at) = cursor {
            let (key, noted) = at.current();
            let from = from.filter(|(begun, _)| begun == key);
            let from = from.map_or(0, |(_, word)| word);
            if let Some(word) = noted.notes.take(key, from, &mut payload)? {
                *next = Some((*key, word));
                break;
            }
            cursor = match noted.users {
                0 => {
                    *left = left.saturating_sub(noted.notes.size());
                    // Behind the last one it is the one before, of which nothing is left.
                    at.remove_current().0
                }
                _ => at.move_next(),
            };
        }
        Ok(payload)
    }
}

impl PackUsage {
    /// Notes that a chunk was read from the store.
    pub(super) fn note(&self, chunk: u32) {
        self.notes.set(chunk);
    }
}

impl Drop for PackUsage {
    fn drop(&mut self) {
        let mut packs = self.usage.packs.lock();
        let Packs { by_key, left, .. } = &mut *packs;
        let Some(noted) = by_key.get_mut(&self.key) else {
            return;
        };
        noted.users = noted.users.saturating_sub(1);
        if noted.users > 0 {
            return;
        }
        let with_it = left.saturating_add(noted.notes.size());
        if noted.notes.is_empty() || with_it > LEFT_MAX {
            let _ = by_key.remove(&self.key);
        } else {
            *left = with_it;
        }
    }
}

impl Notes {
    fn new(chunk_count: u32) -> Result<Self> {
        let words = chunk_count.div_ceil(u64::BITS) as usize;
        let mut notes = KVVec::with_capacity(words, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..words {
            notes.push(Atomic::new(0), GFP_KERNEL_ACCOUNT)?;
        }
        Ok(Notes(notes))
    }

    /// Bytes that they take.
    fn size(&self) -> usize {
        self.0.len().saturating_mul(UsedRun::WORD_SIZE)
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|word| word.load(Relaxed) == 0)
    }

    fn set(&self, chunk: u32) {
        let Some(word) = self.0.get((chunk / u64::BITS) as usize) else {
            return;
        };
        let bit = 1 << (chunk % u64::BITS);
        let mut bits = word.load(Relaxed);
        // As a rule it is there already, and nobody writes to what readers share.
        while bits & bit == 0 {
            match word.cmpxchg(bits, bits | bit, Relaxed) {
                Ok(_) => break,
                Err(now) => bits = now,
            }
        }
    }

    /// Takes what is noted from a word on, as a run of a message, as far as there is room in that. Returns the word at which
    /// the rest begins, if anything is left.
    fn take(
        &self,
        (pack, index): &Key,
        from: usize,
        payload: &mut KVVec<u8>,
    ) -> Result<Option<usize>> {
        let words = self.0.get(from..).unwrap_or_default();
        let is_set = |word: &Atomic<u64>| word.load(Relaxed) != 0;
        let Some(first) = words.iter().position(is_set) else {
            return Ok(None);
        };
        let end = words
            .iter()
            .rposition(is_set)
            .map_or(0, |last| last.saturating_add(1));
        let room = USED_PAYLOAD_MAX
            .saturating_sub(payload.len())
            .saturating_sub(UsedRun::SIZE);
        let told = end.min(first.saturating_add(room / UsedRun::WORD_SIZE));
        let words = words.get(first..told).unwrap_or_default();
        let first = from.saturating_add(first);
        if words.is_empty() {
            return Ok(Some(first));
        }
        let run = UsedRun {
            pack: *pack,
            index: *index,
            first_chunk: u32::try_from(first)?.saturating_mul(u64::BITS),
            words: u32::try_from(words.len())?,
        };
        let mut written = Ok(());
        run.write_to(|piece| {
            written = written.and_then(|()| payload.extend_from_slice(piece, GFP_KERNEL));
        });
        written?;
        for word in words {
            let bits = word.xchg(0, Relaxed);
            payload.extend_from_slice(&bits.to_le_bytes(), GFP_KERNEL)?;
        }
        Ok((told < end).then_some(first.saturating_add(words.len())))
    }
}

/// KUnit tests. They run when the module is loaded.
#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(peerfs_usage)]
mod tests {
    use super::*;

    fn usage() -> Result<Arc<Usage>> {
        Arc::pin_init(Usage::new(), GFP_KERNEL)
    }

    fn pack(number: u8, chunk_count: u32) -> PackRecord {
        PackRecord {
            digest: Digest([number; Digest::SIZE]),
            index_digest: Digest([200; Digest::SIZE]),
            contents_digest: Digest([201; Digest::SIZE]),
            stored_length: 1,
            logical_length: 1,
            index_length: 1,
            chunk_count,
        }
    }

    /// How many bytes so many words in a run of their own take.
    fn run(words: usize) -> usize {
        UsedRun::SIZE + UsedRun::WORD_SIZE * words
    }

    #[test]
    fn what_mounts_of_one_store_read_is_told_once() -> Result {
        let usage = usage()?;
        let (first, second) = (usage.of_pack(&pack(1, 200))?, usage.of_pack(&pack(1, 200))?);
        assert!(usage.take()?.is_empty());
        first.note(70);
        second.note(70);
        second.note(130);
        // There is none.
        second.note(256);
        let told = usage.take()?;
        assert_eq!(told.len(), run(2));
        assert_eq!(told.get(64..68), Some(&64_u32.to_le_bytes()[..]));
        assert_eq!(told.get(72..80), Some(&(1_u64 << 6).to_le_bytes()[..]));
        assert_eq!(told.get(80..88), Some(&(1_u64 << 2).to_le_bytes()[..]));
        assert!(usage.take()?.is_empty());
        first.note(0);
        assert_eq!(usage.take()?.len(), run(1));
        Ok(())
    }

    #[test]
    fn what_was_read_of_a_pack_that_is_gone_is_kept_for_a_while() -> Result {
        let usage = usage()?;
        let read = usage.of_pack(&pack(1, 64))?;
        read.note(5);
        drop(read);
        drop(usage.of_pack(&pack(2, 64))?);
        assert_eq!(usage.packs.lock().left, 8);
        // It is opened again, and gone again.
        drop(usage.of_pack(&pack(1, 64))?);
        assert_eq!(usage.packs.lock().left, 8);
        assert_eq!(usage.take()?.len(), run(1));
        let packs = usage.packs.lock();
        assert!(packs.left == 0 && packs.by_key.is_empty());
        drop(packs);
        // Not of too many.
        for number in 0..40 {
            let large = usage.of_pack(&pack(number, 80_000))?;
            large.note(0);
        }
        let packs = usage.packs.lock();
        assert!(packs.left <= LEFT_MAX && packs.left > LEFT_MAX / 2);
        assert_eq!(packs.by_key.values().count(), packs.left / 10_000);
        Ok(())
    }

    #[test]
    fn what_has_no_room_in_a_message_is_in_the_next_one() -> Result {
        let usage = usage()?;
        // The first one alone takes more than one message.
        let (large, small) = (
            usage.of_pack(&pack(1, 100_000))?,
            usage.of_pack(&pack(2, 64))?,
        );
        for chunk in [0, 99_999] {
            large.note(chunk);
        }
        small.note(9);
        let first = usage.take()?;
        assert!(first.len() <= USED_PAYLOAD_MAX && first.len() > USED_PAYLOAD_MAX - 8);
        // It goes on where it ended, though there is something new before it.
        large.note(1);
        assert_eq!(usage.take()?.len(), run(1) + run(1));
        assert_eq!(usage.take()?.len(), run(1));
        assert!(usage.take()?.is_empty());
        Ok(())
    }
}
