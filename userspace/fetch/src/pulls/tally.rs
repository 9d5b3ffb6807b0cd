// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Counts how much of an image is here while it is fetched.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use peerfs_format::Digest;
use peerfs_store::{BlobPresence, Inventory, Pack};

/// It is said that something does not come when nothing has come for so long.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// An amount of content.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Amount {
    /// Bytes, as stored.
    pub bytes: u64,
    /// Chunks of packs.
    pub chunks: u64,
}

/// A blob that does not come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Awaited {
    /// The blob, or the first of several.
    pub blob: Digest,
    /// When the last thing came that was wanted, or when something was first wanted.
    pub since: Instant,
}

/// What is known of an image's content and of what is being waited for. Clones are the same one.
#[derive(Clone)]
pub(super) struct Tally(Arc<Mutex<Counts>>);

struct Counts {
    total: Option<Amount>,
    /// What is here of each blob.
    here: BTreeMap<Digest, Amount>,
    /// Packs that are being filled.
    filling: BTreeMap<Digest, Arc<Pack>>,
    /// What others are asked for, and how often.
    asked: BTreeMap<Digest, usize>,
    /// What was here at the last look at it.
    last: Amount,
    /// When it became more the last time, or nothing was asked for.
    quiet_since: Instant,
}

/// The counts at a time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Sample {
    pub(super) total: Option<Amount>,
    pub(super) here: Amount,
    pub(super) awaited: Option<Awaited>,
}

/// Something that others are being asked for, as long as this lives.
pub(super) struct Asked<'a> {
    tally: &'a Tally,
    blob: Digest,
}

impl Tally {
    pub(super) fn new(now: Instant) -> Self {
        Tally(Arc::new(Mutex::new(Counts {
            total: None,
            here: BTreeMap::new(),
            filling: BTreeMap::new(),
            asked: BTreeMap::new(),
            last: Amount::default(),
            quiet_since: now,
        })))
    }

    /// What the image consists of is known, with what of it is here.
    pub(super) fn learn(&self, inventory: &Inventory) {
        let mut counts = self.lock();
        let (mut total, mut here) = (Amount::default(), BTreeMap::new());
        for blob in &inventory.blobs {
            total.add(all_of(blob));
            let present = Amount {
                bytes: blob.present_bytes,
                chunks: blob.present_chunks.into(),
            };
            here.insert(blob.digest, present);
        }
        (counts.total, counts.here) = (Some(total), here);
    }

    /// A metadata blob of so many bytes is here.
    pub(super) fn has_blob(&self, blob: Digest, bytes: usize) {
        let amount = Amount {
            bytes: bytes as u64,
            chunks: 0,
        };
        self.lock().here.insert(blob, amount);
    }

    /// A pack is being filled.
    pub(super) fn fills(&self, pack: &Arc<Pack>) {
        let mut counts = self.lock();
        counts.filling.insert(*pack.digest(), Arc::clone(pack));
    }

    /// A pack is not being filled any more.
    pub(super) fn has_filled(&self, pack: &Arc<Pack>) {
        let mut counts = self.lock();
        counts.here.insert(*pack.digest(), present(pack));
        counts.filling.remove(pack.digest());
    }

    /// Others are asked for a blob.
    pub(super) fn asks(&self, blob: Digest) -> Asked<'_> {
        *self.lock().asked.entry(blob).or_default() += 1;
        Asked { tally: self, blob }
    }

    /// Begins anew to wait: what failed is tried again.
    pub(super) fn restart(&self, now: Instant) {
        self.lock().quiet_since = now;
    }

    /// What there is now.
    pub(super) fn sample(&self, now: Instant) -> Sample {
        let mut counts = self.lock();
        let filling: Vec<_> = counts.filling.values().cloned().collect();
        for pack in filling {
            counts.here.insert(*pack.digest(), present(&pack));
        }
        let mut here = Amount::default();
        counts.here.values().for_each(|amount| here.add(*amount));
        if here.bytes > counts.last.bytes || counts.asked.is_empty() {
            counts.quiet_since = now;
        }
        counts.last = here;
        let since = counts.quiet_since;
        let is_quiet = now.saturating_duration_since(since) >= PATIENCE;
        let first = counts.asked.keys().next();
        Sample {
            total: counts.total,
            here,
            awaited: first
                .filter(|_| is_quiet)
                .map(|&blob| Awaited { blob, since }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Counts are valid after every step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let mut counts = self.tally.lock();
        if let Some(times) = counts.asked.get_mut(&self.blob) {
            *times -= 1;
            if *times == 0 {
                counts.asked.remove(&self.blob);
            }
        }
    }
}

impl Amount {
    /// The numbers are those that an image's publisher has chosen.
    fn add(&mut self, other: Amount) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.chunks = self.chunks.saturating_add(other.chunks);
    }
}

fn all_of(blob: &BlobPresence) -> Amount {
    Amount {
        bytes: blob.bytes,
        chunks: blob.chunks.into(),
    }
}

fn present(pack: &Pack) -> Amount {
    let bits = pack.presence();
    Amount {
        bytes: pack.present_bytes(),
        chunks: bits.iter().map(|byte| u64::from(byte.count_ones())).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn who_waits_for_nothing_is_not_kept_waiting() {
        let start = Instant::now();
        let tally = Tally::new(start);
        let (one, two) = (Digest([1; 32]), Digest([2; 32]));
        assert_eq!(tally.sample(start + 60 * SECOND).awaited, None);
        let asked = (tally.asks(one), tally.asks(two), tally.asks(one));
        let since = start + 60 * SECOND;
        assert_eq!(tally.sample(since + 4 * SECOND).awaited, None);
        let awaited = |blob, since| Some(Awaited { blob, since });
        let sample = tally.sample(since + 5 * SECOND);
        assert_eq!(sample.awaited, awaited(one, since));
        // Something comes.
        tally.has_blob(two, 100);
        drop(asked.1);
        let grown = since + 6 * SECOND;
        let sample = tally.sample(grown);
        assert_eq!((sample.here.bytes, sample.awaited), (100, None));
        drop(asked.0);
        let sample = tally.sample(grown + 9 * SECOND);
        assert_eq!(sample.awaited, awaited(one, grown));
        drop(asked.2);
        assert_eq!(tally.sample(grown + 99 * SECOND).awaited, None);
    }
}
