// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Metadata blobs that were verified and are kept while peers read them piece by piece.

use bytes::Bytes;
use lru::LruCache;
use peerfs_format::{Digest, METADATA_MAX};

/// The bytes of all of them: a few hundred blobs as a rule, four of the longest.
const BYTES_MAX: u64 = 4 * METADATA_MAX;

/// Verified blobs, those forgotten first that were used longest ago.
pub(super) struct BlobCache {
    blobs: LruCache<Digest, Bytes>,
    bytes: u64,
}

impl Default for BlobCache {
    fn default() -> Self {
        BlobCache {
            blobs: LruCache::unbounded(),
            bytes: 0,
        }
    }
}

impl BlobCache {
    pub(super) fn get(&mut self, digest: &Digest) -> Option<Bytes> {
        self.blobs.get(digest).cloned()
    }

    /// Keeps a blob of at most [`METADATA_MAX`] bytes.
    pub(super) fn put(&mut self, digest: Digest, bytes: Bytes) {
        self.bytes += Self::cost(&bytes);
        if let Some(before) = self.blobs.put(digest, bytes) {
            self.bytes -= Self::cost(&before);
        }
        while self.bytes > BYTES_MAX {
            let Some((_, oldest)) = self.blobs.pop_lru() else {
                return;
            };
            self.bytes -= Self::cost(&oldest);
        }
    }

    /// Short ones need memory too.
    fn cost(bytes: &Bytes) -> u64 {
        bytes.len() as u64 + 256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_in_bytes() {
        let mut cache = BlobCache::default();
        let long = Bytes::from(vec![0; METADATA_MAX as usize]);
        for byte in 0..20 {
            cache.put(Digest([byte; 32]), long.clone());
            cache.put(Digest([byte; 32]), long.clone());
            assert!(cache.get(&Digest([byte; 32])).is_some());
        }
        assert_eq!(cache.blobs.len(), 3);
        assert!(cache.get(&Digest([0; 32])).is_none());
        for byte in 0..=255 {
            cache.put(Digest([byte; 32]), Bytes::new());
        }
        assert!(cache.bytes <= BYTES_MAX);
        let held: u64 = cache
            .blobs
            .iter()
            .map(|(_, blob)| BlobCache::cost(blob))
            .sum();
        assert_eq!(cache.bytes, held);
    }
}
