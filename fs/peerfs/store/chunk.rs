// SPDX-License-Identifier: GPL-2.0

//! Reading chunks: where it is decided that bytes are right.
#![forbid(unsafe_code)]

use core::ops::Range;
use core::{fmt, format_args};

use kernel::prelude::*;
use kernel::sync::Arc;
use peerfs_format::upcall::ChunkData;
use peerfs_format::{ChunkPart, ChunkRecord};

use super::decode::{decode, NewBytes};
use super::pack::{Pack, Place};
use super::stored::StoredBytes;
use super::view::PackView;
use super::{ChunksRequest, Fetched, Hex, Origin, Store};
use crate::rust::crypto::sha256;
use crate::rust::fs::ErrorName;
use crate::rust::zstd::ZstdDecoder;

/// A verified and decoded chunk.
pub(crate) struct Chunk {
    /// Its bytes.
    pub(crate) bytes: KVVec<u8>,
}

/// How often a reader asks for a chunk: once because it is missing, once because what then was there
/// turned out to be wrong.
const FETCHES_MAX: usize = 2;

/// Requests that one readahead makes for what lies in one piece of a pack: enough for 16 MiB in chunks of 4 KiB,
/// whatever an image has.
const PREFETCHES_MAX: usize = 64;

impl<O: Origin> Store<O> {
    /// The chunk of a part. If it is missing, it is waited for, with the missing chunks after it whose numbers are
    /// below `beyond`.
    pub(crate) fn chunk(
        &self,
        view: &PackView,
        part: &ChunkPart,
        beyond: u32,
    ) -> Result<Arc<Chunk>> {
        let pack = &view.pack;
        let (first, record) = (part.number, &part.record);
        let mut again = false;
        for fetches in 0..=FETCHES_MAX {
            let place = pack.place(first);
            // Looking costs little beside a fetch. It is what makes everything that is here work
            // without a daemon, whoever put it here.
            if !(again && matches!(place, Place::Perhaps(_))) {
                if let Some(chunk) = self.decode_shared(pack, first, record)? {
                    return Ok(chunk);
                }
            }
            match place {
                // A daemon may have another file than a whole pack that is damaged.
                Place::Whole(_) | Place::Partial(_) => {
                    self.report_damaged(pack, first, "its digest differs");
                    pack.lost(first);
                    again = true;
                }
                Place::Perhaps(_) | Place::Missing => {}
            }
            if fetches == FETCHES_MAX {
                break;
            }
            let missing = pack.missing(first..beyond);
            let request = ChunksRequest {
                pack: &pack.record,
                manifest: self.manifest_digest,
                first,
                count: match missing.start == first {
                    true => missing.len().max(1) as u32,
                    false => 1,
                },
                again,
            };
            let is_whole = matches!(place, Place::Whole(_));
            if !is_whole {
                self.statistics.chunks.missed.count();
            }
            let fetched = match self.origin.fetch_chunks(&request) {
                Ok(fetched) => fetched,
                // Whoever is being killed does not miss anything any more.
                Err(missed) if Error::from(missed) == EINTR => return Err(EINTR),
                // It is not missing: what is wrong was told.
                Err(_) if is_whole => return Err(EIO),
                Err(missed) => {
                    self.report_of_chunk(pack, first, format_args!("{missed}"));
                    return Err(missed.into());
                }
            };
            match fetched {
                Fetched::Filled(file) => {
                    let filled = pack.filled(file, first, request.count);
                    filled.inspect_err(|error| self.report_unreadable(pack, first, *error))?;
                }
                Fetched::Data(data) => return self.take(view, first, request.count, &data),
            }
        }
        self.report_of_chunk(
            pack,
            first,
            format_args!("peerfsd says that it is in the store, and it is not"),
        );
        Err(EIO)
    }

    /// Asks for what is missing of `length` bytes from an offset of a pack's uncompressed address space on, and does
    /// not wait for it.
    pub(crate) fn prefetch(&self, view: &PackView, offset: u32, length: u64) -> Result {
        let Range { mut start, end } = self.numbers(view, offset, length)?;
        // What is beyond that is left to whoever comes to it.
        for _ in 0..PREFETCHES_MAX {
            let missing = view.pack.missing(start..end);
            if missing.is_empty() {
                break;
            }
            self.origin.prefetch_chunks(&ChunksRequest {
                pack: &view.pack.record,
                manifest: self.manifest_digest,
                first: missing.start,
                count: missing.len() as u32,
                again: false,
            });
            start = missing.end;
        }
        Ok(())
    }

    /// Stored bytes of a pack that have those of a chunk; `None` if it is not there, or not right.
    pub(super) fn verified(
        &self,
        pack: &Pack,
        place: &Place,
        record: &ChunkRecord,
    ) -> Result<Option<Arc<StoredBytes>>> {
        let range = stored_range(record);
        let is_right = |stored: &Arc<StoredBytes>| {
            let bytes = stored.get(range.clone());
            bytes.is_some_and(|bytes| sha256(bytes) == record.digest.0)
        };
        let stored = self.stored(pack, place, range.clone())?.filter(is_right);
        match (stored, place) {
            // What was read ahead may have been mended since.
            (None, Place::Whole(file)) => {
                let again = Arc::new(StoredBytes::read_new(file, range.clone())?, GFP_KERNEL)?;
                Ok(Some(again).filter(is_right))
            }
            (stored, _) => Ok(stored),
        }
    }

    /// Stored bytes of a pack; `None` if there are none.
    pub(super) fn stored(
        &self,
        pack: &Pack,
        place: &Place,
        range: Range<u32>,
    ) -> Result<Option<Arc<StoredBytes>>> {
        match place {
            Place::Missing => Ok(None),
            // What was read ahead is what was there then.
            Place::Partial(file) | Place::Perhaps(file) => {
                let bytes = StoredBytes::read_new(file, range)?;
                Ok(Some(Arc::new(bytes, GFP_KERNEL)?))
            }
            Place::Whole(file) => self
                .caches
                .segments
                .read(pack.number, file, range)
                .map(Some),
        }
    }

    /// Verifies and keeps the chunks of a `Data` reply, and returns the first one.
    fn take(&self, view: &PackView, first: u32, count: u32, data: &[u8]) -> Result<Arc<Chunk>> {
        let (pack, index) = (&view.pack, view.index());
        let mut wanted = None;
        for chunk in ChunkData::new(data) {
            let Ok((number, bytes)) = chunk else {
                break;
            };
            if number < first || number - first >= count {
                continue;
            }
            let record = index.chunk(number);
            let record = record.map_err(|error| self.refused_index(view, error))?;
            if bytes.len() != record.stored_length as usize || sha256(bytes) != record.digest.0 {
                self.report_damaged(pack, number, "peerfsd answered with other bytes");
                return Err(EIO);
            }
            let chunk = self
                .workers
                .with_decoder(|decoder| self.keep(pack, number, &record, bytes, decoder))?;
            if number == first {
                wanted = Some(chunk);
            }
        }
        wanted.ok_or_else(|| {
            self.report_damaged(pack, first, "peerfsd answered without it");
            EIO
        })
    }

    /// Decodes verified bytes, and keeps the chunk for the next reader.
    pub(super) fn keep(
        &self,
        pack: &Pack,
        number: u32,
        record: &ChunkRecord,
        stored: &[u8],
        decoder: &mut ZstdDecoder,
    ) -> Result<Arc<Chunk>> {
        let length = record.logical_length as usize;
        let bytes = decode(record, stored, decoder, NewBytes(length)).inspect_err(|error| {
            if *error == EIO {
                self.report_damaged(pack, number, "it cannot be decoded");
            }
        })?;
        self.statistics.chunks.verified.count();
        let chunk = Arc::new(Chunk { bytes }, GFP_KERNEL)?;
        self.caches
            .chunks
            .insert((pack.number, number), chunk.clone());
        Ok(chunk)
    }

    /// Says in the log that a chunk cannot be read from the store, if that is so.
    #[cold]
    pub(super) fn report_unreadable(&self, pack: &Pack, chunk: u32, error: Error) {
        if error != EINTR && error != ENOMEM {
            let name = ErrorName(error);
            self.report_of_chunk(pack, chunk, format_args!("cannot be read: {name}"));
        }
    }

    #[cold]
    fn report_damaged(&self, pack: &Pack, chunk: u32, what: &str) {
        self.statistics.chunks.damaged.count();
        self.report_of_chunk(pack, chunk, format_args!("damaged: {what}"));
    }

    #[cold]
    fn report_of_chunk(&self, pack: &Pack, chunk: u32, what: fmt::Arguments<'_>) {
        self.log.report(fmt!(
            "{}: pack {} chunk {chunk}: {what}\n",
            self.name.to_str().unwrap_or("store"),
            Hex(&pack.record.digest)
        ));
    }
}

/// Where a chunk is in its pack, as stored.
pub(super) fn stored_range(record: &ChunkRecord) -> Range<u32> {
    record.stored_offset..record.stored_offset.saturating_add(record.stored_length)
}
