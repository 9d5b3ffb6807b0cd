// SPDX-License-Identifier: GPL-2.0

//! A pack of the image: its file and index file once they are open, and what is there of it.
//!
//! Locking: `state` is a leaf, never held while anything is opened, read or waited for. It is taken in
//! page faults: whoever walks a path holds locks under which other tasks have page faults.
#![forbid(unsafe_code)]

use core::ops::Range;

use kernel::alloc::flags::GFP_KERNEL_ACCOUNT;
use kernel::fmt;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::{Arc, Mutex};
use peerfs_format::upcall::FETCH_CHUNKS_MAX;
use peerfs_format::PackRecord;

use super::presence::Presence;
use super::Hex;
use crate::rust::fs::{Directory, Found, OpenedFile};
use crate::rust::ratelimit::Reporter;

/// A pack of the image.
#[pin_data]
pub(super) struct Pack {
    /// Its index in the blob table.
    pub(super) number: u32,
    /// What the blob table says of it.
    pub(super) record: PackRecord,
    #[pin]
    state: Mutex<State>,
}

struct State {
    file: Option<OpenedFile>,
    presence: Presence,
    index_file: Option<OpenedFile>,
}

/// Where a chunk is.
pub(super) enum Place {
    /// In this file of a complete pack.
    Whole(OpenedFile),
    /// In this file of a partial pack.
    Partial(OpenedFile),
    /// Perhaps in this file: a daemon may have put it there without having been asked by this mount,
    /// or having been asked by readahead, which does not hear of it.
    Perhaps(OpenedFile),
    /// Not here.
    Missing,
}

impl Pack {
    pub(super) fn new(number: u32, record: PackRecord) -> Result<Arc<Self>> {
        let state = State {
            file: None,
            presence: Presence::nothing(&record)?,
            index_file: None,
        };
        Arc::pin_init(
            pin_init!(Pack {
                number,
                record,
                state <- new_mutex!(state, "peerfs pack"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Opens by path what the store has of the pack and is not open yet. What it lacks is no error. Says
    /// whether pack and index are open.
    pub(super) fn open(
        &self,
        store: &CString,
        log: &Reporter,
        directory: &Directory,
    ) -> Result<bool> {
        let (has_index, has_file) = {
            let state = self.state.lock();
            (state.index_file.is_some(), state.file.is_some())
        };
        if has_index && has_file {
            return Ok(true);
        }
        let index_file = match has_index {
            true => None,
            false => {
                let digest = Hex(&self.record.index_digest);
                open_if_usable(store, log, directory, fmt!("blobs/sha256/{digest}"))?
            }
        };
        let found = match has_file {
            true => None,
            false => self.find(store, log, directory)?,
        };

        // Another task may have been faster, and knows more by now.
        let mut state = self.state.lock();
        if state.index_file.is_none() {
            state.index_file = index_file;
        }
        if let (None, Some((file, presence))) = (&state.file, found) {
            state.file = Some(file);
            state.presence = presence;
        }
        Ok(state.index_file.is_some() && state.file.is_some())
    }

    /// The pack's file, whole or partial, and what is there of it.
    fn find(
        &self,
        store: &CString,
        log: &Reporter,
        directory: &Directory,
    ) -> Result<Option<(OpenedFile, Presence)>> {
        let digest = Hex(&self.record.digest);
        let open = |path: fmt::Arguments<'_>| open_if_usable(store, log, directory, path);
        if let Some(file) = open(fmt!("blobs/sha256/{digest}"))? {
            return Ok(Some((file, Presence::Whole)));
        }
        let index = Hex(&self.record.index_digest);
        let Some(file) = open(fmt!("partial/{digest}-{index}"))? else {
            return Ok(None);
        };
        let presence = match open(fmt!("partial/{digest}-{index}.map"))? {
            Some(map) => Presence::read(&self.record, &map)?,
            None => Presence::nothing(&self.record)?,
        };
        Ok(Some((file, presence)))
    }

    pub(super) fn index_file(&self) -> Option<OpenedFile> {
        self.state.lock().index_file.clone()
    }

    pub(super) fn set_index_file(&self, file: OpenedFile) {
        self.state.lock().index_file = Some(file);
    }

    /// Where a chunk is.
    pub(super) fn place(&self, chunk: u32) -> Place {
        let state = self.state.lock();
        match (&state.file, &state.presence) {
            (None, _) => Place::Missing,
            (Some(file), Presence::Whole) => Place::Whole(file.clone()),
            (Some(file), presence) if presence.has(chunk) => Place::Partial(file.clone()),
            (Some(file), _) => Place::Perhaps(file.clone()),
        }
    }

    /// Notes that a chunk is in the open file.
    pub(super) fn found(&self, chunk: u32) {
        self.state.lock().presence.set(chunk, true);
    }

    /// Whether the pack is here as a whole.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.state.lock().presence, Presence::Whole)
    }

    /// The first run of chunks in a range that are missing, as far as is known, or as many of it as one request
    /// asks for.
    pub(super) fn missing(&self, chunks: Range<u32>) -> Range<u32> {
        let state = self.state.lock();
        let chunks = chunks.start..chunks.end.min(self.record.chunk_count);
        let missing = match state.file {
            Some(_) => state.presence.missing(chunks, FETCH_CHUNKS_MAX),
            None => chunks,
        };
        let end = missing.start.saturating_add(FETCH_CHUNKS_MAX);
        missing.start..missing.end.min(end)
    }

    /// Notes that these chunks are in the store now, in `file` if it is given.
    pub(super) fn filled(&self, file: Option<OpenedFile>, first: u32, count: u32) -> Result {
        let mut state = self.state.lock();
        if let Some(file) = file {
            let same = state
                .file
                .as_ref()
                .is_some_and(|known| known.is_same_file(&file));
            if !same {
                state.presence = Presence::nothing(&self.record)?;
                state.file = Some(file);
            }
        }
        if state.file.is_none() {
            // Nothing may be opened by path here.
            return Err(EIO);
        }
        for chunk in first..first.saturating_add(count) {
            state.presence.set(chunk, true);
        }
        Ok(())
    }

    /// Notes that a chunk of a partial pack is not what the map said.
    pub(super) fn lost(&self, chunk: u32) {
        self.state.lock().presence.set(chunk, false);
    }
}

/// Opens a file of the store; `None` if it does not exist, or if what is in its place is not to be opened, which
/// is as good as nothing: peerfsd is asked for it.
fn open_if_usable(
    store: &CString,
    log: &Reporter,
    directory: &Directory,
    path: fmt::Arguments<'_>,
) -> Result<Option<OpenedFile>> {
    let path = CString::try_from_fmt(path)?;
    match directory.open_file(&path)? {
        Found::File(file) => Ok(Some(file)),
        Found::Nothing => Ok(None),
        Found::Unusable(why) => {
            log.report(fmt!(
                "{}: {}: {why}\n",
                store.to_str().unwrap_or("store"),
                path.to_str().unwrap_or("a pack")
            ));
            Ok(None)
        }
    }
}
