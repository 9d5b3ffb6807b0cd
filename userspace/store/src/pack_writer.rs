// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Writing a pack of which the store may have chunks already.

use std::collections::HashSet;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use peerfs_format::{DataFile, Digest, PackRecord};
use peerfs_text::Causes;

use crate::catalogue::BuiltChunk;
use crate::digest::sha256_file;
use crate::directory::StoreDirectory;
use crate::known_chunks::{ContentId, KnownChunk, KnownChunks};
use crate::pack::PackStore;
use crate::temporary_file::TemporaryFile;
use crate::{layout, Error, Pack, Result, Sha256Writer, Store};

/// A pack being written. What the store has already is not written again: if that is any of it, the pack becomes a
/// table of places instead of a blob. Nothing has its final name before [`PackWriter::finish`]; dropping it earlier leaves
/// nothing.
pub struct PackWriter {
    shared: Arc<PackStore>,
    directory: Arc<StoreDirectory>,
    /// Whether all of it is written, whatever the store has.
    is_whole: bool,
    /// Has the new chunks, each where it is in the pack; made when there is one.
    file: Option<TemporaryFile>,
    chunks: Vec<Chunk>,
    length: u64,
    hash: Sha256Writer,
}

/// A chunk that was just made.
pub struct MadeChunk<'a> {
    /// Its stored bytes.
    pub stored: &'a [u8],
    /// Their SHA-256.
    pub digest: Digest,
    /// The name of its content.
    pub id: ContentId,
    /// The SHA-256 of that.
    pub content: Digest,
}

struct Chunk {
    /// Of the stored bytes.
    digest: Digest,
    offset: u64,
    length: u32,
    /// That of the content, and how it was compressed; None if the catalogue has it.
    key: Option<Digest>,
    content: Digest,
    source: Source,
}

enum Source {
    /// In the file being written.
    New,
    /// Found by its content.
    Known(Arc<Pack>, u32),
    /// Found by its stored bytes.
    Stored(DataFile, u64),
}

impl PackWriter {
    pub(crate) fn new(store: &Store, is_whole: bool) -> Self {
        PackWriter {
            is_whole,
            shared: store.shared().clone(),
            directory: store.directory().clone(),
            file: None,
            chunks: Vec::new(),
            length: 0,
            hash: Sha256Writer::default(),
        }
    }

    /// Bytes of the pack so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Appends a chunk that was just made.
    ///
    /// # Errors
    /// A full or failing disk; the pack can't be finished then.
    pub fn append(&mut self, made: &MadeChunk<'_>, known: &KnownChunks<'_>) -> Result<()> {
        let stored = made.stored;
        let found = if self.is_whole {
            None
        } else {
            self.find(stored, &made.digest)
        };
        let source = match found {
            Some((name, offset)) => Source::Stored(name, offset),
            None => {
                self.write(stored)?;
                Source::New
            }
        };
        self.push(
            stored,
            Chunk {
                digest: made.digest,
                offset: self.length,
                length: stored.len() as u32, // a chunk's: at most CHUNK_MAX
                key: Some(known.key(&made.id)),
                content: made.content,
                source,
            },
        );
        Ok(())
    }

    /// Appends a chunk that the store has.
    ///
    /// # Errors
    /// As for [`PackWriter::append`].
    pub fn append_known(&mut self, chunk: &KnownChunk) -> Result<()> {
        let source = if self.is_whole {
            self.write(chunk.stored())?;
            Source::New
        } else {
            Source::Known(chunk.pack.clone(), chunk.number)
        };
        self.push(
            chunk.stored(),
            Chunk {
                digest: chunk.record().digest,
                offset: self.length,
                length: chunk.record().stored_length,
                key: None,
                content: *chunk.content_digest(),
                source,
            },
        );
        Ok(())
    }

    fn push(&mut self, stored: &[u8], chunk: Chunk) {
        self.hash.update(stored);
        self.length += u64::from(chunk.length);
        self.chunks.push(chunk);
    }

    /// The same stored bytes somewhere in the store.
    fn find(&self, stored: &[u8], digest: &Digest) -> Option<(DataFile, u64)> {
        let found = self.shared.catalogue.find(std::slice::from_ref(digest));
        let (name, offset) = found.ok()?.pop()??;
        let file = self.shared.data_files.open(&name).ok()??;
        let mut bytes = vec![0; stored.len()];
        file.read_exact_at(&mut bytes, offset).ok()?;
        (bytes == stored).then_some((name, offset))
    }

    fn write(&mut self, stored: &[u8]) -> Result<()> {
        let failed = || self.directory.failed("write to a file in", layout::TMP);
        let file = match self.file.take() {
            Some(file) => file,
            None => TemporaryFile::create(&self.directory).map_err(failed())?,
        };
        let written = file.file().write_all_at(stored, self.length);
        self.file = Some(file);
        written.map_err(failed())
    }

    /// Ends the pack, which this index describes, and returns its digest and that of the index. All of it is on the disk then.
    ///
    /// # Errors
    /// A full or failing disk; [`Error::ChunkMissing`] if a chunk that the store had is gone by now; [`Error::Format`] if
    /// the index is none.
    pub fn finish(mut self, store: &Store, index: Vec<u8>) -> Result<(Digest, Digest)> {
        let index_digest = store.add_blob(&index)?;
        let pack = std::mem::take(&mut self.hash).finish();
        let name = DataFile::Pack(pack, index_digest);
        if self
            .chunks
            .iter()
            .all(|chunk| matches!(chunk.source, Source::New))
        {
            self.make_blob(&pack, &name)?;
        } else if !self.is_blob(&pack) {
            self.make_places(pack, index_digest, index)?;
        }
        self.enter_contents(pack, index_digest)?;
        Ok((pack, index_digest))
    }

    /// The stored bytes of a chunk of the file being written.
    fn read_new(&mut self, offset: u64, length: u32) -> Result<Vec<u8>> {
        let mut stored = vec![0; length as usize];
        if let Some(file) = &mut self.file {
            file.file()
                .read_exact_at(&mut stored, offset)
                .map_err(self.directory.failed("read a file in", layout::TMP))?;
        }
        Ok(stored)
    }

    /// Whether the pack is a whole blob that is right.
    fn is_blob(&self, pack: &Digest) -> bool {
        let Ok(Some(file)) = self.directory.read(&layout::blob(pack)) else {
            return false;
        };
        // All of it was read just now, if it was found there.
        let is_it = |chunk: &Chunk| match &chunk.source {
            Source::Known(known, _) => known.digest() == pack && known.is_blob(),
            _ => false,
        };
        let is_long = file
            .metadata()
            .is_ok_and(|metadata| metadata.len() == self.length);
        let was_read = is_long && self.chunks.iter().all(is_it);
        was_read
            || matches!(sha256_file(&file, self.length, |_| ()), Ok(Some(digest)) if digest == *pack)
    }

    /// Gives the file, which has all chunks, the pack's name, unless there is an intact one.
    fn make_blob(&mut self, pack: &Digest, name: &DataFile) -> Result<()> {
        let blob = layout::blob(pack);
        if !self.is_blob(pack) {
            if let Some(file) = self.file.take() {
                file.persist(&blob)
                    .map_err(self.directory.failed("create", &blob))?;
            }
        }
        self.shared.data_files.forget(name);
        self.enter_new(name, |chunk| chunk.offset)
    }

    /// Makes a table of places, with what is new in the pack's own file or, if it is less than half, in a loose one.
    fn make_places(&mut self, pack: Digest, index_digest: Digest, index: Vec<u8>) -> Result<()> {
        let record = PackRecord::of_index(pack, index_digest, &index);
        let record = record.map_err(Error::format(index_digest))?;
        let is_new = |chunk: &&Chunk| matches!(chunk.source, Source::New);
        let new_bytes = |chunk: &Chunk| u64::from(chunk.length);
        let new: u64 = self.chunks.iter().filter(is_new).map(new_bytes).sum();
        let places = Pack::open_places(&self.shared, &record, index)?;
        let is_loose = new < self.length / 2;
        let own = if new > 0 && !is_loose {
            Some(places.open_own()?)
        } else {
            None
        };
        let mut names = HashSet::new();
        for (number, chunk) in (0..).zip(std::mem::take(&mut self.chunks)) {
            let place = match &chunk.source {
                Source::Known(known, number) => {
                    let place = known.location(*number)?;
                    place.ok_or(Error::ChunkMissing {
                        pack: *known.digest(),
                        chunk: *number,
                    })?
                }
                Source::Stored(name, offset) => (*name, *offset),
                Source::New => {
                    let stored = self.read_new(chunk.offset, chunk.length)?;
                    let place = places.write(own.as_deref(), &stored, chunk.offset)?;
                    self.enter(&place.0, [(chunk.digest, place.1)])?;
                    place
                }
            };
            places.enter_place(number, &place.0, place.1)?;
            names.insert(place.0);
            self.chunks.push(chunk);
        }
        places.sync(&names)
    }

    fn enter_new(&self, name: &DataFile, offset: impl Fn(&Chunk) -> u64) -> Result<()> {
        self.enter(
            name,
            self.chunks
                .iter()
                .map(|chunk| (chunk.digest, offset(chunk))),
        )
    }

    /// Enters stored bytes into the catalogue. What is not there is only not found.
    fn enter(
        &self,
        name: &DataFile,
        chunks: impl IntoIterator<Item = (Digest, u64)>,
    ) -> Result<()> {
        let changes = self.shared.data_files.lock_changes()?;
        let entered = self.shared.catalogue.enter(&changes, name, chunks);
        tell(entered);
        Ok(())
    }

    /// Enters the content of chunks that were made just now.
    fn enter_contents(&self, pack: Digest, index: Digest) -> Result<()> {
        let made = (0..).zip(&self.chunks).filter_map(|(number, chunk)| {
            let built = BuiltChunk {
                pack,
                index,
                chunk: number,
                content: chunk.content,
            };
            Some((chunk.key?, built))
        });
        let made: Vec<(Digest, BuiltChunk)> = made.collect();
        if made.is_empty() {
            return Ok(());
        }
        let changes = self.shared.data_files.lock_changes()?;
        tell(self.shared.catalogue.enter_built(&changes, made));
        Ok(())
    }
}

/// Tells that something could not be entered into the catalogue: it is there, and only not found.
fn tell(entered: Result<()>) {
    if let Err(error) = entered {
        tracing::debug!(error = %Causes(&error), "cannot enter chunks into the catalogue");
    }
}
