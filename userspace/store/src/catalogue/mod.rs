// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Finds chunks in all of the store: by the digest of their stored bytes, and by their content for whoever builds. See
//! `Documentation/store.md`.
//!
//! It is a hint, and may be removed at any time: what it leads to is verified, and it is made anew when it is lost.

mod content_log;
mod hash_file;
mod names;
mod rebuild;

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex};

use peerfs_format::{DataFile, Digest, DATA_FILE_MAX};

use crate::directory::StoreDirectory;
use crate::lock::lock;
use crate::places::ChangeLock;
use crate::temporary_file::TemporaryFile;
use crate::{layout, Error, Result};
use content_log::{ContentLog, ContentRecord};
use hash_file::HashFile;
use names::Names;

/// The tables of a catalogue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// From stored bytes to a data file and where in it they are.
    Stored,
    /// From content to a record of [`ContentLog`].
    Content,
}

/// Where stored bytes are: the data file, and the offset in it.
pub(crate) type Location = (DataFile, u64);

/// A chunk that was built here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct BuiltChunk {
    /// The pack that it is in.
    pub(crate) pack: Digest,
    /// The index of that.
    pub(crate) index: Digest,
    /// Its number there.
    pub(crate) chunk: u32,
    /// The SHA-256 of its content.
    pub(crate) content: Digest,
}

/// The catalogue of a store.
pub(crate) struct Catalogue {
    directory: Arc<StoreDirectory>,
    names: Mutex<Names>,
    contents: Mutex<ContentLog>,
    /// Opened when they are needed.
    stored: Mutex<Option<HashFile>>,
    content: Mutex<Option<HashFile>>,
}

impl Catalogue {
    pub(crate) fn new(directory: &Arc<StoreDirectory>) -> Self {
        Catalogue {
            directory: directory.clone(),
            names: Mutex::new(Names::new(directory)),
            contents: Mutex::new(ContentLog::new(directory)),
            stored: Mutex::default(),
            content: Mutex::default(),
        }
    }

    /// Looks for stored bytes by their digests, and returns what is known of each, in their order. What is found there may
    /// be something else.
    ///
    /// # Errors
    /// [`Error::NotARegularFile`] or [`Error::Io`].
    pub(crate) fn find(&self, digests: &[Digest]) -> Result<Vec<Option<Location>>> {
        let keys: Vec<u64> = digests.iter().map(key_of).collect();
        let values = self.values(Kind::Stored, &keys)?;
        let mut names = lock(&self.names);
        let mut location = |value: u64| -> Result<Option<Location>> {
            // 24 bits, of which 0 is none.
            let Some(number) = ((value / DATA_FILE_MAX) as u32).checked_sub(1) else {
                return Ok(None);
            };
            Ok(names.get(number)?.map(|name| (name, value % DATA_FILE_MAX)))
        };
        let found = values
            .into_iter()
            .map(|value| value.map_or(Ok(None), &mut location));
        found.collect()
    }

    /// Enters stored bytes that are in one file: their digests, and where.
    ///
    /// # Errors
    /// [`Error::NotARegularFile`], or [`Error::Io`], by a full disk for one: they are not found then.
    pub(crate) fn enter(
        &self,
        _changes: &ChangeLock<'_>,
        name: &DataFile,
        chunks: impl IntoIterator<Item = (Digest, u64)>,
    ) -> Result<()> {
        let Some(number) = lock(&self.names).number(name)? else {
            // So many files that there are no numbers left: they are not found.
            return Ok(());
        };
        let chunks = chunks.into_iter();
        self.put(
            Kind::Stored,
            chunks
                .map(|(digest, offset)| (key_of(&digest), value_of(number, offset)))
                .collect(),
        )
    }

    /// Whether there is no table of stored bytes, or no list of names to which it leads.
    ///
    /// # Errors
    /// As for [`Catalogue::find`].
    fn is_lost(&self) -> Result<bool> {
        let has_table = self
            .current(Kind::Stored, &mut lock(&self.stored))?
            .is_some();
        Ok(!has_table || !self.directory.has_file(layout::CATALOGUE_NAMES))
    }

    /// Looks for a chunk that was built here, by the key that it was entered with: all of that is compared.
    ///
    /// # Errors
    /// As for [`Catalogue::find`].
    pub(crate) fn find_built(&self, key: &Digest) -> Result<Option<BuiltChunk>> {
        let values = self.values(Kind::Content, &[key_of(key)])?;
        let Some(Some(value)) = values.first() else {
            return Ok(None);
        };
        let Some(record) = lock(&self.contents).get(value - 1)? else {
            return Ok(None);
        };
        if record.key != *key {
            return Ok(None);
        }
        Ok(match lock(&self.names).get(record.name)? {
            Some(DataFile::Pack(pack, index)) => Some(BuiltChunk {
                pack,
                index,
                chunk: record.chunk,
                content: record.content,
            }),
            _ => None,
        })
    }

    /// Enters chunks that were built here, each by a key.
    ///
    /// # Errors
    /// As for [`Catalogue::enter`].
    pub(crate) fn enter_built(
        &self,
        _changes: &ChangeLock<'_>,
        chunks: impl IntoIterator<Item = (Digest, BuiltChunk)>,
    ) -> Result<()> {
        let mut records = Vec::new();
        for (key, built) in chunks {
            let name = DataFile::Pack(built.pack, built.index);
            let Some(name) = lock(&self.names).number(&name)? else {
                return Ok(());
            };
            records.push(ContentRecord {
                key,
                content: built.content,
                name,
                chunk: built.chunk,
            });
        }
        let first = lock(&self.contents).append(&records)?;
        let entries = (first + 1..).zip(&records);
        let entries = entries.map(|(value, record)| (key_of(&record.key), value));
        self.put(Kind::Content, entries.collect())
    }

    /// The values of keys, in their order.
    fn values(&self, kind: Kind, keys: &[u64]) -> Result<Vec<Option<u64>>> {
        let mut sorted: Vec<(u64, usize)> = keys.iter().copied().zip(0..).collect();
        sorted.sort_unstable();
        let ordered: Vec<u64> = sorted.iter().map(|(key, _)| *key).collect();
        let mut values = vec![None; keys.len()];
        let mut open = lock(self.file(kind));
        if let Some(table) = self.current(kind, &mut open)? {
            let found = table.get_all(&ordered).map_err(self.failed(kind))?;
            for ((_, place), found) in sorted.into_iter().zip(found) {
                if let Some(value) = values.get_mut(place) {
                    *value = found;
                }
            }
        }
        Ok(values)
    }

    /// Makes the table large enough for so many more entries.
    fn make_room(&self, kind: Kind, more: u64) -> Result<()> {
        let mut open = lock(self.file(kind));
        self.with_room(kind, &mut open, more).map(|_| ())
    }

    fn put(&self, kind: Kind, mut entries: Vec<(u64, u64)>) -> Result<()> {
        entries.sort_unstable();
        entries.dedup_by_key(|(key, _)| *key);
        let mut open = lock(self.file(kind));
        let table = self.with_room(kind, &mut open, entries.len() as u64)?;
        table.put_all(&entries).map_err(self.failed(kind))
    }

    fn file(&self, kind: Kind) -> &Mutex<Option<HashFile>> {
        match kind {
            Kind::Stored => &self.stored,
            Kind::Content => &self.content,
        }
    }

    fn failed(&self, kind: Kind) -> impl FnOnce(io::Error) -> Error + use<'_> {
        self.directory.failed("read or write", path_of(kind))
    }

    /// The table that has the name; None if there is none.
    fn current<'a>(
        &self,
        kind: Kind,
        open: &'a mut Option<HashFile>,
    ) -> Result<Option<&'a mut HashFile>> {
        if let Some(table) = open {
            if table.is_replaced().map_err(self.failed(kind))? {
                *open = None;
            }
        }
        if open.is_none() {
            // Whoever can't write to the store can still find.
            let path = path_of(kind);
            let opened = self.directory.write(path);
            let file = opened.or_else(|_| self.directory.read(path))?;
            let table = file.map(HashFile::open).transpose();
            *open = table.map_err(self.failed(kind))?.flatten();
        }
        Ok(open.as_mut())
    }

    /// The table, made larger or made at all if need be.
    fn with_room<'a>(
        &self,
        kind: Kind,
        open: &'a mut Option<HashFile>,
        more: u64,
    ) -> Result<&'a mut HashFile> {
        self.current(kind, open)?;
        let table = match open.take() {
            Some(table) if !table.is_too_small_for(more) => table,
            old => {
                let entries = old.as_ref().map_or(0, HashFile::len).saturating_add(more);
                self.replace(kind, old.as_ref(), entries)
                    .map_err(self.failed(kind))?
            }
        };
        Ok(open.insert(table))
    }

    fn replace(&self, kind: Kind, old: Option<&HashFile>, entries: u64) -> io::Result<HashFile> {
        let temporary = TemporaryFile::create(&self.directory)?;
        let file: File = temporary.file().try_clone()?;
        let mut larger = HashFile::create(file, entries)?;
        if let Some(old) = old {
            old.copy_to(&mut larger)?;
        }
        temporary.persist(path_of(kind))?;
        if let Some(old) = old {
            old.give_up()?;
        }
        Ok(larger)
    }
}

fn path_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Stored => layout::CATALOGUE_STORED,
        Kind::Content => layout::CATALOGUE_CONTENT,
    }
}

/// The value that leads to an offset in the data file of this number.
fn value_of(number: u32, offset: u64) -> u64 {
    u64::from(number + 1) * DATA_FILE_MAX + offset % DATA_FILE_MAX
}

fn key_of(digest: &Digest) -> u64 {
    let Digest([a, b, c, d, e, f, g, h, ..]) = *digest;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests;
