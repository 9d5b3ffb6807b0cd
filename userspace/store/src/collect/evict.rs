// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Giving up what can be fetched again, so that a store stays within a size.

use std::collections::{HashMap, HashSet};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use peerfs_format::{BlobTable, Digest, PackRecord};

use super::marks::{blob_table_if_here, manifest_if_here, places_if_here};
use super::sweep::{occupied, Sweep};
use super::Collect;
use crate::places::PlaceTable;
use crate::{layout, Error, Result, Store, TaggedImage};

/// How much of what a cache may take is left when it had to be made smaller: nine tenths, so that it need not be again at
/// once.
const LOW_WATERMARK: (u64, u64) = (9, 10);

/// What an eviction has given up.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Evicted {
    /// Bytes of chunks that were cached before.
    pub cached_bytes: u64,
    /// Packs of which all chunks that no other one shares were given up.
    pub packs: u64,
    /// Bytes on the disk that are free now.
    pub bytes: u64,
}

/// A pack that can be fetched again.
struct Candidate {
    record: PackRecord,
    bytes: u64,
    /// Seconds and nanoseconds.
    last_used: (i64, i64),
}

impl Store {
    /// Gives up chunks that can be fetched again, those first that were not read for the longest time, until they take nine
    /// tenths of `cache_max` bytes; nothing if they do not take more than that. A pack is given up at a time, its metadata
    /// never. Chunks can be fetched again that only images need which came from elsewhere (not
    /// [`TaggedImage::is_own`](crate::TaggedImage::is_own)). Each of `keep` stays, too. When a pack was read is told by the times of its files, as far
    /// as the filesystem keeps times of access.
    ///
    /// Whoever has the packs open, such as a mount, finds the chunks missing or not right, and asks for them.
    ///
    /// # Errors
    /// As for [`Store::collect`].
    pub fn evict(&self, keep: &[Digest], cache_max: u64) -> Result<Evicted> {
        self.lock_for_filling()?;
        let _builds = self.lock_out_builds()?;
        let _noting = self.shared().data_files.note_entries();
        let mut candidates = self.candidates(keep)?;
        let cached_bytes = candidates.iter().map(|candidate| candidate.bytes).sum();
        let mut evicted = Evicted {
            cached_bytes,
            ..Evicted::default()
        };
        if cached_bytes <= cache_max {
            return Ok(evicted);
        }
        candidates.sort_unstable_by_key(|candidate| candidate.last_used);
        let (part, whole) = LOW_WATERMARK;
        let low = cache_max / whole * part;
        let mut left = cached_bytes;
        let mut given_up = HashSet::new();
        for candidate in &candidates {
            if left <= low {
                break;
            }
            // What names a chunk goes before the chunk.
            self.clear_table(&candidate.record)?;
            given_up.insert((candidate.record.digest, candidate.record.index_digest));
            left -= candidate.bytes;
        }
        evicted.packs = given_up.len() as u64;
        let sweep = Sweep::begin(self, keep, Collect::Really)?;
        evicted.bytes = sweep.giving_back(given_up).run()?.bytes;
        Ok(evicted)
    }

    /// The packs that only images need which came from elsewhere.
    fn candidates(&self, keep: &[Digest]) -> Result<Vec<Candidate>> {
        let (kept, fetched) = divide(&self.images()?, keep, &self.mounted()?);
        let mut kept_packs = HashSet::new();
        for manifest in &kept {
            for pack in self.packs_of(manifest)? {
                // Whatever index others describe it by.
                kept_packs.insert(pack.digest);
            }
        }
        let mut candidates: HashMap<(Digest, Digest), Candidate> = HashMap::new();
        for manifest in &fetched {
            for pack in self.packs_of(manifest)? {
                let name = (pack.digest, pack.index_digest);
                if !kept_packs.contains(&pack.digest) && !candidates.contains_key(&name) {
                    if let Some(candidate) = self.candidate(&pack)? {
                        candidates.insert(name, candidate);
                    }
                }
            }
        }
        Ok(candidates.into_values().collect())
    }

    /// The packs of an image, as far as it is known here which they are.
    fn packs_of(&self, manifest: &Digest) -> Result<Vec<PackRecord>> {
        let Some(read) = manifest_if_here(self, manifest)? else {
            return Ok(Vec::new());
        };
        let Some(table) = blob_table_if_here(self, &read)? else {
            return Ok(Vec::new());
        };
        let table =
            BlobTable::parse(&table, read.inode_count).map_err(Error::format(read.blob_table))?;
        Ok(table.packs.iter().collect())
    }

    /// What is here of a pack; None if that is nothing.
    fn candidate(&self, record: &PackRecord) -> Result<Option<Candidate>> {
        let (pack, index) = (&record.digest, &record.index_digest);
        let directory = self.directory();
        let mut last_used = (0, 0);
        let mut whole_bytes = None;
        for (path, is_whole) in [
            (layout::blob(pack), true),
            (layout::partial(pack, index), false),
            (layout::places(pack, index), false),
        ] {
            let found = directory.metadata(&path).ok().flatten();
            if let Some(found) = found.filter(Metadata::is_file) {
                let read = (found.atime(), found.atime_nsec());
                let written = (found.mtime(), found.mtime_nsec());
                last_used = last_used.max(read).max(written);
                if is_whole {
                    whole_bytes = Some(occupied(&found));
                }
            }
        }
        let bytes = match whole_bytes {
            Some(bytes) => bytes,
            None => places_if_here(self, record)?.map_or(0, |pack| pack.present_bytes()),
        };
        Ok((bytes > 0).then_some(Candidate {
            record: *record,
            bytes,
            last_used,
        }))
    }

    fn clear_table(&self, record: &PackRecord) -> Result<()> {
        let data_files = &self.shared().data_files;
        let changes = data_files.lock_changes()?;
        if PlaceTable::find(data_files, record)?.is_some() {
            let chunks: Vec<u32> = (0..record.chunk_count).collect();
            PlaceTable::open(data_files, record)?.clear_all(&changes, &chunks)?;
        }
        Ok(())
    }
}

/// The images that stay, and those that can be fetched again.
fn divide(
    images: &[TaggedImage],
    keep: &[Digest],
    mounted: &HashSet<Digest>,
) -> (HashSet<Digest>, HashSet<Digest>) {
    let manifests = |is_own: bool| {
        let those = images.iter().filter(move |image| image.is_own == is_own);
        those.map(|image| image.manifest)
    };
    let mut fetched: HashSet<Digest> = manifests(false).collect();
    // Of what is mounted and named by nothing any more nobody knows whether it can be fetched again.
    let nameless = mounted.difference(&fetched).copied();
    let kept: HashSet<Digest> = manifests(true)
        .chain(keep.iter().copied())
        .chain(nameless)
        .collect();
    fetched.retain(|manifest| !kept.contains(manifest));
    (kept, fetched)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_to_have_come_from_elsewhere_is_given_up() {
        let digest = |number| Digest([number; 32]);
        let image = |number, is_own| TaggedImage {
            manifest: digest(number),
            oci_index: None,
            tags: Vec::new(),
            is_own,
        };
        let images = [1, 2, 3, 4].map(|number| image(number, number == 1));
        // The last one was removed while it was mounted, and may have been built here.
        let mounted = HashSet::from([digest(1), digest(2), digest(9)]);
        let (kept, fetched) = divide(&images, &[digest(3)], &mounted);
        assert_eq!(kept, HashSet::from([digest(1), digest(3), digest(9)]));
        assert_eq!(fetched, HashSet::from([digest(2), digest(4)]));
    }
}
