// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Giving up what can be fetched again, so that a store stays within a size.

use std::collections::{HashMap, HashSet};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use peerfs_format::{BlobTable, DataFile, Digest, PackRecord};

use super::marks::{blob_table_if_here, manifest_if_here, places_if_here};
use super::recency::{least_recently_used, CachedChunk, CachedPlace, LastUse, Recency};
use super::sweep::{occupied, Sweep};
use super::{Collect, Keep};
use crate::image::read_blob;
use crate::places::{ChangeLock, PlaceTable};
use crate::{layout, Error, Pack, Result, Store, TaggedImage};

/// What an eviction has given up.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Evicted {
    /// Bytes of chunks that were cached before.
    pub cached_bytes: u64,
    /// Packs of which chunks were given up.
    pub packs: u64,
    /// Bytes on the disk that are free now.
    pub bytes: u64,
}

/// What can be fetched again, where it lies.
#[derive(Default)]
struct Cached {
    /// The numbers of data files.
    files: HashMap<DataFile, usize>,
    chunks: HashMap<CachedPlace, CachedChunk>,
    packs: Vec<(PackRecord, Form)>,
}

/// How a pack is here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Form {
    /// As a blob that only goes as a whole: it counts as one chunk.
    Unit,
    /// As a blob, which may become a partial pack.
    Whole,
    /// Where a table says.
    Places,
}

/// The place of a pack that counts as one chunk: no chunk begins there.
const UNIT: u64 = u64::MAX;

impl Cached {
    fn place(&mut self, file: DataFile, offset: u64) -> CachedPlace {
        let next = self.files.len();
        let file = *self.files.entry(file).or_insert(next);
        CachedPlace { file, offset }
    }

    /// The place, if there is anything in the file that can be fetched again.
    fn known_place(&self, file: DataFile, offset: u64) -> Option<CachedPlace> {
        let file = *self.files.get(&file)?;
        Some(CachedPlace { file, offset })
    }

    /// Whoever of those that have a chunk there used it last.
    fn add(&mut self, place: CachedPlace, bytes: u64, last_used: LastUse) {
        let new = CachedChunk {
            place,
            bytes,
            last_used,
        };
        let chunk = self.chunks.entry(place).or_insert(new);
        chunk.last_used = last_used.max(chunk.last_used);
    }
}

impl Store {
    /// Gives up chunks that can be fetched again, those first that were not used for the longest time, until they take nine
    /// tenths of `cache_max` bytes; nothing if they do not take more than that. Metadata is never given up. Chunks can be
    /// fetched again that only images need which came from elsewhere (not
    /// [`TaggedImage::is_own`](crate::TaggedImage::is_own)). What is in `keep` stays, too. When a chunk was used is told by
    /// `recency`; if that does not know it, by the times of its pack's files, as far as the filesystem keeps times of access.
    ///
    /// Whoever has the packs open, such as a mount, finds the chunks missing or not right, and asks for them.
    ///
    /// # Errors
    /// As for [`Store::collect`].
    pub fn evict(&self, keep: &Keep, cache_max: u64, recency: &Recency) -> Result<Evicted> {
        self.lock_for_filling()?;
        let _builds = self.lock_out_builds()?;
        let _noting = self.shared().data_files.note_entries();
        let cached = self.cached(&keep.images, recency)?;
        let chunks: Vec<CachedChunk> = cached.chunks.values().copied().collect();
        let mut evicted = Evicted {
            cached_bytes: chunks.iter().map(|chunk| chunk.bytes).sum(),
            ..Evicted::default()
        };
        let going = least_recently_used(chunks, cache_max);
        if going.is_empty() {
            return Ok(evicted);
        }
        let going: HashSet<CachedPlace> = going.into_iter().map(|chunk| chunk.place).collect();
        let mut given_up = HashSet::new();
        for pack in &cached.packs {
            // What names a chunk goes before the chunk.
            if self.forget(&cached, pack, &going)? {
                given_up.insert((pack.0.digest, pack.0.index_digest));
            }
        }
        evicted.packs = given_up.len() as u64;
        let sweep = Sweep::begin(self, keep, Collect::Really)?;
        evicted.bytes = sweep.giving_back(given_up).run()?.bytes;
        Ok(evicted)
    }

    /// The chunks that only images need which came from elsewhere.
    fn cached(&self, keep: &[Digest], recency: &Recency) -> Result<Cached> {
        let (kept, fetched) = divide(&self.images()?, keep, &self.mounted()?);
        let data_files = &self.shared().data_files;
        let mut cached = Cached::default();
        let (mut kept_packs, mut kept_places) = (HashSet::new(), HashSet::new());
        // By the packs that chunks are in, the indexes by which they are known.
        let mut indexes: HashMap<Digest, HashSet<Digest>> = HashMap::new();
        let mut name = |file: DataFile| {
            if let DataFile::Pack(pack, index) = file {
                indexes.entry(pack).or_default().insert(index);
            }
        };
        for pack in self.packs_of(&kept)? {
            // Whatever index others describe it by.
            kept_packs.insert(pack.digest);
            if let Some(table) = PlaceTable::find(data_files, &pack)? {
                for (file, offset) in (0..pack.chunk_count).filter_map(|chunk| table.place(chunk)) {
                    kept_places.insert(cached.place(file, offset));
                    name(file);
                }
            }
        }
        let mut packs = self.packs_of(&fetched)?;
        packs.retain(|pack| !kept_packs.contains(&pack.digest));
        for pack in &packs {
            name(own_name(pack));
            if let Some(table) = PlaceTable::find(data_files, pack)? {
                let slots = table.slots_of(0..pack.chunk_count);
                slots.into_iter().for_each(|(_, file)| name(file));
            }
        }
        for pack in packs {
            let is_known_by_one = indexes.get(&pack.digest).is_some_and(|all| all.len() == 1);
            self.add_pack(&mut cached, pack, is_known_by_one, recency)?;
        }
        let is_kept =
            |file: &DataFile| matches!(file, DataFile::Pack(pack, _) if kept_packs.contains(pack));
        let kept_files = cached.files.iter().filter(|(file, _)| is_kept(file));
        let kept_files: HashSet<usize> = kept_files.map(|(_, number)| *number).collect();
        cached
            .chunks
            .retain(|place, _| !kept_files.contains(&place.file) && !kept_places.contains(place));
        Ok(cached)
    }

    /// The packs of images, as far as it is known here which they are.
    fn packs_of(&self, manifests: &HashSet<Digest>) -> Result<Vec<PackRecord>> {
        let mut packs = HashMap::new();
        for manifest in manifests {
            let Some(read) = manifest_if_here(self, manifest)? else {
                continue;
            };
            let Some(table) = blob_table_if_here(self, &read)? else {
                continue;
            };
            let table = BlobTable::parse(&table, read.inode_count)
                .map_err(Error::format(read.blob_table))?;
            for pack in table.packs.iter() {
                packs.insert((pack.digest, pack.index_digest), pack);
            }
        }
        Ok(packs.into_values().collect())
    }

    /// Adds what is here of a pack.
    fn add_pack(
        &self,
        cached: &mut Cached,
        record: PackRecord,
        is_known_by_one: bool,
        recency: &Recency,
    ) -> Result<()> {
        let (pack, index) = (&record.digest, &record.index_digest);
        let files = |path: String| {
            let found = self.directory().metadata(&path).ok().flatten();
            found.filter(Metadata::is_file)
        };
        let whole = files(layout::blob(pack));
        let beside = [
            files(layout::partial(pack, index)),
            files(layout::places(pack, index)),
        ];
        let times = whole.iter().chain(beside.iter().flatten()).map(|found| {
            let read = (found.atime(), found.atime_nsec());
            read.max((found.mtime(), found.mtime_nsec()))
        });
        let files = times.max().unwrap_or_default();
        let last_used = |chunk| LastUse {
            chunk: recency.last_used(pack, index, chunk),
            files,
        };
        let is_alone = is_known_by_one && beside.iter().all(Option::is_none);
        let (open, form) = match &whole {
            Some(found) if is_alone && found.nlink() == 1 => {
                (self.described_whole(&record)?, Form::Whole)
            }
            Some(_) => (None, Form::Unit),
            None => (places_if_here(self, &record)?, Form::Places),
        };
        match (open, whole) {
            (Some(open), _) => {
                for chunk in 0..record.chunk_count {
                    if let Some((file, offset)) = open.location(chunk)? {
                        let place = cached.place(file, offset);
                        let bytes = open.chunk(chunk)?.stored_length.into();
                        cached.add(place, bytes, last_used(chunk));
                    }
                }
                cached.packs.push((record, form));
            }
            (None, Some(found)) => {
                let last_used = (0..record.chunk_count).map(last_used).max();
                let place = cached.place(own_name(&record), UNIT);
                cached.add(place, occupied(&found), last_used.unwrap_or_default());
                cached.packs.push((record, Form::Unit));
            }
            (None, None) => (),
        }
        Ok(())
    }

    /// A pack that is a blob, if its index is here and says of it what it can.
    fn described_whole(&self, record: &PackRecord) -> Result<Option<Pack>> {
        let index = match read_blob(self, &record.index_digest, record.index_length) {
            Err(Error::BlobMissing(_)) => return Ok(None),
            index => index?,
        };
        match self.find_pack(record, index) {
            Ok(found) => Ok(found.filter(Pack::is_blob)),
            Err(Error::Format { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes away what says that chunks of a pack are here which go; says whether there are any.
    fn forget(
        &self,
        cached: &Cached,
        (record, form): &(PackRecord, Form),
        going: &HashSet<CachedPlace>,
    ) -> Result<bool> {
        let goes = |file, offset| {
            let place = cached.known_place(file, offset);
            place.is_some_and(|place| going.contains(&place))
        };
        let whole = match form {
            Form::Whole => self.described_whole(record)?,
            Form::Unit | Form::Places => None,
        };
        let data_files = &self.shared().data_files;
        let changes = data_files.lock_changes()?;
        if let Some(whole) = whole {
            return self.forget_of_whole(&changes, &whole, goes);
        }
        let is_gone = *form == Form::Unit && goes(own_name(record), UNIT);
        let Some(table) = PlaceTable::find(data_files, record)? else {
            return Ok(is_gone);
        };
        let chunks = (0..record.chunk_count).filter(|chunk| {
            let place = table.place(*chunk);
            is_gone || place.is_some_and(|(file, offset)| goes(file, offset))
        });
        let chunks: Vec<u32> = chunks.collect();
        if !chunks.is_empty() {
            PlaceTable::open(data_files, record)?.clear_all(&changes, &chunks)?;
        }
        Ok(is_gone || !chunks.is_empty())
    }

    /// As [`Store::forget`], of a pack that is a blob: unless all of it goes, it is a partial one from then on.
    fn forget_of_whole(
        &self,
        changes: &ChangeLock<'_>,
        whole: &Pack,
        goes: impl Fn(DataFile, u64) -> bool,
    ) -> Result<bool> {
        let (record, own) = (whole.record(), own_name(whole.record()));
        let mut staying = Vec::new();
        for chunk in 0..record.chunk_count {
            let offset = u64::from(whole.chunk(chunk)?.stored_offset);
            if !goes(own, offset) {
                staying.push((chunk, offset));
            }
        }
        if staying.is_empty() || staying.len() == record.chunk_count as usize {
            return Ok(staying.is_empty());
        }
        let (pack, index, directory) = (&record.digest, &record.index_digest, self.directory());
        let (blob, partial) = (layout::blob(pack), layout::partial(pack, index));
        if self.has_places(pack, index) || directory.has_file(&partial) {
            // It was found to be damaged just now, and is being mended.
            return Ok(false);
        }
        // Who is interrupted here leaves a table beside a whole pack, which is removed.
        let mut table = PlaceTable::open(&self.shared().data_files, record)?;
        for (chunk, offset) in staying {
            table.set(changes, chunk, &own, offset)?;
        }
        directory
            .rename(&blob, &partial)
            .map_err(directory.failed("rename", &blob))?;
        Ok(true)
    }
}

/// The name of a pack's own file as a data file.
fn own_name(record: &PackRecord) -> DataFile {
    DataFile::Pack(record.digest, record.index_digest)
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
