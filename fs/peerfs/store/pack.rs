// SPDX-License-Identifier: GPL-2.0

//! A pack of the image: its file and index file once they are open, or where else its chunks are.
//!
//! Locking: `state` is a leaf, never held while anything is opened, read, dropped or waited for. It is taken in
//! page faults: whoever walks a path holds locks under which other tasks have page faults.
#![forbid(unsafe_code)]

use core::ops::Range;
use core::{format_args, mem};

use kernel::alloc::flags::GFP_KERNEL_ACCOUNT;
use kernel::fmt;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::{Arc, Mutex, SetOnce};
use peerfs_format::upcall::FETCH_CHUNKS_MAX;
use peerfs_format::{ChunkRecord, DataFile, PackRecord};

use super::places::{DataFiles, Place, Places, PlacesTable, Slot, Slots};
use super::usage::PackUsage;
use super::{blob_path, Fetched, FetchedPlaces, Hex, Usage};
use crate::rust::fs::{Directory, ErrorName, Found, OpenedFile};
use crate::rust::ratelimit::Reporter;

/// Entries that are read again at once, at the most: 32 KiB.
const LOOK_MAX: u32 = 4096;

/// A pack of the image.
#[pin_data]
pub(super) struct Pack {
    /// Its index in the blob table.
    pub(super) number: u32,
    /// What the blob table says of it.
    pub(super) record: PackRecord,
    /// Where its readers note what they read, once its index was read.
    usage: SetOnce<PackUsage>,
    #[pin]
    state: Mutex<State>,
}

struct State {
    content: Content,
    index_file: Option<OpenedFile>,
}

/// Where a pack's chunks are.
enum Content {
    /// Nobody knows.
    Nothing,
    /// In this file, which is the pack.
    Whole(OpenedFile),
    /// Where a table says.
    Places(Places),
}

impl Pack {
    pub(super) fn new(number: u32, record: PackRecord) -> Result<Arc<Self>> {
        let state = State {
            content: Content::Nothing,
            index_file: None,
        };
        Arc::pin_init(
            pin_init!(Pack {
                number,
                record,
                usage: SetOnce::new(),
                state <- new_mutex!(state, "peerfs pack"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Opens by path what the store has of the pack and is not open yet. What it lacks is no error. Says
    /// whether index and whole pack are open: then there is nothing more to open.
    pub(super) fn open(&self, opener: &Opener<'_>) -> Result<bool> {
        let (has_index, known) = {
            let state = self.state.lock();
            let known = match &state.content {
                Content::Nothing => Known::Nothing,
                Content::Whole(_) => Known::Whole,
                Content::Places(places) => Known::Places(places.searched_table().cloned()),
            };
            (state.index_file.is_some(), known)
        };
        if !has_index {
            let path = blob_path(&self.record.index_digest)?;
            if let Some(file) = opener.open(&path)? {
                // Another task may have been faster: its file is as good.
                self.set_index_file(file);
            }
        }
        let had_places = matches!(known, Known::Places(_));
        let mut found = match known {
            Known::Whole => None,
            Known::Nothing => match self.find_whole(opener)? {
                None => self.find_places(opener)?,
                whole => whole,
            },
            Known::Places(Some(table)) if table.is_current().unwrap_or(false) => None,
            // If there is a whole pack, too, it turned out to be damaged.
            Known::Places(_) => match self.find_places(opener)? {
                None => self.find_whole(opener)?,
                places => places,
            },
        };
        let mut state = self.state.lock();
        if let Some(found) = &mut found {
            // Another task may have been faster, with what a daemon has answered.
            let is_as_before = match &state.content {
                Content::Nothing => true,
                Content::Places(_) => had_places,
                Content::Whole(_) => false,
            };
            if is_as_before {
                mem::swap(&mut state.content, found);
            }
        }
        let is_all = state.index_file.is_some() && matches!(state.content, Content::Whole(_));
        drop(state);
        drop(found);
        Ok(is_all)
    }

    fn find_whole(&self, opener: &Opener<'_>) -> Result<Option<Content>> {
        let file = opener.open(&blob_path(&self.record.digest)?)?;
        Ok(file.map(Content::Whole))
    }

    /// The pack's table of places, with all data files that are there. It is a hint: what cannot be opened or read is as
    /// good as nothing.
    fn find_places(&self, opener: &Opener<'_>) -> Result<Option<Content>> {
        let (pack, index) = (Hex(&self.record.digest), Hex(&self.record.index_digest));
        let path = CString::try_from_fmt(fmt!("places/{pack}-{index}"))?;
        let Some(file) = opener.open_hint(&path)? else {
            return Ok(None);
        };
        let found = self.read_places(file, opener);
        let found = opener.tolerate(&path, found.map(Some))?;
        if let Some(None) = found {
            opener.report(&path, format_args!("no table of places of this pack"));
        }
        Ok(found.flatten().map(Content::Places))
    }

    fn read_places(&self, file: OpenedFile, opener: &Opener<'_>) -> Result<Option<Places>> {
        let Some(table) = PlacesTable::open(file, &self.record)? else {
            return Ok(None);
        };
        let mut places = Places::read(table)?;
        let names = places.table().names()?;
        let mut slots = Slots::new();
        for (number, name) in names.iter().enumerate() {
            let Some(name) = name else {
                continue;
            };
            if let Some(file) = opener.open_data_file(name)? {
                let slot = Slot::new(*name, file, opener.data_files)?;
                slots.push((number, Some(slot)), GFP_KERNEL)?;
            }
        }
        places.exchange(&mut slots);
        places.searched();
        Ok(Some(places))
    }

    /// Has it noted here what is read of the pack. The index must be the right one, which says how many chunks there are.
    pub(super) fn note_use_in(&self, usage: &Arc<Usage>) {
        if self.usage.as_ref().is_none() {
            // It is a hint: without memory for it nothing is noted.
            let _ = usage
                .of_pack(&self.record)
                .map(|usage| self.usage.populate(usage));
        }
    }

    /// Notes that a chunk was read from the store, and is right.
    pub(super) fn note_use(&self, chunk: u32) {
        if let Some(usage) = self.usage.as_ref() {
            usage.note(chunk);
        }
    }

    pub(super) fn index_file(&self) -> Option<OpenedFile> {
        self.state.lock().index_file.clone()
    }

    pub(super) fn set_index_file(&self, file: OpenedFile) {
        let old = self.state.lock().index_file.replace(file);
        drop(old);
    }

    fn set_content(&self, content: Content) {
        let old = mem::replace(&mut self.state.lock().content, content);
        drop(old);
    }

    /// Where a chunk is, as far as is known; `None` if it is not here.
    pub(super) fn place(&self, chunk: u32, record: &ChunkRecord) -> Option<Place> {
        match &self.state.lock().content {
            Content::Nothing => None,
            Content::Whole(file) => Some(Place {
                file: file.clone(),
                offset: record.stored_offset.into(),
                is_of_whole: true,
            }),
            Content::Places(places) => places.find(chunk, record),
        }
    }

    /// Whether the pack is here as a whole.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.state.lock().content, Content::Whole(_))
    }

    /// The first run of chunks in a range that are missing, as far as is known, or as many of it as one request
    /// asks for.
    pub(super) fn missing(&self, chunks: Range<u32>) -> Range<u32> {
        let chunks = chunks.start..chunks.end.min(self.record.chunk_count);
        match &self.state.lock().content {
            Content::Nothing => {
                let end = chunks.start.saturating_add(FETCH_CHUNKS_MAX);
                chunks.start..chunks.end.min(end)
            }
            Content::Whole(_) => chunks.end..chunks.end,
            Content::Places(places) => places.missing(chunks, FETCH_CHUNKS_MAX),
        }
    }

    /// Reads again where chunks are that are missing in a range: somebody may have put them there without having been
    /// asked by this mount, or having been asked by readahead, which does not hear of it. Says whether there was
    /// anything to read.
    pub(super) fn look(&self, chunks: Range<u32>) -> Result<bool> {
        let first = self.missing(chunks.clone()).start;
        let end = chunks.end.min(self.record.chunk_count);
        let chunks = first..end.min(first.saturating_add(LOOK_MAX));
        let Some(table) = self.table().filter(|_| !chunks.is_empty()) else {
            return Ok(false);
        };
        let entries = table.entries(chunks.clone())?;
        self.change(&table, |places| places.learn(chunks.start, &entries));
        Ok(true)
    }

    /// Reads again where a chunk is that is not what it should be.
    pub(super) fn look_anew(&self, chunk: u32) -> Result {
        let Some(table) = self.table() else {
            return Ok(());
        };
        let entry = table.entries(chunk..chunk.saturating_add(1))?;
        let names = table.names()?;
        let closed = self.change(&table, |places| places.correct(chunk, &entry, &names));
        drop(closed);
        Ok(())
    }

    /// Takes the answer to a request for these chunks; says whether it is one.
    pub(super) fn take(
        &self,
        fetched: Fetched,
        chunks: Range<u32>,
        data_files: &Arc<DataFiles>,
    ) -> Result<bool> {
        let answer = match fetched {
            Fetched::Places(answer) => answer,
            Fetched::File(file) => {
                self.set_content(Content::Whole(file));
                return Ok(true);
            }
        };
        let FetchedPlaces { table, slots } = &*answer;
        let Some(table) = PlacesTable::open(table.clone(), &self.record)? else {
            return Ok(false);
        };
        let names = table.names()?;
        let mut given = Slots::new();
        for (number, file) in slots {
            let number = *number as usize;
            if let Some(name) = names.get(number).copied().flatten() {
                let slot = Slot::new(name, file.clone(), data_files)?;
                given.push((number, Some(slot)), GFP_KERNEL)?;
            }
        }
        let entries = table.entries(chunks.clone())?;
        let known = self.change(&table, |places| {
            places.exchange(&mut given);
            places.learn(chunks.start, &entries);
        });
        if known.is_none() {
            let mut places = Places::read(table)?;
            places.exchange(&mut given);
            self.set_content(Content::Places(places));
        }
        Ok(true)
    }

    fn table(&self) -> Option<PlacesTable> {
        match &self.state.lock().content {
            Content::Places(places) => Some(places.table().clone()),
            _ => None,
        }
    }

    /// Changes what is known of the places, unless they are not of this table any more. Drops nothing.
    fn change<T>(&self, table: &PlacesTable, change: impl FnOnce(&mut Places) -> T) -> Option<T> {
        match &mut self.state.lock().content {
            Content::Places(places) if places.table().is_same_file(table) => Some(change(places)),
            _ => None,
        }
    }
}

/// What is open of a pack.
enum Known {
    Nothing,
    Whole,
    /// The table, if all that it named was looked for.
    Places(Option<PlacesTable>),
}

/// What opens the files of a store, with the current credentials.
pub(super) struct Opener<'a> {
    /// The store's path, for messages.
    pub(super) store: &'a CString,
    pub(super) log: &'a Reporter,
    pub(super) directory: &'a Directory,
    pub(super) data_files: &'a Arc<DataFiles>,
}

impl Opener<'_> {
    /// Opens a file of the store; `None` if it does not exist, or if what is in its place is not to be opened, which
    /// is as good as nothing: peerfsd is asked for it.
    fn open(&self, path: &CString) -> Result<Option<OpenedFile>> {
        match self.directory.open_file(path)? {
            Found::File(file) => Ok(Some(file)),
            Found::Nothing => Ok(None),
            Found::Unusable(why) => {
                self.report(path, format_args!("{why}"));
                Ok(None)
            }
        }
    }

    /// As [`Opener::open`], of a file that one can do without.
    fn open_hint(&self, path: &CString) -> Result<Option<OpenedFile>> {
        self.tolerate(path, self.open(path))
    }

    /// The data file that a slot names.
    fn open_data_file(&self, file: &DataFile) -> Result<Option<OpenedFile>> {
        let (pack, index) = match file {
            DataFile::Loose(number) => {
                return self.open_hint(&CString::try_from_fmt(fmt!("loose/{number}"))?)
            }
            DataFile::Pack(pack, index) => (pack, index),
        };
        let partial = CString::try_from_fmt(fmt!("partial/{}-{}", Hex(pack), Hex(index)))?;
        match self.open_hint(&partial)? {
            None => self.open_hint(&blob_path(pack)?),
            partial => Ok(partial),
        }
    }

    /// Reports an error and makes nothing of it, unless what failed is to be tried again.
    fn tolerate<T>(&self, path: &CString, result: Result<Option<T>>) -> Result<Option<T>> {
        result.or_else(|error| {
            if error == EINTR || error == ENOMEM {
                return Err(error);
            }
            self.report(path, format_args!("{}", ErrorName(error)));
            Ok(None)
        })
    }

    fn report(&self, path: &CString, why: fmt::Arguments<'_>) {
        self.log.report(fmt!(
            "{}: {}: {why}\n",
            self.store.to_str().unwrap_or("store"),
            path.to_str().unwrap_or("a file")
        ));
    }
}
