// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Counts what was fetched, for those who want to know how the daemon is doing.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use lru::LruCache;
use peerfs_format::Digest;

/// Bytes by the accounts of the sources. As many entries as there are kinds of sources and configured ones.
type Accounts = Mutex<BTreeMap<String, u64>>;

/// The sources of which it is remembered for which images they sent something.
const GIVERS_MAX: NonZeroUsize = NonZeroUsize::new(1024).expect("1024 is not 0");
/// And the images of each: those of last.
const GIFTS_MAX: usize = 8;

/// What was fetched since the daemon started.
pub struct Traffic {
    bytes: Accounts,
    /// What came for the images for which somebody counts it.
    images: Mutex<HashMap<Digest, Weak<Accounts>>>,
    lies: AtomicU64,
    gifts: Mutex<LruCache<String, Vec<Digest>>>,
}

/// Counts what comes for an image, as long as it lives and nobody else begins to count the same.
pub struct ImageTraffic(Arc<Accounts>);

impl ImageTraffic {
    /// Bytes that came, by the accounts of the sources.
    pub fn bytes_by_source(&self) -> BTreeMap<String, u64> {
        lock(&self.0).clone()
    }
}

impl Traffic {
    /// Counts from now on, with these accounts shown also when nothing came.
    pub fn new(accounts: impl IntoIterator<Item = String>) -> Self {
        let bytes = accounts.into_iter().map(|account| (account, 0)).collect();
        Traffic {
            bytes: Mutex::new(bytes),
            images: Mutex::default(),
            lies: AtomicU64::new(0),
            gifts: Mutex::new(LruCache::new(GIVERS_MAX)),
        }
    }

    /// Counts what comes for an image from now on.
    pub fn of_image(&self, manifest: Digest) -> ImageTraffic {
        let counted = Arc::new(Accounts::default());
        let mut images = lock(&self.images);
        images.retain(|_, accounts| accounts.strong_count() > 0);
        images.insert(manifest, Arc::downgrade(&counted));
        ImageTraffic(counted)
    }

    /// A source with this account sent so many bytes for an image.
    pub fn received(&self, account: &str, manifest: &Digest, bytes: usize) {
        add(&self.bytes, account, bytes);
        let of_image = lock(&self.images).get(manifest).and_then(Weak::upgrade);
        if let Some(accounts) = of_image {
            add(&accounts, account, bytes);
        }
    }

    /// The source with this name sent something for an image.
    pub fn gave(&self, source: &str, manifest: Digest) {
        let mut gifts = lock(&self.gifts);
        let images = match gifts.get_mut(source) {
            Some(images) if images.last() == Some(&manifest) => return,
            Some(images) => images,
            None => gifts.get_or_insert_mut(source.to_owned(), Vec::new),
        };
        images.retain(|image| *image != manifest);
        if images.len() == GIFTS_MAX {
            images.remove(0);
        }
        images.push(manifest);
    }

    /// The images for which the source with this name sent something, the latest first.
    pub fn gifts(&self, source: &str) -> Vec<Digest> {
        let gifts = lock(&self.gifts);
        gifts
            .peek(source)
            .into_iter()
            .flatten()
            .rev()
            .copied()
            .collect()
    }

    /// A source sent wrong bytes.
    pub fn lied(&self) {
        self.lies.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes that came, by the accounts of the sources.
    pub fn bytes_by_source(&self) -> BTreeMap<String, u64> {
        lock(&self.bytes).clone()
    }

    /// Bytes that came from the sources with this account.
    pub fn bytes_of(&self, account: &str) -> u64 {
        lock(&self.bytes).get(account).copied().unwrap_or_default()
    }

    /// Sources that sent wrong bytes.
    pub fn lies(&self) -> u64 {
        self.lies.load(Ordering::Relaxed)
    }
}

fn add(accounts: &Accounts, account: &str, bytes: usize) {
    let mut all = lock(accounts);
    match all.get_mut(account) {
        Some(count) => *count += bytes as u64,
        None => drop(all.insert(account.to_owned(), bytes as u64)),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Numbers are valid after every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_images_of_a_source_are_known() {
        let traffic = Traffic::new([]);
        let image = |number: usize| Digest([number as u8; 32]);
        for number in 0..GIFTS_MAX + 3 {
            traffic.gave("a", image(number));
            traffic.gave("a", image(5));
        }
        let gifts = traffic.gifts("a");
        assert_eq!(gifts.len(), GIFTS_MAX);
        assert_eq!(gifts[..2], [image(5), image(GIFTS_MAX + 2)]);
        assert!(traffic.gifts("b").is_empty());
        for number in 0..2 * GIVERS_MAX.get() {
            traffic.gave(&number.to_string(), image(1));
        }
        assert_eq!(lock(&traffic.gifts).len(), GIVERS_MAX.get());
    }
}
