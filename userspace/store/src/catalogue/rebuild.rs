// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Making the catalogue anew, out of the indexes of packs and their tables of places, when it is lost.

use std::collections::{HashMap, HashSet};
use std::fs::File;

use peerfs_format::{BlobTable, DataFile, Digest, PackIndexLayout, PackRecord};
use peerfs_text::Causes;
use rustix::fs::{flock, FlockOperation};

use super::{key_of, value_of, Kind};
use crate::directory::PRIVATE;
use crate::image::read_blob;
use crate::places::PlaceTable;
use crate::{layout, Error, Result, Store};

/// Chunks that are sorted at a time, 32 MiB of them: each time the table is gone through once.
const BATCH: usize = 2 * 1024 * 1024;
/// Chunks that are entered under one lock: who fills packs waits for it.
const AT_ONCE: usize = 16 * 1024;

impl Store {
    /// Makes the catalogue anew if it is lost: every chunk of the images that `index.json` names is found again by its
    /// stored bytes, and what is built is compressed once more and not stored once more. Streams over the packs' indexes, in
    /// bounded memory. Does nothing if all is well, or if another process does it. One that was killed, or that
    /// `is_cancelled` has ended, is begun again the next time. A failure is told and no reason not to go on: what is not
    /// found is stored again.
    pub fn rebuild_catalogue(&self, is_cancelled: impl Fn() -> bool) {
        let rebuilt = || -> Result<()> {
            let Some(_lock) = self.lock_if_lost()? else {
                return Ok(());
            };
            let packs = self.packs_of_images()?;
            if !packs.is_empty() {
                tracing::warn!(
                    "the catalogue of {} is missing or damaged: it is made anew, which takes a minute for some million chunks",
                    self.root_dir().display()
                );
            }
            let mut rebuild = Rebuild::new(self, &packs)?;
            for pack in &packs {
                if is_cancelled() {
                    return Ok(());
                }
                match rebuild.add_pack(pack) {
                    // It is not here yet.
                    Err(Error::BlobMissing(_)) => (),
                    Err(error) => {
                        let error = Causes(&error);
                        tracing::warn!(pack = %pack.digest, %error, "the chunks of a pack can't be found");
                    }
                    Ok(()) => (),
                }
            }
            rebuild.enter()?;
            let directory = self.directory();
            directory
                .remove(layout::CATALOGUE_REBUILT)
                .map_err(directory.failed("remove", layout::CATALOGUE_REBUILT))
        };
        if let Err(error) = rebuilt() {
            let error = Causes(&error);
            tracing::warn!(%error, "the catalogue can't be made anew: what it does not find is stored again");
        }
    }

    /// The file that says that the catalogue is not complete, locked; None if it is, or if somebody makes it so.
    pub(crate) fn lock_if_lost(&self) -> Result<Option<File>> {
        let (directory, path) = (self.directory(), layout::CATALOGUE_REBUILT);
        if !directory.has_file(path) && !self.shared().catalogue.is_lost()? {
            return Ok(None);
        }
        let file = directory.write_or_create(path, PRIVATE)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(directory.failed("lock", path)(errno.into())),
        }
    }

    /// The packs of the images that the index names, each with each of its indexes once: some 150 bytes for each.
    fn packs_of_images(&self) -> Result<Vec<PackRecord>> {
        let (mut packs, mut seen) = (Vec::new(), HashSet::new());
        let mut add = |manifest: &Digest| -> Result<()> {
            let read = self.read_manifest(manifest)?;
            let blob = read_blob(self, &read.blob_table, read.blob_table_length)?;
            let table = BlobTable::parse(&blob, read.inode_count)
                .map_err(Error::format(read.blob_table))?;
            let new = table
                .packs
                .iter()
                .filter(|pack| seen.insert((pack.digest, pack.index_digest)));
            packs.extend(new);
            Ok(())
        };
        for image in self.images()? {
            match add(&image.manifest) {
                // It is not here yet.
                Ok(()) | Err(Error::BlobMissing(_)) => (),
                Err(error) => {
                    let error = Causes(&error);
                    tracing::warn!(image = %image.manifest, %error, "the chunks of an image can't be found");
                }
            }
        }
        Ok(packs)
    }
}

/// A catalogue that is being made.
struct Rebuild<'a> {
    store: &'a Store,
    /// Keys and values that are not in the table yet.
    entries: Vec<(u64, u64)>,
}

impl<'a> Rebuild<'a> {
    /// Begins one that has room for all of these packs: entries that come in the order of their keys must find it, or all of
    /// them crowd at its beginning.
    fn new(store: &'a Store, packs: &[PackRecord]) -> Result<Self> {
        let chunks = packs.iter().map(|pack| u64::from(pack.chunk_count)).sum();
        let shared = store.shared();
        let _changes = shared.data_files.lock_changes()?;
        shared.catalogue.make_room(Kind::Stored, chunks)?;
        Ok(Rebuild {
            store,
            entries: Vec::new(),
        })
    }

    fn add_pack(&mut self, pack: &PackRecord) -> Result<()> {
        let index = read_blob(self.store, &pack.index_digest, pack.index_length)?;
        let layout =
            PackIndexLayout::parse(&index, pack).map_err(Error::format(pack.index_digest))?;
        let chunks = layout.view(&index).chunks;
        let name = DataFile::Pack(pack.digest, pack.index_digest);
        let mut places: HashMap<DataFile, Vec<(Digest, u64)>> = HashMap::new();
        if self.store.has_blob(&pack.digest) {
            let chunks = chunks.iter();
            let chunks = chunks.map(|chunk| (chunk.digest, chunk.stored_offset.into()));
            places.insert(name, chunks.collect());
        } else if let Some(table) = PlaceTable::find(&self.store.shared().data_files, pack)? {
            for (number, chunk) in (0..).zip(chunks.iter()) {
                if let Some((name, offset)) = table.place(number) {
                    let places = places.entry(name).or_default();
                    places.push((chunk.digest, offset));
                }
            }
        }
        for (name, chunks) in places {
            if let Some(number) = self.number(&name)? {
                let chunks = chunks.into_iter();
                self.entries.extend(
                    chunks.map(|(digest, offset)| (key_of(&digest), value_of(number, offset))),
                );
            }
        }
        if self.entries.len() >= BATCH {
            self.enter()?;
        }
        Ok(())
    }

    fn number(&self, name: &DataFile) -> Result<Option<u32>> {
        let shared = self.store.shared();
        let _changes = shared.data_files.lock_changes()?;
        crate::lock::lock(&shared.catalogue.names).number(name)
    }

    /// Enters what was added, in the order of the table, bit by bit: others want the lock too.
    fn enter(&mut self) -> Result<()> {
        self.entries.sort_unstable();
        let shared = self.store.shared();
        for entries in self.entries.chunks(AT_ONCE) {
            let _changes = shared.data_files.lock_changes()?;
            shared.catalogue.put(Kind::Stored, entries.to_vec())?;
        }
        self.entries.clear();
        Ok(())
    }
}
