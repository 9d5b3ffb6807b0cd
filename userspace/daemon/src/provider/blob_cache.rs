// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Metadata blobs that were verified and are kept, as they are sent, while peers read them piece by piece.

use bytes::Bytes;
use lru::LruCache;
use peerfs_format::{Digest, METADATA_MAX};

/// The bytes of all of them: a few hundred blobs as a rule, four of the longest.
const BYTES_MAX: u64 = 4 * METADATA_MAX;

/// How a blob is kept.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Form {
    /// As it is.
    Plain,
    /// As a zstd frame.
    Zstd,
}

/// Verified blobs, those forgotten first that were used longest ago.
pub(super) struct BlobCache {
    /// None for those that are not kept in this form because that is not worth it.
    blobs: LruCache<(Digest, Form), Option<Bytes>>,
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
    pub(super) fn get(&mut self, digest: Digest, form: Form) -> Option<Option<Bytes>> {
        self.blobs.get(&(digest, form)).cloned()
    }

    /// Keeps a blob of at most [`METADATA_MAX`] bytes in this form, or that it has none in it.
    pub(super) fn put(&mut self, digest: Digest, form: Form, bytes: Option<Bytes>) {
        self.bytes += Self::cost(&bytes);
        if let Some(before) = self.blobs.put((digest, form), bytes) {
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
    fn cost(bytes: &Option<Bytes>) -> u64 {
        bytes.as_ref().map_or(0, |bytes| bytes.len() as u64) + 256
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
            let digest = Digest([byte; 32]);
            cache.put(digest, Form::Plain, Some(long.clone()));
            cache.put(digest, Form::Plain, Some(long.clone()));
            cache.put(digest, Form::Zstd, None);
            assert_eq!(cache.get(digest, Form::Plain), Some(Some(long.clone())));
            assert_eq!(cache.get(digest, Form::Zstd), Some(None));
        }
        let kept = cache.blobs.iter().filter(|(_, blob)| blob.is_some());
        assert_eq!(kept.count(), 3);
        assert!(cache.get(Digest([0; 32]), Form::Plain).is_none());
        for byte in 0..=255 {
            cache.put(Digest([byte; 32]), Form::Plain, Some(Bytes::new()));
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
