// SPDX-License-Identifier: GPL-2.0

//! A pack with its index, found once for whoever goes through its chunks.
#![forbid(unsafe_code)]

use core::ops::Range;

use kernel::prelude::*;
use kernel::sync::Arc;
use peerfs_format::{ChunkPart, PackIndex};

use super::pack::Pack;
use super::{IndexBlob, Origin, Store};

/// A pack of the image, and its index.
#[derive(Clone)]
pub(crate) struct PackView {
    pub(super) pack: Arc<Pack>,
    index: Arc<IndexBlob>,
}

impl PackView {
    /// The pack's index.
    pub(super) fn index(&self) -> PackIndex<'_> {
        self.index.view()
    }
}

impl<O: Origin> Store<O> {
    /// A pack and its index, which is fetched if need be. No path is walked.
    pub(crate) fn view(&self, number: u32) -> Result<PackView> {
        self.view_of(self.pack(number)?)
    }

    /// As [`Store::view`], of a pack that was found.
    pub(super) fn view_of(&self, pack: Arc<Pack>) -> Result<PackView> {
        let index = self.index(&pack)?;
        Ok(PackView { pack, index })
    }

    /// As [`Store::view_of`], but EAGAIN if the index would have to be fetched.
    fn view_if_here(&self, pack: Arc<Pack>) -> Result<PackView> {
        let index = self.index_if_here(&pack)?;
        Ok(PackView { pack, index })
    }

    /// Divides `length` bytes from an offset of a pack's uncompressed address space on into parts of chunks. What is
    /// not in the pack is refused.
    pub(crate) fn parts<'a>(
        &'a self,
        view: &'a PackView,
        offset: u32,
        length: u64,
    ) -> impl Iterator<Item = Result<ChunkPart>> + 'a {
        let parts = view.index().parts(offset, length);
        parts.map(|part| part.map_err(|error| self.refused_index(view, error)))
    }

    /// The numbers of the chunks that a range of a pack's uncompressed address space lies in.
    pub(crate) fn numbers(&self, view: &PackView, offset: u32, length: u64) -> Result<Range<u32>> {
        let end = u32::try_from(u64::from(offset).saturating_add(length)).unwrap_or(u32::MAX);
        let numbers = view.index().numbers(offset..end);
        numbers.map_err(|error| self.refused_index(view, error))
    }

    /// Says in the log what is wrong with a pack's index.
    #[cold]
    pub(super) fn refused_index(&self, view: &PackView, error: peerfs_format::Error) -> Error {
        self.refused(&view.pack.record.index_digest, error)
    }
}

/// The packs that a walk through a file comes to. The last one is kept: most files are in one.
pub(crate) struct Views<'a, O: Origin> {
    store: &'a Store<O>,
    last: Option<PackView>,
}

impl<'a, O: Origin> Views<'a, O> {
    /// None yet.
    pub(crate) fn new(store: &'a Store<O>) -> Self {
        Views { store, last: None }
    }

    /// The pack of this number and its index; EAGAIN if that would have to be fetched.
    pub(crate) fn get(&mut self, number: u32) -> Result<&PackView> {
        let view = match self.last.take() {
            Some(view) if view.pack.number == number => view,
            _ => self.store.view_if_here(self.store.pack(number)?)?,
        };
        Ok(self.last.insert(view))
    }

    /// As [`Views::get`], unless all of the pack is here: `None`.
    pub(crate) fn get_partial(&mut self, number: u32) -> Result<Option<&PackView>> {
        let known = self.last.as_ref().filter(|view| view.pack.number == number);
        let is_whole = match known {
            Some(view) => view.pack.is_whole(),
            None => self.store.pack(number)?.is_whole(),
        };
        match is_whole {
            true => Ok(None),
            false => self.get(number).map(Some),
        }
    }

    /// The range of the chunk at an offset of a pack's uncompressed address space, if that can be said without
    /// fetching anything.
    pub(crate) fn chunk_range(&mut self, number: u32, offset: u32) -> Option<Range<u32>> {
        let view = self.get(number).ok()?;
        let (_, record) = view.index().chunk_at(offset).ok()?;
        let end = record.logical_offset.checked_add(record.logical_length)?;
        Some(record.logical_offset..end)
    }
}
